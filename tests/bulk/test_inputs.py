"""What a person may name as input, and the contexts found around each image."""

import os
import unicodedata

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pillow

from captioner.bulk import METADATA_TEMPLATE, Context, find_inputs, find_texts
from captioner.bulk.inputs import InputError, Item
from captioner.data import read_metadata

XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">The harbour</rdf:li></rdf:Alt></dc:title>
<dc:subject><rdf:Bag><rdf:li>boats</rdf:li><rdf:li>dusk</rdf:li></rdf:Bag></dc:subject>
</rdf:Description></rdf:RDF></x:xmpmeta>"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two images, one deeper, one hidden, and a note; one stands in their folder."""
    for name in ("b.png", "a.JPG", "deep/c.webp", ".hidden.png", "deep/deeper/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.new("RGB", (8, 8), "red").save(tmp_path / name)
    (tmp_path / "note.md").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_its_images_in_name_order_and_deeper_ones_on_request(here):
    assert find_inputs(["."]).names == ["./a.JPG", "./b.png"]
    found = find_inputs(["."], recursive=True)
    assert found.names == ["./a.JPG", "./b.png", "./deep/c.webp", "./deep/deeper/d.png"]
    assert [item.index for item in found] == [0, 1, 2, 3]
    assert find_inputs(["."], recursive=True, limit=3).names == found.names[:3]


def test_globs_files_and_folders_mix_and_no_file_comes_twice(here):
    assert find_inputs(["b.png", "deep/*", "**/*.png"]).names == ["b.png", "deep/c.webp", "deep/deeper/d.png"]


def test_loops_of_links_end_and_broken_links_are_reported_later(here):
    (here / "deep/back").symlink_to(here, target_is_directory=True)
    (here / "self.png").symlink_to("self.png")
    (here / "gone.png").symlink_to("nowhere.png")
    names = find_inputs(["."], recursive=True).names
    assert names == ["./a.JPG", "./b.png", "./gone.png", "./self.png", "./deep/c.webp", "./deep/deeper/d.png"]


def test_a_folder_that_is_named_like_an_image_is_reported_later(here):
    (here / "x.jpg").mkdir()
    assert "./x.jpg" in find_inputs(["."]).names


def test_a_list_holds_paths_of_any_bytes_relative_to_it_or_to_where_one_stands(here):
    os.rename("b.png", b"b\xff\n.png")
    (here / "deep/list.txt").write_bytes(b"c.webp\0a.JPG\0b\xff\n.png\0")
    found = find_inputs(["deep/list.txt"])
    assert found.names == ["c.webp", "a.JPG", "b\udcff\n.png"]
    assert [item.file for item in found] == ["deep/c.webp", "a.JPG", "b\udcff\n.png"]
    (here / "lines.txt").write_text("a.JPG\n\ndeep/c.webp\n")
    assert find_inputs(["lines.txt"]).names == ["a.JPG", "deep/c.webp"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("deep/t.csv", 'file_name,title\nc.webp,"one, two"\na.JPG,three\n'),
        ("deep/t.jsonl", '{"image": "c.webp", "title": "one, two"}\n{"image": "a.JPG", "title": "three"}\n'),
    ],
)
def test_rows_of_a_table_bring_their_columns(here, name, content):
    (here / name).write_text(content)
    found = find_inputs([name])
    assert [(item.name, item.file, item.columns["title"]) for item in found] == [
        ("c.webp", "deep/c.webp", "one, two"),
        ("a.JPG", "a.JPG", "three"),
    ]
    assert found.columns == {"title"}


