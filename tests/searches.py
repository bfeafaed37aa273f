"""Searches that several test files run, and what `generate` finds in their place."""

import pytest
import torch
from conftest import MODES_AND_NORMS
from conftest import tiny_captioner as tied_captioner

from captioner.model import MODES
from captioner.search import SearchOptions, search

EOS = 2
SEARCHES = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "several beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.3},
    "early": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True, "length_penalty": 2.0},
    "never early": {"num_beams": 3, "early_stopping": "never", "min_new_tokens": 3},
    "no repeats": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
    "forbidden": {"num_beams": 2, "bad_words_ids": [[7], [4, 5], [6, 8, 9]]},
    "several ends": {"num_beams": 4, "num_return_sequences": 4, "eos_token_id": [2, 5, 9]},
    "greedy, forbidden": {"bad_words_ids": [[7], [4, 5]], "min_new_tokens": 2, "repetition_penalty": 1.3},
}
ALONE = {  # what has no reference in `generate`
    "diverse": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7, "num_return_sequences": 5},
    "forced": {"num_beams": 4, "num_return_sequences": 2, "force_words_ids": [[7, 9], [5]]},
    "sampling": {"do_sample": True, "num_return_sequences": 4, "top_k": 12, "top_p": 0.95, "temperature": 1.4},
}
quiet = pytest.mark.filterwarnings("ignore:Unfeasible length", "ignore:Using the model-agnostic", "ignore:flex_att")
every_mode = pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
every_mode_once = pytest.mark.parametrize("mode", MODES, ids=str)


def tiny_captioner(*mode, seed=0, **decoder):
    """With a vocabulary head of its own: a tied one mostly repeats the last word."""
    decoder = {"tie_word_embeddings": False, "initializer_range": 0.3} | decoder
    return tied_captioner(*mode, decoder=decoder, seed=seed)


def until_end(row, ends=(EOS,)):
    """Ids up to and including the first end token."""
    at = [i for i, token in enumerate(row) if token in ends]
    return row[: at[0] + 1] if at else row


def reference(model, memory, prompt=None, prompt_length=1, **options):
    """Ids and scores (None for greedy) of `generate`."""
    if options.get("num_beams", 1) > 1:
        options["output_scores"] = True
    if prompt is not None:
        options["decoder_input_ids"] = prompt
    out = model.generate(encoder_outputs=memory, return_dict_in_generate=True, **options)
    ends = options.get("eos_token_id", [EOS])
    ids = [until_end(row[prompt_length:], ends) for row in out.sequences.tolist()]
    return ids, getattr(out, "sequences_scores", None)


def flat(found):
    """Ids of all captions, and their scores."""
    return [one.ids for image in found for one in image], torch.tensor([one.score for image in found for one in image])


def assert_equal_to_generate(model, memory, **options):
    expected, scores = reference(model, memory, **options)
    ids, own_scores = flat(search(model, memory, SearchOptions(**options)))
    assert ids == expected
    if scores is not None:
        torch.testing.assert_close(own_scores, scores, rtol=1e-4, atol=1e-4)


def log_probability(model, memory, row):
    """Sum of a caption's log-probabilities, by one pass over all of it."""
    ids = torch.tensor([[1, *row]])
    words = model.decode(ids[:, :-1], memory).logits.log_softmax(-1)
    return words.gather(-1, ids[:, 1:, None]).sum().item()
