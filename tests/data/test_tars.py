"""Tars as people make them: mixed suffixes, missing texts, dots in names, cut files; read whole or streamed alike."""

import gzip
import io
import json
import tarfile

import pytest
from datasets.utils.file_utils import ArchiveIterable
from PIL import Image

from captioner.base import DataSettings
from captioner.data import DataError, load_split, open_stream
from captioner.data.tars import keys_in, rows_in, samples_in

pytestmark = pytest.mark.usefixtures("own_cache")


def encoded(form="JPEG"):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, form)
    return stream.getvalue()


def tar(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files:
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def both(folder, **keys):
    """Id → captions, of a split that is read whole, after making sure that its stream is the same."""
    settings = DataSettings(path=str(folder), id_column="__key__", max_bad_share=0.9, **keys)
    whole = load_split(settings, "train")
    stream = open_stream(settings.model_copy(update={"streaming": True}), "train")
    streamed = [sample for piece in stream.pieces for sample in stream.read(piece)]
    good = [sample for sample in streamed if "bad" not in sample]
    assert [sample["id"] for sample in good] == whole.texts["id"]
    assert [sample["captions"] for sample in good] == whole.texts["captions"]
    assert [sample["image"]["bytes"] for sample in good] == [sample["image"]["bytes"] for sample in whole]
    assert [row["captions"] for row in stream.texts] == [sample["captions"] for sample in streamed]
    lost = [bad.id for sample in streamed for bad in sample.get("bad", [])] + [bad.id for bad in stream.bad]
    assert sorted(lost) == sorted(bad.id for bad in whole.bad)
    return dict(zip(whole.texts["id"], whole.texts["captions"], strict=True)), whole.bad


def write(folder, files, name="train-0.tar"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(tar(files))
    return folder


def pairs(names, suffixes=("jpg", "txt")):
    contents = {"jpg": encoded(), "JPG": encoded(), "png": encoded("PNG"), "webp": encoded("WEBP")}
    return [
        (f"{name}.{suffix}", contents.get(suffix, f"of {name}"))
        for name, own in (names.items() if isinstance(names, dict) else ((name, suffixes) for name in names))
        for suffix in own
    ]


def test_a_sample_has_one_image_whatever_its_suffix_however_late_that_comes(tmp_path):
    own = {f"{number:02}": ("jpg" if number < 25 else "png", "txt") for number in range(30)} | {"99": ("webp", "txt")}
    captions, bad = both(write(tmp_path, pairs(own)))
    assert captions == {name: [f"of {name}"] for name in own}
    assert bad == []


def test_a_sample_without_a_text_is_bad_data(tmp_path):
    captions, bad = both(write(tmp_path, pairs({"0": ("jpg",), "1": ("png", "txt"), "2": ("jpg", "txt")})))
    assert list(captions) == ["1", "2"]
    assert [(found.kind, found.id) for found in bad] == [("empty caption", "0")]


@pytest.mark.parametrize(
    ("names", "suffixes"),
    [
        (("a.0", "a.1", "b.c.d"), ("jpg", "txt")),
        (("x", "y"), ("jpg", "jpg.txt")),
        (("x", "y"), ("JPG", "TXT")),
        (("d/x", "e/x"), ("jpg", "txt")),
    ],
)
def test_dots_in_names_and_doubled_and_large_suffixes_are_read_as_meant(tmp_path, names, suffixes):
    assert list(both(write(tmp_path, pairs(names, suffixes)))[0]) == list(names)


def test_several_images_of_a_sample_keep_their_columns(tmp_path):
    folder = write(tmp_path, pairs(("0", "1"), ("left.jpg", "right.jpg", "txt")))
    assert list(both(folder, image_column="left.jpg")[0]) == ["0", "1"]


def test_what_a_mac_puts_beside_a_file_is_passed_over(tmp_path):
    files = [("._0.jpg", b"x"), ("__MACOSX/._0.txt", b"x"), *pairs(("0",)), (".DS_Store", b"x"), *pairs(("1",))]
    assert list(both(write(tmp_path, files))[0]) == ["0", "1"]


def test_texts_may_be_packed_or_in_other_encodings(tmp_path):
    files = [("0.jpg", encoded()), ("0.txt", "Häuser".encode("cp1252")), ("1.jpg", encoded())]
    assert both(write(tmp_path / "a", [*files, ("1.txt", "Häuser".encode("utf-16"))]))[0] == {
        "0": ["Häuser"],
        "1": ["Häuser"],
    }
    packed = [("0.jpg", encoded()), ("0.txt.gz", gzip.compress(b"packed"))]
    assert both(write(tmp_path / "b", packed), caption_column="txt.gz")[0] == {"0": ["packed"]}


def test_json_of_other_keys_or_with_nan_costs_no_other_sample(tmp_path):
    told = [{"caption": "a"}, {"caption": "b", "more": {"c": 1}}, {"caption": "c", "score": float("nan")}]
    files = [f for n, own in enumerate(told) for f in ((f"{n}.jpg", encoded()), (f"{n}.json", json.dumps(own)))]
    captions, bad = both(write(tmp_path, files))
    assert captions == {"0": ["a"], "1": ["b"]}
    assert [found.id for found in bad] == ["2"]


def test_a_tar_that_was_cut_gives_what_is_whole_and_is_named(tmp_path):
    folder = write(tmp_path, pairs(map(str, range(6))))
    content = (folder / "train-0.tar").read_bytes()
    (folder / "train-0.tar").write_bytes(content[: content.index(b"4.jpg") + 700])
    write(folder, pairs(("x",)), "train-1.tar")
    captions, bad = both(folder)
    assert list(captions) == ["0", "1", "2", "3", "x"]
    assert [(found.kind, found.id, found.why) for found in bad] == [
        ("cut archive", "train-0.tar", "it ends in the middle of 4.jpg; copy it again")
    ]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 99], ids=["empty", "other"])
