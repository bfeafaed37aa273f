"""Blanking takes a modality away, shuffling brings another sample's, and the table shows what that costs."""

import pytest
from runs import ROOT
from typer.testing import CliRunner

from captioner import load
from captioner.base import load_settings
from captioner.cli.main import app
from captioner.data import load_split
from captioner.evaluation import ablate
from captioner.evaluation.ablation import Blanked, Shuffled

SPLIT = [{"image": i, "context": f"c{i}", "captions": ["x"]} for i in range(5)]


@pytest.mark.parametrize("modality", ["image", "context"])
def test_only_the_one_modality_changes_and_shuffling_never_gives_a_sample_its_own(modality):
    other = {"image": "context", "context": "image"}[modality]
    for changed in (Blanked(SPLIT, modality), Shuffled(SPLIT, modality)):
        assert [changed[i][other] for i in range(5)] == [sample[other] for sample in SPLIT]
        assert all(changed[i][modality] != SPLIT[i][modality] for i in range(5))
    assert [Blanked(SPLIT, modality)[i][modality] for i in range(5)] == [None] * 5
    shuffled = Shuffled(SPLIT, modality)
    assert sorted(str(shuffled[i][modality]) for i in range(5)) == sorted(str(sample[modality]) for sample in SPLIT)


def test_the_shipped_captioner_looks_and_reads():
    settings = load_settings(ROOT / "configs/scenes.yaml", ["data.levels=[1]", "data.limit=40"])
    model, processor = load("scenes-separate")
    rows = ablate(model, processor, load_split(settings.data, "test"), settings.generation)
    kinds = ("image blanked", "image shuffled", "context blanked", "context shuffled")
    assert list(rows) == ["as it is", *kinds]
    assert all(rows[kind]["cider_d"] < rows["as it is"]["cider_d"] for kind in kinds)


def test_evaluate_prints_the_table_and_the_signature():
    data = ["data.source=scenes", "data.levels=[1]", "data.limit=4", "generation.num_beams=1"]
    done = CliRunner().invoke(app, ["evaluate", *data, "--model", "scenes-separate", "--num-workers", "0", "--ablate"])
    assert done.exit_code == 0, done.output
    assert "image shuffled" in done.output
    assert "context blanked" in done.output
    assert "split:validation|samples:4|search:num_beams=1|captioner:" in "".join(done.output.split("\n"))
