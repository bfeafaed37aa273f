"""From the settings of a search, which a person writes in words, to the same search in a captioner's token ids."""

from ..base import GenerationSettings
from ..model import Captioner, CaptionerProcessor
from .options import SearchError, SearchOptions

IN_WORDS = {"bad_words", "force_words"}  # the settings that name words


def search_options(settings: GenerationSettings, model: Captioner, processor: CaptionerProcessor) -> SearchOptions:
    """What the settings say, in the ids of the processor and within the positions that the decoder has.

    Raises:
        SearchError: settings that do not go together, or a word that the vocabulary cannot write.
    """
    most = model.config.decoder.max_positions - 1
    fitted = settings.model_copy(update={"max_new_tokens": min(settings.max_new_tokens, most)})
    return SearchOptions(
        **fitted.model_dump(exclude=IN_WORDS),
        bad_words_ids=[ids for word in settings.bad_words for ids in _spellings(word, processor)],
        force_words_ids=[_spellings(word, processor)[0] for word in settings.force_words],
    )


def _spellings(word: str, processor: CaptionerProcessor) -> list[list[int]]:
    """Ids of a word inside a caption, and those at its start where the tokenizer tells the two apart."""
    tokenizer = processor.tokenizer
    spellings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {word.strip()}", word.strip())]
    if not spellings[0] or tokenizer.unk_token_id in spellings[0]:
        raise SearchError(
            f"the captioner's vocabulary cannot write {word!r}, so it can neither be forbidden nor forced"
        )
    return spellings[:1] if spellings[0] == spellings[1] else spellings
