"""Words that a captioner's vocabulary cannot write: counted before a training that would learn `<unk>` in their place.

Knows tokenizers and texts; knows nothing about models or runs.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ..base import say, some
from ..model import PLAIN_TEXT, CaptionerProcessor
from .vocabulary import VocabularyError

SUSPICIOUS, REFUSED = 0.05, 0.5  # shares of tokens
READ_OF_STREAM = 1000  # samples of a split whose number nobody knows
OTHER_WORDS = (
    "start from a captioner whose vocabulary has them, or train a new decoder with a tokenizer of its own "
    "(`data.tokenizer`: kind bpe spells any word; kind word wants a lower `min_frequency` or a higher `vocab_size`)"
)


class Unknown(NamedTuple):
    """What a tokenizer cannot write of some texts: the share of their tokens, and the words, most frequent first."""

    share: float
    words: list[str]


def find_unknown(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Unknown:
    """Count the tokens that stand for what a tokenizer does not know, and letters that it drops without one."""
    counts = Counter(word for text in texts for word in text.split())
    words = list(counts)
    encoded = tokenizer(words, return_offsets_mapping=tokenizer.is_fast, **PLAIN_TEXT) if words else {"input_ids": []}
    places = encoded.get("offset_mapping") or [None] * len(words)
    tokens, unknown, found = 0, 0, []
    for word, ids, spans in zip(words, encoded["input_ids"], places, strict=True):
        dropped = 0 if spans is None else _dropped(word, spans)
        lost = ids.count(tokenizer.unk_token_id) + dropped
        tokens += counts[word] * (len(ids) + dropped)
        unknown += counts[word] * lost
        if lost:
            found.append(word)
    return Unknown(unknown / max(tokens, 1), sorted(found, key=counts.__getitem__, reverse=True))


def _dropped(word: str, spans: Sequence[tuple[int, int]]) -> int:
    """Runs of letters that no token stands for; `spans` are the places of the tokens."""
    covered = {place for start, end in spans for place in range(start, end)}
    letters = [letter.isalnum() and place not in covered for place, letter in enumerate(word)]
    return sum(lost for lost, _ in groupby(letters))


def check_words(processor: CaptionerProcessor, samples: Iterable[dict[str, Any]], reads: bool = True) -> None:
    """Say on the terminal which words of a split the vocabulary lacks, where they are many.

    Args:
        samples: rows with `captions` and `context`; of a stream the first ones are read.
        reads: whether contexts count.

    Raises:
        VocabularyError: more than half of what the captions say cannot be written.
    """
    rows = list(samples if hasattr(samples, "__len__") else islice(samples, READ_OF_STREAM))
    captions = find_unknown(processor.tokenizer, (text for row in rows for text in row["captions"]))
    if captions.share > REFUSED:
        raise VocabularyError(f"{_told(captions, 'captions')}, so there is nothing to learn; {OTHER_WORDS}")
    if captions.share > SUSPICIOUS:
        say(f"warning: {_told(captions, 'captions')}, and learns <unk> in their place; {OTHER_WORDS}")
    if reads:
        own = processor.context_tokenizer or processor.tokenizer
        contexts = find_unknown(own, (row["context"] for row in rows if row["context"]))
        if contexts.share > SUSPICIOUS:
            say(f"warning: {_told(contexts, 'contexts')}, and reads <unk> in their place")


def _told(unknown: Unknown, where: str) -> str:
    words = f"{len(unknown.words)} words such as {some(map(repr, unknown.words[:3]))}"
    return f"the vocabulary of this captioner lacks {unknown.share:.0%} of the tokens of the {where} ({words})"
