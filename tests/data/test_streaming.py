"""Streams: each sample once in an epoch whatever the layout, shuffled, and found again after a kill."""

import io
import json
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from itertools import pairwise

import datasets
import pytest
import torch
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st
from killed import KILLED, TWO_PROCESSES, same_files
from PIL import Image
from runs import ROOT, launch, lines, losses
from runs import settings as scene_settings
from torch.utils.data import DataLoader

from captioner.base import DataSettings, SettingsError
from captioner.data import DataError, load_split, open_stream
from captioner.data.faults import EMPTY
from captioner.data.shuffling import ShuffleBuffer, ShuffledStream
from captioner.training import train

SHARDS = (13, 4, 30, 1)  # rows of each file, in row groups of 5
ROWS = sum(SHARDS)
WORDS = ["red", "green", "blue", "circle", "star", "square"]


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def png(number):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 90, 30)).save(stream, "PNG")
    return stream.getvalue()


def captions(number):
    return [f"a {WORDS[number % 6]} {WORDS[(number + place) % 5]}" for place in range(3)]


def rows(first, count):
    numbers = range(first, first + count)
    return {
        "image": [{"bytes": png(number), "path": None} for number in numbers],
        "captions": [captions(number) for number in numbers],
        "about": [f"about {number}" for number in numbers],
        "key": [f"k{number}" for number in numbers],
    }


KINDS = Features(
    {"image": datasets.Image(), "captions": List(Value("string")), "about": Value("string"), "key": Value("string")}
)


@pytest.fixture(scope="session")
def parquet(tmp_path_factory):
    folder, first = tmp_path_factory.mktemp("parquet"), 0
    for shard, count in enumerate(SHARDS):
        table = Dataset.from_dict(rows(first, count), features=KINDS)
        table.to_parquet(folder / f"train-{shard:03}.parquet", batch_size=5)
        first += count
    Dataset.from_dict(rows(1000, 6), features=KINDS).to_parquet(folder / "validation-000.parquet")
    return folder


@pytest.fixture(scope="session")
def tars(tmp_path_factory):
    folder, first = tmp_path_factory.mktemp("tars"), 0
    for shard, count in enumerate(SHARDS):
        write_tar(folder / f"train-{shard:03}.tar", range(first, first + count))
        first += count
    write_tar(folder / "validation-000.tar", range(1000, 1006))
    return folder