def test_images_inside_parquet_and_saved_datasets_are_read(here):
    pixels = (here / "b.png").read_bytes()
    rows = {"photo": [{"bytes": pixels, "path": None}] * 2, "title": ["x", "y"]}
    table = Dataset.from_dict(rows, features=Features({"photo": Image(), "title": Value("string")}))
    table.to_parquet("t.parquet")
    DatasetDict({"dev": table}).save_to_disk("saved")
    for path, split in (("t.parquet", None), ("saved", "dev")):
        found = find_inputs([path], image_column="photo", split=split)
        assert [(item.name, item.image["bytes"], item.columns) for item in found] == [
            (f"{path}#0", pixels, {"title": "x"}),
            (f"{path}#1", pixels, {"title": "y"}),
        ]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.png", "there is no file or folder 'none.png'"),
        ("empty", "no images in empty: looked for"),
        ("*.tiff", "no images in"),
        ("t.csv", "t.csv has no column of images but name; name one with `--image-column`"),
        ("broken.parquet", "cannot read the table 'broken.parquet'"),
        ("saved", "has no split 'train' but dev; choose one with `--split`"),
        ("no/such", "no datasets repository that can be loaded"),
    ],
)
def test_what_cannot_be_used_is_explained(here, path, message):
    (here / "empty").mkdir()
    (here / "t.csv").write_text("name\nx\n")
    (here / "broken.parquet").write_text("nothing")
    DatasetDict({"dev": Dataset.from_dict({"image": ["b.png"]})}).save_to_disk("saved")
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        find_inputs([path])


def test_a_template_takes_columns_places_and_metadata_and_is_nothing_when_all_are_empty():
    item = Item("in/cats/tom.png", "x", "in/cats/tom.png", {"title": "Tom", "tags": ["cat", "grey"], "empty": None})
    read = Context("{title}: {tags} in {directory}, {name} {{x}}", columns=["title", "tags", "empty"])
    assert read(item) == "Tom: cat, grey in cats, tom {x}"
    assert read.varies
    assert Context("see {empty} {description}", columns=["empty"])(item) is None
    assert Context("one {{text}}")(item) == "one {text}"
    assert not Context()
    assert not Context("one").varies


@pytest.mark.parametrize(
    ("template", "message"),
    [("{year}", r"has the field \{year\}, but there is title, name"), ("{", "is no template"), ("{title!r}", "plain")],
)
def test_a_template_that_no_image_can_fill_is_explained(template, message):
    with pytest.raises(InputError, match=message):
        Context(template, columns=["title"])


def test_a_text_file_beside_the_image_is_its_context(here):
    (here / "b.txt").write_text("\ufeffbees,\nhives\n")
    read = Context(sidecar_extension=".txt")
    items = list(find_inputs(["."]))
    assert [read(item) for item in items] == [None, "bees, hives"]


def test_exif_iptc_and_xmp_are_read_and_xmp_comes_first(tmp_path):
    exif = Pillow.Exif()
    exif[0x010E] = "A boat"
    exif[0x9C9B] = "Old title\0".encode("utf-16-le")
    exif[0x9C9E] = "sea;sky".encode("utf-16-le")
    path = tmp_path / "x.jpg"
    Pillow.new("RGB", (8, 8)).save(path, exif=exif)
    assert read_metadata(str(path)) == {"title": "Old title", "keywords": "sea, sky", "description": "A boat"}
    Pillow.new("RGB", (8, 8)).save(path, exif=exif, xmp=XMP)
    assert read_metadata(path.read_bytes()) == {
        "title": "The harbour", "keywords": "boats, dusk", "description": "A boat",
    }  # fmt: skip
    item = Item("x.jpg", str(path), str(path))
    assert Context(METADATA_TEMPLATE)(item) == "The harbour A boat boats, dusk"


def test_iptc_is_read_whether_or_not_its_charset_is_declared(tmp_path):
    def field(number, text):
        return b"\x1c\x02" + bytes([number]) + len(text).to_bytes(2, "big") + text

    data = field(5, "Café".encode()) + field(25, b"tea") + field(25, "G\u00e4ste".encode("latin-1"))
    block = b"8BIM\x04\x04\0\0" + len(data).to_bytes(4, "big") + data + b"\0" * (len(data) % 2)
    segment = b"Photoshop 3.0\0" + block
    path = tmp_path / "x.jpg"
    Pillow.new("RGB", (8, 8)).save(path)
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:])
    assert read_metadata(str(path)) == {"title": "Café", "keywords": "tea, Gäste"}


