"""Tokenizers trained on the captions and contexts at hand. Knows nothing about images or models."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
JOINT = "￭"  # in a token where it joins its neighbour without a space
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"  # scripts without spaces
JOINTS = Regex(
    rf"(?<=\w)(?=[^\w\s])|(?<=[^\w\s])(?=\w)|(?<=[{UNSPACED}])(?=\w)|(?<=\w)(?=[{UNSPACED}])"
)  # places between a word and a mark, and beside the letters of these scripts
PIECES = Regex(rf"{JOINT}?[{UNSPACED}]|{JOINT}?[\w&&[^{UNSPACED}]]+|{JOINT}?[^\w\s{JOINT}]+{JOINT}?")


class VocabularyError(ValueError):
    """A vocabulary that cannot be trained, or cannot write the captions at hand; the message says what to change."""


def train_tokenizer(
    texts: Iterable[str],
    kind: str = "bpe",
    vocab_size: int = 8000,
    min_frequency: int = 2,
    lowercase: bool = True,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on captions and contexts; ids 0 to 3 are `<pad>`, `<bos>`, `<eos>`, `<unk>`.

    It adds none of them by itself. Text is brought to Unicode's NFC.

    Args:
        texts: read once.
        kind: a key of `TOKENIZER_KINDS`.
        vocab_size: tokens at most, special ones included.
        min_frequency: occurrences from which a word or a merge counts.
        lowercase: fold case.

    Raises:
        VocabularyError: an unknown kind, or a vocabulary too small for it.
    """
    if kind not in TOKENIZER_KINDS:
        raise VocabularyError(f"`kind` must be one of {', '.join(TOKENIZER_KINDS)}, but is {kind!r}")
    special = list(SPECIAL_TOKENS.values())
    options = {"vocab_size": vocab_size, "min_frequency": min_frequency, "special_tokens": special}
    tokenizer, trainer = TOKENIZER_KINDS[kind](options | {"show_progress": False})
    folding = [normalizers.Lowercase()] if lowercase else []
    own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *folding, normalizers.NFC(), *own])
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **SPECIAL_TOKENS)


def _byte_level_bpe(options: dict[str, Any]) -> tuple[Tokenizer, trainers.Trainer]:
    """Merges of bytes: spells any text."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _need(options["vocab_size"], len(SPECIAL_TOKENS) + len(alphabet), "all bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(initial_alphabet=alphabet, **options)


def _words(options: dict[str, Any]) -> tuple[Tokenizer, trainers.Trainer]:
    """Whole words and runs of marks, anything else `<unk>`; in scripts without spaces every letter is a word.

    Marks say on which side they join a word, so that "a man's dog, isn't it" comes back as it was, with single spaces.
    """
    _need(options["vocab_size"], len(SPECIAL_TOKENS) + 1, "a word")
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(JOINT, ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Replace(JOINTS, JOINT),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(PIECES, "isolated")]
    )
    spaced = decoders.WordPiece(
        prefix=JOINT, cleanup=False
    )  # a space before each token that does not begin with a joint
    joined = [decoders.Replace(f"{JOINT} ", ""), decoders.Replace(JOINT, "")]
    tokenizer.decoder = decoders.Sequence([spaced, decoders.Fuse(), *joined])
    return tokenizer, trainers.WordLevelTrainer(**options)


def _need(vocab_size: int, least: int, content: str) -> None:
    if vocab_size < least:
        raise VocabularyError(
            f"`vocab_size` must be at least {least} to hold special tokens and {content}, but is {vocab_size}"
        )


TOKENIZER_KINDS = {"bpe": _byte_level_bpe, "word": _words}
MODELS = {"BPE": "bpe", "WordLevel": "word"}  # of the tokenizers library → kind


def disagreement(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Which options of `train_tokenizer` cannot have made a tokenizer, each with what it has instead.

    `min_frequency` leaves no trace.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield from ((key, "another tokenizer") for key in options)
        return
    kind = MODELS.get(type(backend.model).__name__, "another kind")
    if options.get("kind", kind) != kind:
        yield "kind", repr(kind)
    if len(tokenizer) > options.get("vocab_size", len(tokenizer)):
        yield "vocab_size", len(tokenizer)
    folds = "Lowercase" in str(backend.normalizer)
    if options.get("lowercase", folds) != folds:
        yield "lowercase", folds
