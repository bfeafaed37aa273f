"""Where a name leads: a local captioner first; a folder that is none names the captioners near it."""

import shutil

import pytest

from captioner.adopt import AdoptError, load
from captioner.adopt.locating import SHIPPED, located


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with the run `runs/t`, and what a run leaves there."""
    monkeypatch.chdir(tmp_path)
    for name in ("best", "last"):
        (tmp_path / f"runs/t/{name}").mkdir(parents=True)
        for file in (SHIPPED / "scenes-separate").iterdir():
            shutil.copy(file, tmp_path / f"runs/t/{name}")
    (tmp_path / "runs/t/checkpoint-4").mkdir()
    (tmp_path / "runs/t/checkpoint-4/state.json").write_text("{}")
    (tmp_path / "runs/t/metrics.jsonl").write_text("")
    return tmp_path


@pytest.mark.parametrize("name", ["runs/t", "runs", "runs/t/"])
def test_the_folder_of_a_run_names_its_captioners(run, name):
    with pytest.raises(AdoptError, match="has no config.json; captioners below it are runs/t/best, runs/t/last"):
        load(name)


def test_the_state_of_a_run_is_said_to_be_one(run):
    with pytest.raises(AdoptError, match="is the state of a run, .*--resume.*; its captioners are runs/t/best, runs/t"):
        load("runs/t/checkpoint-4")


def test_a_file_names_the_captioner_that_it_belongs_to(run):
    with pytest.raises(AdoptError, match="is no directory; the captioner that it belongs to is runs/t/best$"):
        load("runs/t/best/model.safetensors")


def test_a_folder_without_captioners_says_what_it_holds(run):
    (run / "photos").mkdir()
    (run / "photos/a.jpg").write_bytes(b"")
    with pytest.raises(AdoptError, match=r"photos is no captioner.*one of \['scenes-.*it holds a.jpg"):
        load("photos")


@pytest.mark.parametrize(
    ("name", "near"),
    [("scenes-seperate", "scenes-separate"), ("scenes_concatenated", "scenes-concatenated"), ("scenes-joint", None)],
)
def test_a_misspelt_name_of_the_package_gets_the_nearest(name, near):
    if near is None:
        assert located(name) == name
    else:
        with pytest.raises(AdoptError, match=f"did you mean '{near}'"):
            load(name)


def test_a_misspelt_path_gets_the_nearest_beside_it(run):
    with pytest.raises(AdoptError, match="there is no such directory; did you mean runs/t/best"):
        load("runs/t/bset")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedConfig.get_config_dict", lambda *names, **hub: 1 / 0)
    with pytest.raises(AdoptError, match="there is no such directory"):
        load(name)


def test_a_local_captioner_comes_before_one_of_the_package(run):
    shutil.copytree("runs/t/best", "scenes-concatenated")
    assert located("scenes-concatenated") == "scenes-concatenated"
    assert load("scenes-concatenated")[0].config.conditioning == "separate"


def test_a_folder_that_is_no_captioner_does_not_hide_one_of_the_package(run):
    (run / "scenes-concatenated").mkdir()
    assert load("scenes-concatenated")[0].config.conditioning == "concatenated"


def test_a_captioner_is_found_in_the_home_directory_and_in_a_subfolder(run, monkeypatch):
    monkeypatch.setenv("HOME", str(run))
    assert load("~/runs/t/best")[0].config.conditioning == "separate"
    assert load("runs/t", subfolder="best")[0].config.conditioning == "separate"
