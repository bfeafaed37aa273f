"""Images to records: every odd image captioned, every bad one a reason, in order, whatever the batch."""

import itertools
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from captioner import caption, load
from captioner.base import GenerationSettings
from captioner.bulk import Captioning, CaptioningOptions, Context, find_inputs
from captioner.bulk.captioning import CaptioningError
from captioner.bulk.inputs import Item
from captioner.bulk.reading import Reader
from captioner.model import open_image
from captioner.scenes import Scenes

SIZE = (40, 30)
CONTEXT = "the red circle anna . the blue star otto"


@pytest.fixture(scope="module")
def loaded():
    """A shipped captioner: it looks and reads."""
    return load("scenes-separate")


@pytest.fixture(scope="module")
def photos():
    return [Image.fromarray(Scenes("test", [2], 7)[i]["image"]) for i in range(7)]


def captioning(loaded, **options):
    options = {"generation": GenerationSettings(num_beams=2, max_new_tokens=12), **options}
    return Captioning(*loaded, CaptioningOptions(**options))


def colourful():
    """An image of which every corner has another colour."""
    rows = np.linspace(0, 255, SIZE[1], dtype=np.uint8)[:, None].repeat(SIZE[0], 1)
    columns = np.linspace(0, 255, SIZE[0], dtype=np.uint8)[None].repeat(SIZE[1], 0)
    return Image.fromarray(np.stack([rows, columns, np.full_like(rows, 90)], axis=-1))


def grey16():
    return Image.fromarray(np.asarray(colourful().convert("L"), dtype=np.uint16) * 257)


def transparent_palette():
    image = colourful().quantize(16)
    image.info["transparency"] = 0
    return image


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


