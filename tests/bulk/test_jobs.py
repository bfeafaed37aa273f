"""Jobs and what they write: nothing lost, nothing twice, no half line, and files that are whole or as they were."""

import json
import multiprocessing
import os
import resource
import time
from itertools import chain

import pytest

from captioner.base import WriteError
from captioner.bulk import Job, JobSettings, Sidecars, Target, encode, find_inputs, merge, write_records
from captioner.bulk.journal import Journal, JournalError
from captioner.bulk.outputs import RECORD_READERS, OutputError, read_records

SETTINGS = JobSettings(model="m")
NAMES = [f"{i}.png" for i in range(10)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """One stands in a folder with ten files that are named like images."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def say(item):
    """A made-up captioner: it fails on 3.png."""
    return item, {"image": item.name} | (
        {"error": "bad"} if item.name == "3.png" else {"caption": f"this is {item.name}"}
    )


def job(target, names=NAMES, settings=SETTINGS, **share):
    return Job(find_inputs(names), target, settings, **share)


def work(one, most=None):
    """Plan and caption up to `most` images; → the names that were captioned."""
    try:
        one.prepare()
        return [r["image"] for r in one.record(say(one.inputs[i]) for i in one.plan()[:most])]
    finally:
        one.close()


def captions(output):
    return [(r["image"], r.get("caption", r.get("error"))) for r in read_records(output)]


ALL = [(name, "bad" if name == "3.png" else f"this is {name}") for name in NAMES]


@pytest.mark.parametrize("suffix", RECORD_READERS)
def test_a_job_in_two_runs_gives_the_whole_output_in_order(here, suffix):
    target = Target(here / f"out{suffix}")
    assert work(job(target), most=4) == NAMES[:4]
    again = job(target)
    assert work(again) == ["3.png", *NAMES[4:]]  # what failed is tried again
    assert (again.summarise().captioned, again.summarise().failed, again.summarise().missing) == (9, 1, 0)
    again.publish()
    assert captions(here / f"out{suffix}") == ALL
    beside = "out" if suffix == ".jsonl" else f"out{suffix}"
    assert [r["image"] for r in map(json.loads, (here / f"{beside}.errors.jsonl").open())] == ["3.png"]
    assert json.loads((here / f"{beside}.settings.json").read_text())["model"] == "m"
    assert not target.journal.exists()


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_half_line_is_cut_off_and_its_image_captioned_again(here, cut):
    target = Target(here / "out.jsonl")
    work(job(target), most=3)
    file = target.journal / "1-of-1.0.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert work(job(target))[0] == "2.png"
    job(target).publish()
    assert captions(target.output) == ALL
    assert len(list(target.output.open())) == 10


def test_more_or_fewer_processes_may_go_on_and_each_image_comes_once(here):
    target = Target(here / "out.jsonl")
    work(job(target, process=1, processes=2), most=2)
    assert Journal(target.journal).has_records()
    shares = [job(target, process=p, processes=3) for p in range(3)]
    shares[0].prepare()
    plans = [share.plan() for share in shares]
    assert sorted(chain.from_iterable(plans)) == [0, 2, 3, 4, 5, 6, 7, 8, 9]  # 1 is done; 3 failed
    for share, plan in zip(shares, plans, strict=True):
        list(share.record(say(share.inputs[i]) for i in plan))
    shares[0].publish()
    assert captions(target.output) == ALL


def test_two_runs_cannot_write_the_same_journal(here):
    target = Target(here / "out.jsonl")
    first, second = job(target), job(target)
    first.prepare()
    with pytest.raises(JournalError, match="another run is writing"):
        second.prepare()
    second.close()
    assert len(list(first.record(map(say, first.inputs)))) == 10
    first.publish()
    assert captions(target.output) == ALL


def test_workers_do_not_keep_the_journal_of_a_run_that_was_killed(here):
    target = Target(here / "out.jsonl")
    first, second = job(target), job(target)
    first.prepare()
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    worker = fork.Process(target=lambda: (ready.set(), time.sleep(60)))
    worker.start()
    assert ready.wait(60)
    os.close(first.journal._descriptor)  # as a kill does; the worker lives on
    try:
        second.prepare()
        assert second.journal.is_open
    finally:
        worker.kill()


def test_a_finished_output_is_kept_and_grows_with_its_input(here):
    target = Target(here / "out.csv")
    first = job(target, NAMES[2:8])
    work(first)
    first.publish()
    second = job(target)
    assert work(second) == ["0.png", "1.png", "3.png", "8.png", "9.png"]
    second.publish()
    assert captions(target.output) == ALL
    third = job(target, ["4.png"])
    assert work(third) == []
    third.publish()
    assert sorted(captions(target.output)) == ALL  # what is no longer in the input is not thrown away


def test_the_output_that_is_overwritten_stays_until_the_new_one_is_whole(here):
    target = Target(here / "out.jsonl", existing="overwrite")
    write_records([{"image": "0.png", "caption": "old"}], target.output)
    assert len(work(job(target), most=5)) == 5
    assert captions(target.output) == [("0.png", "old")]
    last = job(target)
    assert work(last) == ["3.png", *NAMES[5:]]
    last.publish()
    assert captions(target.output) == ALL


@pytest.mark.parametrize(
    ("existing", "content", "message"),
    [
        ("fail", '{"image": "0.png", "caption": "x"}\n', "is there already; name another file"),
        ("skip", "my notes\n", "is there, but not as captions"),
        ("skip", '{"name": "0.png"}\n', "is there, but not as captions"),
    ],
)
def test_an_output_in_the_way_is_explained_and_left_as_it_is(here, existing, content, message):
    (here / "out.jsonl").write_text(content)
    blocked = job(Target(here / "out.jsonl", existing=existing))
    with pytest.raises(OutputError, match=message):
        blocked.prepare()
    blocked.close()
    assert (here / "out.jsonl").read_text() == content
    assert not blocked.target.journal.exists()


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_do_not_mix_with_what_is_there(here, finished):
    target = Target(here / "out.jsonl")
    first = job(target)
    work(first, most=None if finished else 2)
    if finished:
        first.publish()
    with pytest.raises(OutputError, match="other settings \\(model was 'm' and is 'n'\\)"):
        work(job(target, settings=JobSettings(model="n")))
    fresh = job(Target(target.output, existing="overwrite"), settings=JobSettings(model="n"))
    assert work(fresh) == NAMES


def test_a_full_disk_ends_with_an_error_and_whole_lines(here):
    target = Target(here / "out.jsonl")
    full = job(target)
    full.prepare()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, limit[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*1-of-1\.0\.jsonl: File too large"):
            list(full.record(say(full.inputs[i]) for i in full.plan()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        full.close()
    kept = (target.journal / "1-of-1.0.jsonl").read_bytes()
    assert kept.endswith(b"}\n")
    assert 0 < len([json.loads(line) for line in kept.splitlines()]) < 10
    last = job(target)
    work(last)
    last.publish()
    assert captions(target.output) == ALL


def test_a_file_that_cannot_be_finished_leaves_the_old_one(here):
    write_records([{"image": "a", "caption": "old"}], here / "out.jsonl")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
    try:
        with pytest.raises(WriteError, match="cannot write"):
            write_records([{"image": "a", "caption": "new"}] * 9, here / "out.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert captions(here / "out.jsonl") == [("a", "old")]
    assert not list(here.glob(".*.tmp"))


def test_shards_share_an_input_and_merge_in_its_order(here):
    target = Target(here / "out.parquet")
    for i in (3, 1):
        shard = job(target, shard=(i, 3))
        assert work(shard) == NAMES[i - 1 :: 3]
    told = []
    summary = merge([], target, told.append)
    assert (summary.captioned, summary.failed, summary.missing) == (6, 1, 3)
    assert told == ["not complete: shard 2 lacks 3"]
    assert captions(target.output) == [pair for i, pair in enumerate(ALL) if i % 3 != 1]
    elsewhere = Target(here / "other.parquet")
    work(job(elsewhere, shard=(2, 3)))
    joined = Target(here / "joined.jsonl")
    assert merge([target.output, elsewhere.journal], joined, told.append).missing == 0
    assert captions(joined.output) == ALL
    assert target.journal.exists()


def test_shards_of_other_inputs_do_not_mix(here):
    target = Target(here / "out.jsonl")
    work(job(target, shard=(1, 3)))
    with pytest.raises(OutputError, match="all shards must have the same input"):
        job(target, NAMES[1:], shard=(2, 3)).prepare()
    with pytest.raises(OutputError, match="begun for 3 shards of 10 images, now there are 4"):
        job(target, shard=(2, 4)).prepare()
    with pytest.raises(OutputError, match="nothing to merge"):
        merge([], Target(here / "nothing.jsonl"), print)


def test_texts_beside_images_are_joined_once_however_often_a_run_is_killed(here):
    for name, modes in {"skip": "old", "append": "old, this is 0.png", "prepend": "this is 0.png, old"}.items():
        (here / "0.txt").write_text("old")
        target = Target(None, Sidecars(".txt", name), name)
        one = job(target, NAMES[:3])
        one.prepare()
        running = one.record(say(one.inputs[i]) for i in one.plan())
        next(running)
        one.close()  # killed after the first image
        last = job(target, NAMES[:3])
        work(last)
        last.publish()
        assert (here / "0.txt").read_text() == modes
        assert (here / "2.txt").read_text() == "this is 2.png"
        for text in here.glob("*.txt"):
            text.unlink()


def test_a_text_that_a_kill_kept_from_its_place_is_put_there(here):
    target = Target(None, Sidecars(".txt", "append"), "append")
    (here / "0.txt").write_text("old")
    work(job(target), most=1)
    (here / "0.txt").write_text("old")  # as if killed between the journal and the text
    work(job(target))
    assert (here / "0.txt").read_text() == "old, this is 0.png"


@pytest.mark.parametrize(
    ("names", "sidecars", "message"),
    [
        (["1.png"], Sidecars(".txt", "fail"), "1 texts are there already"),
        (["1.png", "1.jpg"], Sidecars(".cap"), "would have two images, such as 1.cap"),
    ],
)
def test_texts_in_the_way_are_explained(here, names, sidecars, message):
    (here / "1.txt").write_text("old")
    (here / "1.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match=message):
        job(Target(None, sidecars, sidecars.existing), names).prepare()


def test_targets_that_cannot_be_are_explained(here):
    with pytest.raises(OutputError, match=r"must end in \.jsonl, \.csv, \.parquet"):
        Target(here / "out.xml")
    with pytest.raises(OutputError, match="is for the texts of `--sidecar`"):
        Target(here / "out.csv", existing="append")


@pytest.mark.parametrize("suffix", RECORD_READERS)
def test_every_format_keeps_every_field_and_any_text(here, suffix):
    records = [
        {"image": 'a, "b"\nc.png', "caption": 'été 🐱, "x"\ny', "captions": ["a", 'b, "c"'], "scores": [-0.5, -1.0]},
        {"image": "bad.png", "error": "truncated"},
        {"image": "c.png", "caption": "", "score": -0.25, "context": "007"},
    ]
    write_records(records, here / f"out{suffix}")
    assert list(read_records(here / f"out{suffix}")) == records


def test_names_that_are_not_utf8_come_back_from_json():
    name = os.fsdecode(b"x\xff.png")
    line = encode({"image": name})
    assert line.decode("utf-8")
    assert os.fsencode(json.loads(line)["image"]) == b"x\xff.png"