def write_tar(path, numbers, broken=()):
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            told = json.dumps({"captions": captions(number), "title": f"about {number}"}).encode()
            for suffix, content in (("png", png(number)), ("json", told[:-9] if number in broken else told)):
                member = tarfile.TarInfo(f"k{number}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def data(folder, **keys):
    usual = {"streaming": True, "id_column": "key", "context_column": "about"}
    return DataSettings(path=str(folder), **usual | keys)


def epoch_of(stream, workers=0, epoch=0, skipped=0, processes=1, buffer=8, size=2):
    """The ids of the batches that each process reads."""
    result = []
    for process in range(processes):
        dataset = ShuffledStream(stream, size, buffer, 7, (process, processes))
        loader = DataLoader(dataset, batch_size=size, num_workers=workers, collate_fn=list)
        dataset.set_place(epoch, skipped)
        result.append([tuple(sample["id"] for sample in batch) for batch in loader])
    return result


def flat(processes):
    return [name for batches in processes for batch in batches for name in batch]


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 3), st.integers(0, 45))
def test_a_buffer_gives_each_position_once_and_can_be_entered_anywhere(count, size, seed, skipped):
    whole = list(ShuffleBuffer(range(3, 3 + count), size, str(seed)))
    assert sorted(whole) == list(range(3, 3 + count))
    entered = ShuffleBuffer(range(3, 3 + count), size, str(seed))
    entered.skip(min(skipped, count))
    assert list(entered) == whole[skipped:]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_each_sample_once_over_all_processes_and_workers(parquet, processes, workers):
    stream = open_stream(data(parquet), "train")
    for epoch in (0, 1):
        read = epoch_of(stream, workers, epoch, processes=processes, buffer=ROWS)
        sizes = {len(batches) for batches in read}
        assert sizes == {ROWS // (2 * processes)}  # no process waits for another at the end
        assert set(Counter(flat(read)).values()) == {1}
        assert len(flat(read)) == ROWS - ROWS % (2 * processes)


def test_an_epoch_is_that_of_the_disk_where_the_buffer_covers_it(parquet):
    stream, split = open_stream(data(parquet), "train"), load_split(data(parquet, streaming=False), "train")
    for epoch in (0, 1):
        assert sorted(flat(epoch_of(stream, epoch=epoch, buffer=ROWS, size=1))) == sorted(split.texts["id"])
    dataset = ShuffledStream(stream, 1, ROWS, 0)
    read = {sample["id"]: sample for sample in dataset}
    for place in (0, 20, ROWS - 1):
        own = split[place]
        streamed = read[own["id"]]
        assert (streamed["captions"], streamed["context"]) == (own["captions"], own["context"])
        assert streamed["image"]["bytes"] == own["image"]["bytes"]
        assert streamed["index"] == place  # which decides captions, crops and what is dropped


def test_orders_differ_between_epochs_and_seldom_follow_the_files(parquet):
    stream = open_stream(data(parquet), "train")
    first, again, second = (flat(epoch_of(stream, epoch=epoch)) for epoch in (0, 0, 1))
    assert first == again
    assert first != second
    follows = sum(int(b[1:]) == int(a[1:]) + 1 for a, b in pairwise(first))
    assert follows < ROWS // 3


@pytest.mark.parametrize("kind", ["parquet", "tars"])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_place_of_an_epoch_is_found_again(kind, workers, request):
    keys = {} if kind == "parquet" else {"id_column": "__key__", "context_column": "json.title", "image_column": "png"}
    stream = open_stream(data(request.getfixturevalue(kind), **keys), "train")
    for processes, skips in ((1, range(0, 25, 5)), (2, (1, 6, 11))):
        whole = epoch_of(stream, workers, 3, processes=processes)
        for skipped in skips:
            rest = epoch_of(stream, workers, 3, skipped, processes)
            assert rest == [batches[skipped:] for batches in whole]


def test_what_lies_before_a_place_is_not_read_again(parquet, monkeypatch):
    stream = open_stream(data(parquet), "train")
    read = []
    monkeypatch.setattr(type(stream), "_sample", lambda self, number, row: read.append(number) or {"id": str(number)})
    epoch_of(stream, skipped=20, buffer=4)
    assert len(read) <= ROWS - 40 + 16


def test_tars_and_parquet_hold_the_same_samples(parquet, tars):
    one = open_stream(data(parquet), "train")
    keys = {"id_column": "__key__", "context_column": "json.title"}
    other = open_stream(data(tars, **keys), "train")
    assert [len(one), one.texts] == [len(other), other.texts]
    assert epoch_of(other, buffer=ROWS, size=1, epoch=1) != epoch_of(other, buffer=ROWS, size=1)
    assert sorted(flat(epoch_of(other, buffer=ROWS, size=1))) == sorted(flat(epoch_of(one, buffer=ROWS, size=1)))


def test_slices_and_limits_cut_streams_by_rows(parquet):
    stream = open_stream(data(parquet), "train[10:20]")
    assert sorted(flat(epoch_of(stream, size=1))) == [f"k{number}" for number in range(10, 20)]
    assert len(open_stream(data(parquet, limit=7), "train")) == 7
    held_out = load_split(data(parquet), "train[:10]")
    assert held_out.texts["id"] == [f"k{number}" for number in range(10)]
    with pytest.raises(DataError, match="is empty: it takes none of 48 rows"):
        open_stream(data(parquet), "train[48:]")


def test_what_cannot_be_streamed_says_what_to_do(parquet, tmp_path):
    with pytest.raises(SettingsError, match="`data.streaming` needs `data.source=datasets`, but it is coco; write"):
        open_stream(data(parquet, source="coco"), "train")
    with pytest.raises(SettingsError, match="`data.retrieve` looks at every image before training"):
        open_stream(data(parquet, retrieve="store"), "train")
    (tmp_path / "train.csv").write_text("image,caption\na.png,a\n")
    with pytest.raises(DataError, match=r"reads Parquet files and WebDataset tars, but .* holds csv; convert"):
        open_stream(data(tmp_path), "train")
    with pytest.raises(DataError, match="has no column 'title' but"):
        open_stream(data(parquet, context_column="title"), "train")


def test_features_of_a_stream_are_found_beside_it_and_their_column_must_be_there(tmp_path):
    kinds = Features({**KINDS, "sound": Value("string")})
    table = Dataset.from_dict(rows(0, 2) | {"sound": ["f/a.npy", "f/b.npy#key"]}, features=kinds)
    table.to_parquet(tmp_path / "train-0.parquet")
    stream = open_stream(data(tmp_path, modality_columns={"audio": "sound"}), "train")
    samples = [sample for piece in stream.pieces for sample in stream.read(piece)]
    assert [sample["audio"] for sample in samples] == [str(tmp_path / "f/a.npy"), str(tmp_path / "f/b.npy#key")]
    with pytest.raises(
        DataError, match="has no column 'soud' but .*; set `data.modality_columns.audio` to one of them"
    ):
        open_stream(data(tmp_path, modality_columns={"audio": "soud"}), "train")


def test_texts_for_a_tokenizer_are_read_without_images(parquet, tars, monkeypatch):
    keys = {"id_column": "__key__", "context_column": "json.title"}
    for stream in (open_stream(data(parquet), "train[40:]+train[:3]"), open_stream(data(tars, **keys), "train[:3]")):
        monkeypatch.setattr(type(stream.shards), "read", lambda *_: pytest.fail("rows are read with their images"))
        assert stream.texts[:3] == [{"captions": captions(n), "context": f"about {n}"} for n in range(3)]
        assert len(stream.texts) == len(stream)


def run(directory, folder, *more):
    keys = [
        *("data.source=datasets", f"data.path={folder}", "data.streaming=true", "data.shuffle_buffer=6"),
        *("data.id_column=key", "data.context_column=about", "data.captions_per_image=2", "model.dropout=0.2"),
        *("data.augment={scale: [0.5, 1.0]}", "data.modality_dropout={context: 0.3, image: 0.2}"),
        *("training.per_device_train_batch_size=3", "training.average_decay=0.9", "training.eval_steps=20"),
        *("training.save_steps=3", "training.dataloader_num_workers=2", "data.tokenizer.vocab_size=300"),
    ]
    return scene_settings(directory, *keys, *more)


def test_a_killed_run_on_a_stream_continues_bit_for_bit(tmp_path, parquet):
    steps = "training.max_steps=40"  # 16 batches an epoch
    train(run(tmp_path / "whole", parquet, steps))
    run(tmp_path / "killed", parquet, steps).save(tmp_path / "settings.yaml")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "settings.yaml"), "24"]
    died = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    train(run(tmp_path / "killed", parquet, steps), resume=True)
    expected, got = lines(tmp_path / "whole"), lines(tmp_path / "killed")
    for line in (*expected, *got):
        del line["minutes"]
    assert len(losses(tmp_path / "killed")) == 40
    assert got == expected
    same_files(tmp_path / "whole/checkpoint-40", tmp_path / "killed/checkpoint-40")


