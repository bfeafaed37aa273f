"""Before a run begins: nothing of anybody is written over, and what cannot work is said before any data are read."""

import pytest
from PIL import Image
from runs import lines, losses, settings

from captioner.base import OccupiedError, SettingsError
from captioner.evaluation.borrowed_metrics import BorrowedMetricError
from captioner.search import SearchError
from captioner.training import loop, train
from captioner.training.checkpoints import CheckpointError
from captioner.training.feature_store import FeatureStoreError

SHORT = ["training.max_steps=1", "training.max_eval_samples=2"]


@pytest.fixture
def unread(monkeypatch):
    """Reading data is an error."""

    def refuse(settings):
        raise AssertionError("data were read")

    monkeypatch.setattr(loop.Splits, "read", refuse)


def content(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", ["best/notes.txt", "last/model.safetensors", "metrics.jsonl", "settings.yaml"])
def test_an_output_directory_that_holds_something_by_a_name_of_ours_is_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(OccupiedError, match=f"holds {name.split('/')[0]} and no checkpoint to go on from; set another"):
        train(settings(tmp_path, *SHORT))
    if "/" in name:  # nor is a captioner taken for one of a run that is resumed
        with pytest.raises(OccupiedError, match="and no checkpoint to go on from"):
            train(settings(tmp_path, *SHORT), resume=True)
    assert content(tmp_path) == before


def test_a_run_whose_checkpoints_were_removed_is_not_written_over(tmp_path):
    train(settings(tmp_path, *SHORT))
    (tmp_path / "checkpoint-1").rename(tmp_path.with_name("elsewhere"))
    before = content(tmp_path)
    for resume in (False, True):
        with pytest.raises(OccupiedError, match="holds best, last"):
            train(settings(tmp_path, *SHORT), resume)
    assert content(tmp_path) == before


def test_other_files_in_the_output_directory_stay_and_do_no_harm(tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    before = content(tmp_path)
    train(settings(tmp_path, *SHORT))
    assert content(tmp_path).items() >= before.items()


def test_checkpoints_that_were_not_written_here_are_not_rotated_away(tmp_path):
    train(settings(tmp_path, *SHORT, "training.save_total_limit=1"))
    (tmp_path / "checkpoint-0").mkdir()
    (tmp_path / "checkpoint-0/mine.bin").write_text("mine")
    train(settings(tmp_path, *SHORT, "training.max_steps=2", "training.save_total_limit=1"), resume=True)
    assert (tmp_path / "checkpoint-0/mine.bin").read_text() == "mine"
    assert not (tmp_path / "checkpoint-1").exists()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("training.output_dir", "data.feature_store"),
        ("training.output_dir", "data.path"),
        ("data.feature_store", "data.path"),
        ("data.feature_store", "data.retrieve"),
        ("training.output_dir", "model.init_from"),
    ],
)
def test_what_is_written_has_a_folder_of_its_own(tmp_path, one, other):
    place = tmp_path / "place"
    options = [f"{one}={place}", f"{other}={place}/../place"]
    with pytest.raises(SettingsError, match=f"`{one}` and `{other}` are both .*; give `{one}` a folder of its own"):
        train(settings(tmp_path / "run", *SHORT, *options))


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_feature_store_does_not_take_the_place_of_anything(tmp_path, kind):
    place = tmp_path / "mine"
    if kind == "folder":
        place.mkdir()
    (place / "notes.txt" if kind == "folder" else place).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(OccupiedError, match="captioner did not make, so it is not replaced; name a new folder"):
        train(settings(tmp_path / "run", "training.image_encoder_learning_rate=0", f"data.feature_store={place}"))
    assert content(tmp_path) == before


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("training.metric_for_best_model=cider", SettingsError, "must be one of .*'cider_d'.* but is 'cider'"),
        ("training.metric_for_best_model=meteor", SettingsError, "must be one of"),
        ("training.metric_for_best_model=clip_score", SettingsError, "must be one of"),
        ("training.clip_model=/nowhere", BorrowedMetricError, "cannot load the CLIP model '/nowhere'"),
        ("training.output_dir=/proc/runs", SettingsError, "cannot write to `training.output_dir` /proc/runs"),
        ("training.output_dir=/dev/null", SettingsError, "cannot write to `training.output_dir` /dev/null"),
    ],
)
def test_what_cannot_work_is_said_before_any_data_are_read(tmp_path, override, error, message):
    with pytest.raises(error, match=message):
        train(settings(tmp_path, override))


@pytest.mark.usefixtures("unread")
def test_a_metric_in_java_is_tried_before_any_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BorrowedMetricError, match="meteor needs Java"):
        train(settings(tmp_path, "training.java_metrics=[meteor]"))


@pytest.mark.usefixtures("unread")
def test_a_clip_model_is_one(tmp_path):
    from transformers import BertConfig, BertModel

    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=30, **config)).save_pretrained(tmp_path / "bert")
    with pytest.raises(BorrowedMetricError, match="CLIP model"):
        train(settings(tmp_path / "run", f"training.clip_model={tmp_path / 'bert'}"))


def test_a_search_that_cannot_be_made_is_said_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "Gradients", None)
    with pytest.raises(SearchError, match="cannot write 'zebra'"):
        train(settings(tmp_path, "generation.bad_words=[zebra]"))


@pytest.mark.parametrize("text", ["{}", "{", '{"fingerprint": 1}'])
def test_a_folder_with_a_foreign_store_json_is_no_feature_store(tmp_path, text):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/store.json").write_text(text)
    frozen = ["training.image_encoder_learning_rate=0", f"data.feature_store={tmp_path / 'store'}"]
    with pytest.raises(FeatureStoreError, match="store"):
        train(settings(tmp_path / "run", *SHORT, *frozen))
    assert (tmp_path / "store/store.json").read_text() == text


def test_fewer_steps_than_were_taken_are_refused_and_as_many_are_done(tmp_path):
    best = train(settings(tmp_path, *SHORT, "training.max_steps=2"))
    with pytest.raises(SettingsError, match="`training.max_steps` is 1, but .*checkpoint-2 has taken more"):
        train(settings(tmp_path, *SHORT), resume=True)
    assert train(settings(tmp_path, *SHORT, "training.max_steps=2"), resume=True) == best
    assert len(losses(tmp_path)) == 2


def test_a_run_that_died_before_its_first_checkpoint_may_be_resumed_from_its_start(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "minutes": 0.0, "loss": 1.0}\n')
    (tmp_path / "settings.yaml").write_text("")
    train(settings(tmp_path, *SHORT), resume=True)
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [1]


def test_a_checkpoint_without_resume_is_named(tmp_path):
    train(settings(tmp_path, *SHORT))
    with pytest.raises(CheckpointError, match="holds checkpoint-1 of an earlier run; add --resume"):
        train(settings(tmp_path, *SHORT))