def test_metadata_of_a_file_that_is_no_image_is_nothing(tmp_path):
    (tmp_path / "x.jpg").write_text("nothing")
    assert read_metadata(str(tmp_path / "x.jpg")) == {}


def picture(path, form=None):
    Pillow.new("RGB", (8, 8)).save(path, form)


def test_one_file_comes_once_however_it_is_spelled_and_links_are_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    picture("a.png")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "sub/l.txt").write_text("../a.png\n../a.png\n./../a.png\n")
    found = find_inputs([".", "a.png", str(tmp_path / "a.png"), "sub/../a.png", "sub/l.txt"])
    assert found.names == ["./a.png", "./link.png"]


@pytest.mark.parametrize(
    "content",
    [
        b"a.png \r\n# mine\r\n\"b b.png\"\r\n'#c.png'\r\n",
        b"\xef\xbb\xbfa.png\n\n  b b.png\n#c.png\n",
        "a.png\nb b.png\n#c.png\n# mine\n".encode("utf-16"),
        b"a.png\0b b.png\0#c.png\0",
    ],
)
def test_lists_are_read_as_people_mean_them(tmp_path, content):
    for name in ("a.png", "b b.png", "#c.png"):
        picture(tmp_path / name)
    (tmp_path / "l.txt").write_bytes(content)
    found = find_inputs([str(tmp_path / "l.txt")])
    assert found.names == ["a.png", "b b.png", "#c.png"]
    assert all(os.path.exists(item.file) for item in found)


def test_names_in_another_unicode_form_are_found(tmp_path):
    picture(tmp_path / unicodedata.normalize("NFD", "café.png"))
    (tmp_path / "l.csv").write_text(f"image\n{unicodedata.normalize('NFC', 'café.png')}\n")
    (item,) = find_inputs([str(tmp_path / "l.csv")])
    assert os.path.exists(item.file)
    (item,) = find_inputs([str(tmp_path / unicodedata.normalize("NFC", "café.png"))])
    assert os.path.exists(item.file)


def test_pictures_of_cameras_are_taken_and_those_that_are_not_read_are_counted(tmp_path):
    for name in ("a.MPO", "b.jp2", "c.jpg_large"):
        (tmp_path / name).write_bytes(b"")
    for name in ("d.CR2", "e.svg", "notes.doc"):
        (tmp_path / name).write_bytes(b"")
    found = find_inputs([str(tmp_path)])
    assert [os.path.basename(name) for name in found.names] == ["a.MPO", "b.jp2", "c.jpg_large"]
    assert [os.path.basename(name) for name in found.left_out] == ["d.CR2", "e.svg"]


def test_columns_called_image_and_headers_with_spaces_are_found(tmp_path):
    picture(tmp_path / "a.png")
    rows = {"image": [{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}] * 2, "captions": ["a", "b"]}
    features = Features({"image": Image(), "captions": Value("string")})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
    assert len(find_inputs([str(tmp_path / "t.parquet")])) == 2
    (tmp_path / "l.csv").write_text("title, image\nanna, a.png\n")
    found = find_inputs([str(tmp_path / "l.csv")])
    assert os.path.exists(found[0].file)
    assert Context("{title}", columns=found.columns)(found[0]) == "anna"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_texts_and_contexts_are_read_in_the_encodings_that_people_have(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("the Häuser anna\u2026".encode(encoding))
    item = Item("a.png", None, str(tmp_path / "a.png"))
    assert Context(sidecar_extension=".txt")(item) == "the Häuser anna\u2026"
    assert find_texts(str(tmp_path / "a.txt")).names == ["the Häuser anna\u2026"]
