"""The captioners inside the package: small, safe, and as good as benchmarks/scenes.md says."""

import pytest

from captioner.adopt import AdoptError, load, shipped_names
from captioner.adopt.locating import SHIPPED
from captioner.base import GenerationSettings
from captioner.evaluation import EvaluationOptions, evaluate
from captioner.scenes import Scenes

RECORDED = {  # exact match on the test split, 500 scenes of each level: benchmarks/scenes.md
    "scenes-concatenated": {1: 0.998, 2: 0.954, 3: 0.956},
    "scenes-separate": {1: 1.0, 2: 0.984, 3: 0.988},
}


def test_both_ship_as_safetensors_within_4_megabytes():
    assert shipped_names() == sorted(RECORDED)
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4e6
    assert {file.suffix for file in files} == {".json", ".safetensors"}


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_scores_are_reproduced(name, level):
    """To one scene in 500: a different processor may round a tie the other way."""
    greedy = GenerationSettings(num_beams=1, max_new_tokens=20)
    result = evaluate(*load(name), Scenes("test", [level], 500), greedy, EvaluationOptions(batch_size=100))
    assert result.scores["exact_match"] == pytest.approx(RECORDED[name][level], abs=0.0021)


@pytest.mark.parametrize("hidden", ["image", "context"])
@pytest.mark.parametrize("name", RECORDED)
def test_one_modality_alone_is_not_enough(name, hidden):
    greedy = GenerationSettings(num_beams=1, max_new_tokens=20)
    result = evaluate(*load(name), Scenes("test", [3], 100), greedy, EvaluationOptions(batch_size=100), hidden=hidden)
    assert result.scores["exact_match"] <= 0.3


def test_what_cannot_be_loaded_names_what_can(tmp_path):
    with pytest.raises(AdoptError, match="one of .*scenes-concatenated.*scenes-separate"):
        load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        AdoptError,
        match="holds a model of type 'bert'; captioner loads its own checkpoints, and VisionEncoderDecoderModel",
    ):
        load(tmp_path)