def test_two_processes_train_on_uneven_shards_and_continue_bit_for_bit(tmp_path, parquet):
    files = []
    for name in ("whole", "broken"):
        files.append(str(tmp_path / f"{name}.yaml"))
        run(tmp_path / name, parquet, "training.max_steps=20", "training.eval_steps=20").save(tmp_path / f"{name}.yaml")
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    launch(str(tmp_path / "run.py"), *files)
    assert len(losses(tmp_path / "whole")) == 20  # 8 batches of each process are an epoch
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    same_files(tmp_path / "whole/checkpoint-20", tmp_path / "broken/checkpoint-20")


@pytest.mark.parametrize("broken", [(0, 7), (20,), range(4)], ids=str)
def test_what_cannot_be_decoded_in_a_tar_costs_only_its_own_row(tmp_path, broken):
    write_tar(tmp_path / "train-001.tar", range(12, 24), broken)
    write_tar(tmp_path / "train-000.tar", range(12), broken)
    keys = {"id_column": "__key__", "context_column": "json.title", "max_bad_share": 0.5}
    whole = [f"k{number}" for number in range(24) if number not in broken]
    stream = open_stream(data(tmp_path, **keys), "train")
    samples = [sample for piece in stream.pieces for sample in stream.read(piece)]
    assert [sample["id"] for sample in samples if "bad" not in sample] == whole
    assert [bad.kind for sample in samples for bad in sample.get("bad", [])] == [EMPTY] * len(broken)
    table = load_split(data(tmp_path, **keys, streaming=False), "train")
    assert table.texts["id"] == whole
    assert [bad.id for bad in table.bad] == [f"k{number}" for number in broken]


def test_tars_are_trained_on(tmp_path, tars):
    keys = ("data.id_column=__key__", "data.context_column=json.title", "training.dataloader_num_workers=0")
    train(run(tmp_path, tars, *keys, "training.max_steps=20", "training.learning_rate=0.01"))
    assert torch.tensor(losses(tmp_path)).isfinite().all()
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