def test_a_file_that_is_no_tar_is_named_and_the_others_are_read(tmp_path, content):
    (write(tmp_path, pairs(("x",)), "train-1.tar") / "train-0.tar").write_bytes(content)
    captions, bad = both(tmp_path)
    assert list(captions) == ["x"]
    assert [found.id for found in bad] == ["train-0.tar"]


def test_tars_without_samples_are_refused(tmp_path):
    write(tmp_path, [("README", "x")])
    with pytest.raises(DataError, match="its tars hold no samples"):
        load_split(DataSettings(path=str(tmp_path)), "train")


def test_wherever_a_tar_is_cut_its_headers_promise_what_is_read():
    whole = tar([(f"{number}.{suffix}", b"x" * (700 + number)) for number in range(3) for suffix in ("jpg", "txt")])
    for cut in (*range(0, len(whole), 97), *range(0, len(whole), 512)):
        part = whole[:cut]
        keys, fault = keys_in(io.BytesIO(part))
        files = ((name, file.read()) for name, file in ArchiveIterable._iter_tar(io.BytesIO(part)))
        assert [key for key, _ in samples_in(files)] == keys
        assert [row["__key__"] for row in rows_in(io.BytesIO(part), ["txt"])] == keys
        assert fault is not None or len(keys) == 3


def test_the_folder_that_img2dataset_writes_is_read_by_its_tars(tmp_path):
    from datasets import Dataset

    for split in ("train", "validation"):
        write(tmp_path / split, [*pairs((f"{split}0", f"{split}1")), (f"{split}1.json", "{}")], "00000.tar")
        Dataset.from_dict({"url": ["x"], "caption": ["c"]}).to_parquet(tmp_path / split / "00000.parquet")
        (tmp_path / split / "00000_stats.json").write_text("{}")
    assert list(both(tmp_path)[0]) == ["train0", "train1"]
    assert load_split(DataSettings(path=str(tmp_path)), "validation").texts["captions"] == [
        ["of validation0"],
        ["of validation1"],
    ]
