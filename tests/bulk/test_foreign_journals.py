"""Journals that this run did not write: nothing in them is believed; nothing is written, cut or removed for them."""

import json
import os
from pathlib import Path

import pytest

from captioner.bulk import Job, JobSettings, Sidecars, Target, find_inputs
from captioner.bulk.journal import Journal, JournalError
from captioner.bulk.outputs import OutputError, read_records

SETTINGS = JobSettings(model="m")
NAMES = ["p/a.png", "p/b.png"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "precious.txt").write_text("mine")
    return tmp_path


def job(existing="skip", settings=None):
    target = Target(None, Sidecars(".txt", existing), existing, folder=Path("p"))
    return Job(find_inputs(["p"]), target, settings or SETTINGS)


def say(item):
    return item, {"image": item.name, "caption": f"this is {item.name}"}


def work(one, most=None):
    try:
        one.prepare()
        return [r["image"] for r in one.record(say(one.inputs[i]) for i in one.plan()[:most])]
    finally:
        one.close()


def prepared(records, settings=True):
    """A journal in the folder of images as a run of ours would have left it, with other records."""
    one = job()
    folder = one.target.journal
    folder.mkdir()
    if settings:
        (folder / "settings.json").write_text(json.dumps(one.kept))
    (folder / "1-of-1.0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


EVIL = {"index": 0, "image": "p/a.png", "caption": "x", "text": "evil"}


def test_records_without_the_settings_of_their_run_are_not_believed(here):
    prepared([EVIL | {"sidecar": "precious.txt"}], settings=False)
    with pytest.raises(OutputError, match="not what they were made with, so they are not believed; move it away"):
        work(job())
    assert (here / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "place", ["precious.txt", "../precious.txt", "p/../precious.txt", "p/b.txt", "/tmp/x", 3, None]
)
@pytest.mark.parametrize("before", [None, "0" * 16, {}])
def test_a_record_writes_nowhere_but_beside_its_own_image(here, place, before):
    place = str(here / place) if place == "precious.txt" else place
    prepared([EVIL | {"sidecar": place, "before": before}])
    assert work(job()) == ["p/b.png"]
    assert (here / "precious.txt").read_text() == "mine"
    assert sorted(os.listdir(here)) == ["p", "precious.txt"]
    assert (here / "p/b.txt").read_text() == "this is p/b.png"


@pytest.mark.parametrize(
    "record",
    [
        {"index": "0", "image": "p/a.png", "caption": "x"},
        {"index": 0, "image": ["p/a.png"], "caption": "x"},
        {"index": 0, "image": "p/a.png"},
        {"index": 0, "image": "p/a.png", "caption": 7},
        {"index": 10**9, "image": "other.png", "caption": "x"},
        {"index": -5, "image": "p/c.png", "caption": "x", "sidecar": "precious.txt", "text": "x"},
    ],
)
def test_records_of_no_image_of_this_run_and_broken_ones_are_passed_over(here, record):
    prepared([record])
    assert work(job()) == NAMES
    assert (here / "precious.txt").read_text() == "mine"


def test_a_journal_with_links_or_other_files_is_refused_and_left(here):
    folder = prepared([EVIL])
    (folder / "1-of-1.0.jsonl").unlink()
    (folder / "1-of-1.0.jsonl").symlink_to(here / "precious.txt")
    with pytest.raises(JournalError, match="which captioner did not make; move it away"):
        work(job())
    (folder / "1-of-1.0.jsonl").unlink()
    (folder / "thesis.doc").write_text("mine")
    with pytest.raises(JournalError, match="holds thesis.doc"):
        work(job())
    assert (here / "precious.txt").read_text() == "mine"
    assert (folder / "thesis.doc").read_text() == "mine"
    os.rename(folder, here / "elsewhere")
    folder.symlink_to(here / "elsewhere")
    with pytest.raises(JournalError, match="is no folder of records"):
        work(job())


def test_a_journal_of_another_user_is_refused(here, monkeypatch):
    folder = prepared([EVIL])
    try:
        os.chown(folder / "1-of-1.0.jsonl", 12345, 12345)
    except PermissionError:
        pytest.skip("only root gives files away")
    with pytest.raises(JournalError, match="records of another user"):
        work(job())


def test_taking_a_journal_away_leaves_what_it_did_not_make(here):
    journal = Journal(here / "x.parts")
    journal.open()
    (here / "x.parts/kept.txt").write_text("mine")
    (here / "x.parts.done").mkdir()
    (here / "x.parts.done/kept.txt").write_text("mine")
    journal.close()
    journal.remove()
    assert not (here / "x.parts").exists()
    assert [file.read_text() for file in here.rglob("kept.txt")] == ["mine", "mine"]
    assert not list(here.rglob("*.jsonl"))


@pytest.mark.parametrize("existing", ["skip", "overwrite", "append"])
def test_a_text_corrected_by_hand_after_a_stop_is_not_reverted(here, existing):
    work(job(existing), most=1)
    (here / "p/a.txt").write_text("corrected")
    work(job(existing))
    assert (here / "p/a.txt").read_text() == "corrected"
    assert (here / "p/b.txt").read_text() == "this is p/b.png"


@pytest.mark.parametrize("existing", ["skip", "overwrite", "append"])
def test_no_text_is_written_through_a_link(here, existing):
    (here / "p/a.txt").symlink_to(here / "precious.txt" if existing != "skip" else here / "new.txt")
    one = job(existing)
    assert work(one) == NAMES
    assert (one.summarise().captioned, one.summarise().failed) == (1, 1)
    assert (here / "precious.txt").read_text() == "mine"
    assert not (here / "new.txt").exists()


def test_captions_with_columns_of_a_person_s_are_not_taken_for_an_output(here):
    (here / "o.csv").write_text("image,caption,licence\np/a.png,x,mine\n")
    blocked = Job(find_inputs(["p"]), Target(here / "o.csv"), SETTINGS)
    with pytest.raises(OutputError, match="not as captions .*licence"):
        work(blocked)
    assert (here / "o.csv").read_text() == "image,caption,licence\np/a.png,x,mine\n"


def test_two_outputs_of_one_stem_share_nothing(here):
    for ending, model in ((".jsonl", "m"), (".csv", "n"), (".parquet", "o")):
        for _ in range(2):
            one = Job(find_inputs(["p"]), Target(here / f"o{ending}"), JobSettings(model=model))
            work(one)
            one.publish()
            assert one.target.settings()["model"] == model
            assert len(list(read_records(one.target.output))) == 2


def test_settings_that_earlier_versions_put_beside_a_table_are_read(here):
    target = Target(here / "o.csv")
    one = Job(find_inputs(["p"]), target, SETTINGS)
    work(one)
    one.publish()
    os.rename(target.settings_file, here / "o.settings.json")
    with pytest.raises(OutputError, match="other settings"):
        work(Job(find_inputs(["p"]), target, JobSettings(model="n")))