ODD = {
    "cmyk.jpg": (lambda: colourful().convert("CMYK"), {}),
    "grey16.png": (grey16, {}),
    "palette.png": (transparent_palette, {}),
    "rotated.jpg": (colourful, rotated()),
    "moving.gif": (colourful, {"save_all": True, "append_images": [Image.new("RGB", SIZE)]}),
    "moving.webp": (colourful, {"save_all": True, "append_images": [Image.new("RGB", SIZE)]}),
    "new.avif": (colourful, {}),
    "with space.png": (colourful, {}),
    "new\nline.png": (colourful, {}),
    "emoji 🐱.png": (colourful, {}),
    os.fsdecode(b"bytes\xff\xfe.png"): (colourful, {}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_read_upright_and_in_their_colours(loaded, tmp_path, name):
    make, options = ODD[name]
    path = os.path.join(tmp_path, name)
    make().save(path, **options)
    settings = loaded[1].image_settings
    reading = Reader(settings)[find_inputs([str(tmp_path)])[0]]
    assert reading.error is None
    expected = colourful()
    if name == "rotated.jpg":
        expected = expected.transpose(Image.Transpose.ROTATE_270)
    if name == "grey16.png":
        expected = expected.convert("L").convert("RGB")
    if name == "palette.png":
        expected = Image.alpha_composite(Image.new("RGBA", SIZE, "white"), transparent_palette().convert("RGBA"))
    difference = reading.pixels.float() - settings.fit(expected.convert("RGB")).float()
    assert difference.abs().mean() < 12  # of 255; lossy formats


def test_heic_is_read_with_the_extra_and_names_it_without(loaded, tmp_path, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "phone.heic"
    pillow_heif.from_pillow(colourful()).save(path)
    reader, photo = Reader(loaded[1].image_settings), find_inputs([str(tmp_path)])[0]
    assert reader[photo].error is None
    monkeypatch.delitem(Image.OPEN, "HEIF")
    monkeypatch.setattr("captioner.model.image_files.read_heic", lambda: False)
    assert "pip install 'captioner[heic]'" in reader[photo].error


def test_a_large_jpeg_is_decoded_at_a_smaller_scale_and_looks_the_same(loaded, photos, tmp_path):
    settings, name = loaded[1].image_settings, str(tmp_path / "large.jpg")
    side = 16 * settings.height
    photos[0].resize((side, side)).save(name, quality=95)
    least = 2 * settings.height
    assert open_image(name).size == (side, side)
    assert open_image(name, least).size == (least, least)
    whole, scaled = settings.fit(open_image(name)).float(), Reader(settings)[Item(name, name)].pixels.float()
    assert (whole - scaled).abs().mean() < 2


def bomb(width, height):
    """A PNG that claims to be large, and has no pixels."""
    claims = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": b"", b"IEND": b""}
    chunks = (
        struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in claims.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def make_bad(folder):
    """Bad files, each with what is said about it."""
    colourful().save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("this is no image")
    (folder / "folder.jpg").mkdir()
    (folder / "bomb.png").write_bytes(bomb(30_000, 30_000))
    (folder / "other.ico").write_bytes(b"\0\0\1\0")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (1, 20_000)).save(folder / "line.png")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    return {
        "bomb.png": "30000 × 30000 = 900,000,000 pixels, and at most 120,000,000 are read;",
        "dot.png": "1 pixels wide and 1 high; each must be at least 2",
        "empty.jpg": "the file is empty (0 bytes)",
        "folder.jpg": "it is a folder",
        "line.png": "1 pixels wide and 20000 high",
        "loop.png": "Too many levels of symbolic links",
        "other.ico": "cannot read the image",
        "pipe.png": "it is no regular file",
        "text.jpg": "not in an image format",
        "truncated.jpg": "truncated",
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_reasons_and_the_images_between_them_are_captioned(loaded, photos, tmp_path, workers):
    reasons = make_bad(tmp_path)
    photos[0].save(tmp_path / "fine.png")
    photos[1].save(tmp_path / "zebra.png")
    job = captioning(loaded, batch_size=3, workers=workers)
    records = {os.path.basename(r["image"]): r for _, r in job.run(find_inputs([str(tmp_path)]))}
    assert list(records) == sorted([*reasons, "fine.png", "zebra.png"])
    for name, reason in reasons.items():
        assert reason in records[name]["error"]
        assert "caption" not in records[name]
    assert records["fine.png"]["caption"]
    assert records["zebra.png"]["caption"]


def test_a_file_that_may_not_be_read_is_a_reason(loaded, photos, tmp_path, monkeypatch):
    def deny(path, mode):
        raise PermissionError(13, "Permission denied", path)

    photos[0].save(tmp_path / "x.png")
    monkeypatch.setattr("captioner.model.image_files.open", deny, raising=False)
    reading = Reader(loaded[1].image_settings)[find_inputs([str(tmp_path)])[0]]
    assert reading.error.endswith("x.png': Permission denied")


def test_the_most_pixels_of_an_image_can_be_set(loaded, photos, tmp_path):
    photos[0].resize(SIZE).save(tmp_path / "x.png")
    photo, settings = find_inputs([str(tmp_path)])[0], loaded[1].image_settings
    assert Reader(settings, max_pixels=SIZE[0] * SIZE[1])[photo].error is None
    error = Reader(settings, max_pixels=SIZE[0] * SIZE[1] - 1)[photo].error
    assert f"{SIZE[0] * SIZE[1]:,} pixels, and at most {SIZE[0] * SIZE[1] - 1:,} are read" in error
    assert "`--max-pixels`" in error


def test_captions_come_in_order_and_do_not_depend_on_their_batch(loaded, photos):
    alone = [next(caption([photo], loaded, beams=2, max_new_tokens=12))["caption"] for photo in photos]
    for size in (2, 7):
        records = list(caption(photos, loaded, beams=2, max_new_tokens=12, batch_size=size))
        assert [record["image"] for record in records] == [str(i) for i in range(7)]
        assert [record["caption"] for record in records] == alone
    assert len(set(alone)) > 1


def test_captions_equal_those_of_generate(loaded, photos):
    model, processor = loaded
    batch = processor(images=photos, context=[CONTEXT] * 7)
    expected = processor.batch_decode(model.generate(**batch, num_beams=3, max_new_tokens=30))
    assert [record["caption"] for record in caption(photos, loaded, CONTEXT)] == expected


def test_an_iterator_without_end_is_captioned_as_it_comes(loaded, photos):
    endless = itertools.cycle(photos)
    records = list(itertools.islice(caption(endless, loaded, beams=1, batch_size=2), 9))
    assert [record["caption"] for record in records[7:]] == [record["caption"] for record in records[:2]]


def test_a_context_of_its_own_goes_with_each_image_whatever_its_length(loaded, photos):
    contexts = [CONTEXT, None, "eva is the green square", "", CONTEXT + " . ida is the green square", None, CONTEXT]
    together = list(caption(photos, loaded, iter(contexts), batch_size=2))
    for photo, text, record in zip(photos, contexts, together, strict=True):
        (alone,) = caption([photo], loaded, text or None)
        assert record["caption"] == alone["caption"]
        assert record.get("context") == (text or None)
    assert len({record["caption"] for record in together}) > 1


def test_several_captions_with_scores_are_the_best_first(loaded, photos):
    (record,) = caption(photos[:1], loaded, num_return_sequences=3, scores=True)
    assert record["captions"][0] == record["caption"]
    assert len(set(record["captions"])) == 3
    assert record["scores"] == sorted(record["scores"], reverse=True)
    assert "score" in next(caption(photos[:1], loaded, scores=True))


def test_words_that_are_forced_and_forbidden_are_a_reason(loaded, photos):
    impossible = GenerationSettings(num_beams=2, max_new_tokens=12, force_words=["red"], bad_words=["red"])
    job = captioning(loaded, generation=impossible)
    records = [record for _, record in job.run(map(item, range(2), photos))]
    assert all("forced words" in record["error"] for record in records)


def test_drawn_captions_are_an_images_own_whatever_its_batch(loaded, photos):
    draw = {"beams": 1, "do_sample": True, "temperature": 3.0, "max_new_tokens": 8}
    one = [record["caption"] for record in caption(photos, loaded, seed=3, batch_size=1, **draw)]
    assert one == [record["caption"] for record in caption(photos, loaded, seed=3, batch_size=7, **draw)]
    assert one != [record["caption"] for record in caption(photos, loaded, seed=4, **draw)]


class Greedy:
    """Stands for a captioner's search on a device that holds only so many images."""

    def __init__(self, job, most, error):
        self.search, self.most, self.error, self.sizes = job._search, most, error, []

    def __call__(self, readings):
        self.sizes.append(len(readings))
        if len(readings) > self.most:
            raise self.error
        return self.search(readings)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_out_of_memory_halves_the_batch_and_loses_nothing(loaded, photos, monkeypatch, error):
    expected = [record for _, record in captioning(loaded).run(map(item, range(7), photos))]
    job = captioning(loaded, batch_size=7)
    monkeypatch.setattr(job, "_search", Greedy(job, 2, error))
    assert [record for _, record in job.run(map(item, range(7), photos))] == expected
    assert job._search.sizes == [7, 3, 1, *[1] * 6]
    assert job.batch_size == 1


def test_an_image_that_does_not_fit_alone_is_given_up_and_other_errors_are_raised(loaded, photos, monkeypatch):
    job = captioning(loaded, batch_size=2)
    monkeypatch.setattr(job, "_search", Greedy(job, 0, MemoryError()))
    records = [record for _, record in job.run(map(item, range(2), photos))]
    assert all("out of memory" in record["error"] for record in records)
    job = captioning(loaded)
    monkeypatch.setattr(job, "_search", Greedy(job, 0, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(job.run(map(item, range(2), photos)))


def item(index, photo):
    return Item(str(index), photo, index=index)


def test_a_captioner_without_the_modality_is_refused(loaded, monkeypatch):
    config = type(loaded[0].config)
    monkeypatch.setattr(config, "modalities", property(lambda self: ["image"]))
    with pytest.raises(CaptioningError, match="no context encoder; leave it out"):
        captioning(loaded, context=Context("x"))
    monkeypatch.setattr(config, "modalities", property(lambda self: ["context"]))
    with pytest.raises(CaptioningError, match="it cannot caption images"):
        captioning(loaded)
