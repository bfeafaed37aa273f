"""What a search may be asked for, in token ids, and the error of asking for what cannot be found.

Knows nothing about tensors and captioners.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class SearchError(ValueError):
    """A search that cannot be made; the message says what would work."""


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
            (self.do_sample and self.num_beams > 1, "sampling takes `num_beams=1`, but it is {num_beams}"),
            (
                self.num_return_sequences > self.captions,
                "{num_return_sequences} captions need as many beams or `do_sample`",
            ),
            (
                self.num_beams % self.num_beam_groups,
                "`num_beams` {num_beams} is no multiple of {num_beam_groups} groups",
            ),
            (
                forced and self.num_beam_groups > 1,
                "forced words take one group of beams, but there are {num_beam_groups}",
            ),
            (forced and self.do_sample, "forced words take beams; leave out `do_sample`"),
            (forced > self.max_new_tokens, f"the forced words have {forced} tokens; raise `max_new_tokens`"),
            (self.max_new_tokens < 1, "`max_new_tokens` must be at least 1, but is {max_new_tokens}"),
        ):
            if wrong:
                raise SearchError(message.format(**vars(self)))

    @property
    def captions(self) -> int:
        """K: beams or samples of an image."""
        return self.num_return_sequences if self.do_sample else self.num_beams

    @property
    def strategy(self) -> str:
        """The key of `STRATEGIES`."""
        if self.do_sample:
            return "sample"
        if self.force_words_ids:
            return "forced"
        return "beam" if self.num_beams > 1 else "greedy"
