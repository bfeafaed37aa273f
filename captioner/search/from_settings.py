"""From the settings of a search, which a person writes in words, to the same search in a captioner's token ids."""

import warnings

from ..base import GenerationSettings, idle
from ..model import Captioner, CaptionerProcessor
from .options import SearchError, SearchOptions

IN_WORDS = {"bad_words", "force_words"}  # the settings that name words


def search_options(settings: GenerationSettings, model: Captioner, processor: CaptionerProcessor) -> SearchOptions:
    """What the settings say, in the ids of the processor and within the positions that the decoder has.

    Raises:
        SearchError: settings that do not go together, or a word that the vocabulary cannot write.
    """
    for name in idle(settings):
        warnings.warn(f"`{name}` compares beams, but there is one: it changes no caption of this search", stacklevel=2)
    fitted = settings.model_copy(update={"max_new_tokens": _length(settings, model.config.decoder.max_positions - 1)})
    return SearchOptions(
        **fitted.model_dump(exclude=IN_WORDS),
        bad_words_ids=[ids for word in settings.bad_words for ids in _spellings(word, processor)],
        force_words_ids=[_spellings(word, processor)[0] for word in settings.force_words],
    )


def _length(settings: GenerationSettings, most: int) -> int:
    """Tokens of a caption at most; where nobody has said how many, what the decoder has positions for."""
    asked = settings.max_new_tokens
    if asked > most and asked != GenerationSettings.model_fields["max_new_tokens"].default:
        raise SearchError(
            f"`max_new_tokens` {asked} is more than the decoder has positions for; lower it to {most} (`max_positions` "
            "less the start token)"
        )
    if settings.min_new_tokens > most:
        raise SearchError(
            f"`min_new_tokens` {settings.min_new_tokens} is more than the decoder can say; lower it to {most}"
        )
    return min(asked, most)


def _spellings(word: str, processor: CaptionerProcessor) -> list[list[int]]:
    """Ids of a word inside a caption, and those at its start where the tokenizer tells the two apart."""
    tokenizer = processor.tokenizer
    texts = (f" {word.strip()}", word.strip())
    spellings = [tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in texts]
    if not all(spellings) or any(tokenizer.unk_token_id in ids for ids in spellings):
        raise SearchError(
            f"the captioner's vocabulary cannot write {word!r}, so it can neither be forbidden nor forced"
        )
    return spellings[:1] if spellings[0] == spellings[1] else spellings
