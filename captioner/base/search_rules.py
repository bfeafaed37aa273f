"""Which options of a search go together: the settings of a run and the options of a search are held to the same rules.

Works on anything with the options as attributes. Knows nothing about token ids and captioners.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

DRAWING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}  # what shapes a distribution that words are drawn from


class Rule(NamedTuple):
    """Options that contradict each other: when, and what to say; fields in braces are their values."""

    broken: Callable[[Any], bool]
    message: str


RULES = [
    Rule(lambda own: own.do_sample and own.num_beams > 1, "sampling takes `num_beams=1`, but it is {num_beams}"),
    Rule(
        lambda own: not own.do_sample and own.num_return_sequences > own.num_beams,
        "{num_return_sequences} captions (`num_return_sequences`) need as many beams, but `num_beams` is {num_beams}; "
        "raise it, or set `do_sample`",
    ),
    Rule(
        lambda own: own.num_beams % own.num_beam_groups != 0,
        "`num_beams` {num_beams} is no multiple of {num_beam_groups} groups (`num_beam_groups`)",
    ),
    Rule(
        lambda own: own.diversity_penalty != 0 and own.num_beam_groups == 1,
        "`diversity_penalty` {diversity_penalty} acts between groups of beams, but there is one; set `num_beam_groups` "
        "to 2 or more, or leave it out",
    ),
    Rule(
        lambda own: own.min_new_tokens > own.max_new_tokens,
        "`min_new_tokens` {min_new_tokens} is more than `max_new_tokens` {max_new_tokens}; lower the one or raise the "
        "other",
    ),
    *(
        Rule(
            lambda own, name=name, plain=plain: not own.do_sample and getattr(own, name) != plain,
            f"`{name}` {{{name}}} is of words that are drawn, but they are searched; set `do_sample`, or leave it out",
        )
        for name, plain in DRAWING.items()
    ),
]
FOR_SETTINGS = [
    Rule(
        lambda own: own.num_beam_groups > 1 and own.diversity_penalty == 0,
        "{num_beam_groups} groups of beams (`num_beam_groups`) find the same captions without `diversity_penalty`; set "
        "it above 0, or leave the groups out",
    ),
    Rule(
        lambda own: own.no_repeat_ngram_size > own.max_new_tokens,
        "`no_repeat_ngram_size` {no_repeat_ngram_size} is more than `max_new_tokens` {max_new_tokens}, so nothing "
        "could come twice; lower it",
    ),
    Rule(
        lambda own: bool(own.force_words) and own.do_sample,
        "`force_words` takes beams, but words are drawn; leave one out",
    ),
    Rule(
        lambda own: bool(own.force_words) and own.num_beam_groups > 1,
        "`force_words` takes one group of beams, but `num_beam_groups` is {num_beam_groups}; leave one out",
    ),
    Rule(
        lambda own: len({*map(_folded, own.force_words)}) < len(own.force_words),
        "`force_words` {force_words} names a word twice, but one that has come once has come; name it once",
    ),
    Rule(
        lambda own: not all(word.strip() for word in [*own.force_words, *own.bad_words]),
        "`force_words` and `bad_words` take words, but one is blank; leave it out",
    ),
]
OF_BEAMS = {"length_penalty": 1.0, "early_stopping": False}  # what compares beams


def contradiction(options: Any, rules: list[Rule]) -> str | None:
    """The first of the rules that the options break, in words; None: they go together."""
    broken = (rule.message.format(**vars(options)) for rule in rules if rule.broken(options))
    return next(broken, None)


def idle(options: Any) -> list[str]:
    """Options that are set but change no caption of this search; they may stand in settings for other searches."""
    if options.num_beams > 1 or getattr(options, "force_words", None):
        return []
    return [name for name, plain in OF_BEAMS.items() if getattr(options, name) != plain]


def _folded(word: str) -> str:
    return " ".join(word.casefold().split())
