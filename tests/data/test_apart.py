"""What is validated on is not what was trained on: unknown splits, overlapping slices, copies; and held-out images."""

import pytest
from annotations import encoded, load, photos, refusal, repository, table, write

from captioner.base import DataSettings, SettingsError
from captioner.data import DataError, load_split, note_shared, open_stream

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def one(tmp_path):
    """One table of eight photos, each in two rows."""
    names = [f"{number}.png" for number in range(8)]
    photos(tmp_path, *names)
    return write(tmp_path / "one.csv", "image,caption\n" + "".join(f"{name},x\n{name},y\n" for name in names))


def compare(training, validation, **keys):
    settings = DataSettings(train_split=training, validation_split=validation, **keys)
    read = open_stream if settings.streaming else load_split
    splits = read(settings, training), load_split(settings, validation)
    note_shared(*splits, settings)
    return splits


@pytest.mark.parametrize(
    ("training", "validation", "shared"),
    [
        ("train", "validation", "8 of 8"),
        ("train", "test", "8 of 8"),
        ("train[:75%]", "train[50%:]", "2 of 4"),
        ("train[:7]", "train[-2:]", "1 of 2"),
        ("all", "val[:1]", "1 of 1"),
    ],
)
def test_one_table_for_both_splits_is_refused_with_the_slices_to_write(one, training, validation, shared):
    with pytest.raises(DataError, match=f"^{shared} samples of split '.*' are the same as in split") as caught:
        compare(training, validation, source="table", path=str(one))
    assert "'data.train_split=train[:90%]' 'data.validation_split=train[90%:]', or with data.hold_out" in str(
        caught.value
    )


def test_slices_that_do_not_overlap_are_apart_and_one_name_for_both_is_said(one, capsys):
    assert compare("train[:75%]", "train[75%:]", source="table", path=str(one))[1].bad == []
    assert "training" not in capsys.readouterr().err
    compare("train", "train", source="table", path=str(one))
    assert "training and validation are both 'train'" in capsys.readouterr().err


def test_images_that_another_file_trains_on_too_are_noted(tmp_path, capsys):
    photos(tmp_path, *"abc")
    write(tmp_path / "train.csv", "image,caption\na,x\nb,y\n")
    write(tmp_path / "val.csv", "image,caption\n./b,z\nc,z\n")
    bad = compare("train", "validation", source="table", path=str(tmp_path))[1].bad
    assert [(found.kind, found.id, found.left_out) for found in bad] == [("image also in training", "./b", False)]
    assert "1 of 2 validation samples have an image that is trained on too: ./b" in capsys.readouterr().err


def test_embedded_images_are_the_same_where_their_bytes_are(tmp_path):
    images = [{"bytes": bytes([number]) * 9, "path": "a.png"} for number in range(2)]
    rows = {"train": {"image": images, "caption": ["a", "b"]}, "validation": {"image": images[1:], "caption": ["c"]}}
    other = {"train": {"image": images[:1], "caption": ["a"]}, "validation": {"image": images[1:], "caption": ["c"]}}
    same, apart = repository(tmp_path / "same", rows), repository(tmp_path / "apart", other)
    assert compare("train", "validation", path=str(apart))[1].bad == []
    assert [bad.kind for bad in compare("train", "validation", path=str(same))[1].bad] == ["image also in training"]


@pytest.mark.parametrize("streaming", [False, True])
def test_slices_of_a_repository_and_of_a_stream_overlap_too(tmp_path, streaming):
    columns = {
        "image": [encoded(tmp_path, None, colour) for colour in ("red", "blue", "green")],
        "caption": list("abc"),
    }
    keys = {"path": str(repository(tmp_path / "set", {"train": columns})), "streaming": streaming}
    assert len(compare("train[:2]", "train[2:]", **keys)[1]) == 1
    with pytest.raises(
        DataError, match="1 of 2 samples of split 'train\\[1:\\]' are the same as in split 'train\\[:2\\]'"
    ):
        compare("train[:2]", "train[1:]", **keys)


@pytest.mark.parametrize("split", ["trian", "tset", "vaildation", "Train"])
def test_a_slip_of_the_pen_is_no_split(one, split):
    assert refusal("table", one, split).startswith(
        f"{one} has no split {split!r}: it has no splits and serves as train,"
    )
    assert len(load("table", one, "one")) == len(load("table", one, "test")) == 8


def test_a_file_that_is_named_like_another_split_serves_only_where_it_is_named(one):
    file = one.rename(one.with_name("train.csv"))
    assert "for split 'validation' is not clear" in refusal("table", one.parent, "validation")
    assert len(load("table", file, "validation")) == 8


def test_two_files_that_may_be_a_split_are_refused(one):
    for name in ("train.csv", "train.tsv"):
        write(one.with_name(name), "image,caption\n0.png,x\n")
    assert "for split 'train' is not clear" in refusal("table", one.parent)


def test_held_out_images_are_the_same_ones_in_every_run_and_nowhere_else(one):
    keys = {"source": "table", "path": str(one), "hold_out": 0.25}
    training, validation = compare("train", "validation", **keys)
    assert [len(training), len(validation)] == [6, 2]
    assert not set(table(training)) & set(table(validation))
    assert all(captions == ["x", "y"] for captions in {**table(training), **table(validation)}.values())
    lines = one.read_text().splitlines()
    write(one, "\n".join([lines[0], *reversed(lines[1:])]))
    assert set(table(load("table", one, "validation", hold_out=0.25))) == set(table(validation))


def test_all_samples_of_an_image_are_held_out_together(tmp_path):
    photos(tmp_path, *"abcd")
    write(tmp_path / "t.csv", "image,caption,title\n" + "".join(f"{name},x,{n}\n" for name in "abcd" for n in range(3)))
    parts = [load("table", tmp_path, split, hold_out=0.1, context_column="title") for split in ("train", "validation")]
    images = [{sample["image"] for sample in part} for part in parts]
    assert [len(part) for part in parts] == [9, 3]
    assert not images[0] & images[1]


def test_what_cannot_be_held_out_says_why(one, tmp_path):
    with pytest.raises(SettingsError, match="but `data.validation_split` is 'test'; set one of the two"):
        load("table", one, hold_out=0.1, validation_split="test")
    with pytest.raises(SettingsError, match="but a stream is cut by slices; leave it out"):
        load("datasets", tmp_path, hold_out=0.1, streaming=True)
    with pytest.raises(SettingsError, match="but generated scenes have a validation split"):
        load("scenes", tmp_path, hold_out=0.1)
    write(one, "image,caption\n0.png,x\n")
    assert "there is only one image" in refusal("table", one, hold_out=0.5)
