"""An evaluation captions every sample, with any modality hidden, and scores what was said."""

import pytest
from runs import settings

from captioner import load
from captioner.evaluation import evaluate, exact_match
from captioner.scenes import Scenes
from captioner.training import train


def test_an_evaluation_can_hide_either_modality(tmp_path):
    train(settings(tmp_path, "training.max_steps=1"))
    model, processor = load(tmp_path / "last")
    generation, scenes = settings(tmp_path).generation, Scenes("test", [1, 2], 6)
    results = [evaluate(model, processor, scenes, generation, hidden=name) for name in (None, "image", "context")]
    for result in results:
        assert [record["id"] for record in result.records] == [f"test-{i}" for i in range(6)]
        assert set(result.scores) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d", "exact_match"}
    with pytest.raises(ValueError, match="cannot hide 'sound': this captioner takes"):
        evaluate(model, processor, scenes, generation, hidden="sound")
    both = evaluate(model, processor, scenes, generation, hidden=["image", "context"])
    assert len({record["caption"] for record in both.records}) == 1  # nothing tells the samples apart


def test_exact_match_is_the_share_of_captions_among_their_references():
    assert exact_match(["A  dog", "a cat", "a cow"], [["a dog"], ["a bird", "a cat"], ["a horse"]]) == 2 / 3
