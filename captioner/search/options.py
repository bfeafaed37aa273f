"""What a search may be asked for, in token ids, and the error of asking for what cannot be found.

Knows nothing about tensors and captioners.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..base import RULES, contradiction


class SearchError(ValueError):
    """A search that cannot be made; the message says what would work."""


def _at_least(name: str, least: int) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value >= least), f"`{name}` must be at least {least}"


def _above_zero(name: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: 0 < value < math.inf), f"`{name}` must be a number above 0"


# Option → whether a value can be used, and what it must be.
RANGES = {
    **{name: _at_least(name, 1) for name in ("num_beams", "num_return_sequences", "max_new_tokens", "num_beam_groups")},
    **{name: _at_least(name, 0) for name in ("min_new_tokens", "no_repeat_ngram_size", "top_k")},
    **{name: _above_zero(name) for name in ("repetition_penalty", "temperature")},
    "length_penalty": (math.isfinite, "`length_penalty` must be a finite number"),
    "diversity_penalty": (lambda value: 0 <= value < math.inf, "`diversity_penalty` must be a number from 0 on"),
    "top_p": (lambda value: 0 < value <= 1, "`top_p` must be above 0 and at most 1"),
    "early_stopping": (
        lambda value: value in (True, False, "never"),
        "`early_stopping` must be True, False or 'never'",
    ),
    "bad_words_ids": (all, "`bad_words_ids` must hold no empty sequence"),
    "force_words_ids": (all, "`force_words_ids` must hold no empty sequence"),
}


@dataclass(frozen=True)
class SearchOptions:
    """What to search for. Names, meanings and defaults are those of transformers' `GenerationConfig`.

    Args:
        num_beams: K; 1 is greedy search.
        num_return_sequences: captions per image: of the best beams, or samples.
        length_penalty: a finished caption scores the sum of its log-probabilities over length**length_penalty.
        early_stopping: True, False or "never", as there.
        bad_words_ids: sequences of ids that may not come.
        force_words_ids: sequences of ids that must come, all of them (needs beams).
        num_beam_groups: groups of beams, one after the other; each is kept from what the ones before it say.
        diversity_penalty: log-probability that a word loses per beam of an earlier group that takes it now.
        do_sample: draw words, in `num_return_sequences` captions that know nothing of each other.
        eos_token_id: ids that end a caption; None: those of the model's `generation_config`, (): none.
        suppress_tokens: ids that are never said, but in `force_words_ids`; None: those of the model's
            `generation_config`, (): none.
    """

    num_beams: int = 1
    num_return_sequences: int = 1
    max_new_tokens: int = 20
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    bad_words_ids: Sequence[Sequence[int]] = ()
    force_words_ids: Sequence[Sequence[int]] = ()
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    eos_token_id: Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = None

    def __post_init__(self) -> None:
        forced = sum(map(len, self.force_words_ids))
        for wrong, message in (
            *((not fits(getattr(self, name)), f"{text}, but is {{{name}}}") for name, (fits, text) in RANGES.items()),
            (
                forced and self.num_beam_groups > 1,
                "forced words take one group of beams, but there are {num_beam_groups}",
            ),
            (forced and self.do_sample, "forced words take beams; leave out `do_sample`"),
            (forced > self.max_new_tokens, f"the forced words have {forced} tokens; raise `max_new_tokens`"),
        ):
            if wrong:
                raise SearchError(message.format(**vars(self)))
        wrong = contradiction(self, RULES)
        if wrong is not None:
            raise SearchError(wrong)

    @property
    def captions(self) -> int:
        """K: beams or samples of an image."""
        return self.num_return_sequences if self.do_sample else self.num_beams

    @property
    def ids(self) -> dict[str, list[int]]:
        """Every token that an option names, by option."""
        rows = {"bad_words_ids": self.bad_words_ids, "force_words_ids": self.force_words_ids}
        flat = {"eos_token_id": self.eos_token_id or (), "suppress_tokens": self.suppress_tokens or ()}
        return {name: [token for row in ids for token in row] for name, ids in rows.items()} | flat

    @property
    def strategy(self) -> str:
        """The key of `STRATEGIES`."""
        if self.do_sample:
            return "sample"
        if self.force_words_ids:
            return "forced"
        return "beam" if self.num_beams > 1 else "greedy"
