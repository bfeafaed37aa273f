"""Image files are let in by their format, whatever they are called, and by the pixels that their headers say."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile
from samples import encode, photo

from captioner.data.metadata import read_metadata
from captioner.model import MAX_PIXELS, ImageError, ImageSettings, images, open_image
from captioner.model.image_files import IMAGE_FORMATS, TOO_LARGE, check_image, opened

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
SIDE = 13_000


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, *between, pixels=b"\0" * 9):
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), *between, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def animated_png(width, height):
    """Pillow fills a canvas of its size while it opens it."""
    frame = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 1, 1, 0)
    return png(width, height, chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", frame))


def gif(width, height, frame_width, frame_height):
    canvas = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff!\xf9\4\x08\0\0\0\0"
    return b"GIF89a" + canvas + b"," + struct.pack("<HHHHB", 0, 0, frame_width, frame_height, 0) + b"\2\2D\1\0;"


def icon(picture):
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(picture), 22) + picture


def bitmap(width, height, bits=24):
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)


def tiff(width, height, *more):
    tags = [(256, width), (257, height), (258, 8), (259, 8), (262, 1), (277, 1), *more, (324, 400), (325, 9)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 400


BOMBS = {
    "PNG": png(SIDE, SIDE),
    "PNG of the most": png(2**31 - 1, 2**31 - 1),
    "animated PNG": animated_png(SIDE, SIDE),
    "GIF": gif(SIDE, SIDE, SIDE, SIDE),
    "GIF whose frame widens it": gif(2, 2, SIDE, SIDE),
    "GIF whose frame widens it to the most": gif(2, 2, 65_535, 65_535),
    "icon of a PNG": icon(png(SIDE, SIDE)),
    "icon of an animated PNG": icon(animated_png(SIDE, SIDE)),
    "icon of a bitmap": icon(bitmap(SIDE, 2 * SIDE)),
    "BMP": b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + bitmap(SIDE, SIDE),
    "TIFF": tiff(SIDE, SIDE, (273, 400), (278, SIDE)),
    "TIFF of tiles larger than it": tiff(64, 64, (322, SIDE), (323, SIDE)),
    "PPM": b"P6 13000 13000 255 ",
    "TGA": struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, SIDE, SIDE, 24, 0) + b"\xff" * 9,
    "JPEG": encode(photo(), "JPEG").replace(struct.pack(">HH", 37, 53), struct.pack(">HH", SIDE, SIDE)),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_too_many_pixels_are_refused_before_any_is_decoded(name, tmp_path, monkeypatch):
    file = tmp_path / "small.jpg"
    file.write_bytes(BOMBS[name])
    assert file.stat().st_size < 3000
    ways = [BOMBS[name], str(file), file, {"bytes": None, "path": str(file)}]
    eager = any(word in name for word in ("most", "icon", "animated"))  # Pillow decodes or fills those as it opens them
    ways += [] if eager else [Image.open(file)]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    for given in ways:
        with pytest.raises(ImageError) as caught:
            open_image(given)
        said = str(caught.value)
        assert said.endswith(f"; {TOO_LARGE}")
        assert "--max-pixels" in said
        assert "pixels, and at most 120,000,000 are read" in said or "4294836225 pixels" in said


def test_refusing_a_bomb_takes_no_memory():
    code = (
        "import resource, sys\n"
        "from captioner.model.image_files import opened\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "opened(b'').__class__; before = peak()\n"
        "for part in sys.stdin.buffer.read().split(b'|||'):\n"
        "    try:\n"
        "        with opened(part) as image: image.load()\n"
        "    except Exception: pass\n"
        "print((peak() - before) // 1024)"
    )
    given = b"|||".join(BOMBS.values())
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], input=given, capture_output=True, check=True)
    assert int(done.stdout) < 100  # megabytes; a frame of each would take 700


def test_a_limit_may_be_raised_and_lowered(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    data = encode(photo())
    assert open_image(data).size == (53, 37)
    for form in ("TIFF", "GIF", "ICO", "BMP"):
        assert open_image(encode(photo(), form)).width > 20
    for source in (data, photo(), np.asarray(photo()), {"bytes": data}):
        assert open_image(source, most=37 * 53).size == (53, 37)
        with pytest.raises(ImageError, match=r"53 × 37 = 1,961 pixels, and at most 1,960 are read"):
            open_image(source, most=37 * 53 - 1)
    assert MAX_PIXELS < SIDE**2


def test_a_file_without_pixels_says_so():
    for data in (png(0, 5), png(0, 0), png(7, 0), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError, match="pixels wide and . high, so there is nothing to see; leave it out$"):
            open_image(data)


READ = {"JPEG": 12, "PNG": 0, "GIF": 60, "WEBP": 60, "BMP": 0, "DIB": 0, "TIFF": 0, "PPM": 0, "JPEG2000": 0, "AVIF": 60}


@pytest.mark.parametrize("form", [*READ, "TGA", "MPO"])
@pytest.mark.parametrize("suffix", [".jpg", ".jp2", ""])
def test_a_format_that_is_read_is_known_by_its_bytes_whatever_the_name(form, suffix, tmp_path):
    smooth = photo(3, 4).resize((40, 30), Image.Resampling.BICUBIC)
    file = tmp_path / f"photo{suffix}"
    smooth.save(file, form)
    for source in (file, str(file), file.read_bytes()):
        found = open_image(source)
        assert (found.mode, found.size) == ("RGB", (40, 30))
        assert np.abs(np.asarray(found, int) - np.asarray(smooth, int)).mean() < READ.get(form, 12) + 1


def test_two_pictures_in_one_file_are_the_first_of_them(tmp_path):
    first, second = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (20, 10), "blue")
    first.save(tmp_path / "eyes.mpo", save_all=True, append_images=[second])
    assert Image.open(tmp_path / "eyes.mpo").format == "MPO"
    red, _, blue = open_image(tmp_path / "eyes.mpo").getpixel((5, 5))
    assert (red > 250, blue < 5) == (True, True)
    assert open_image(Image.open(tmp_path / "eyes.mpo")).size == (20, 10)


REFUSED = {
    "EPS": EPS,
    "EPS of DOS": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + b"\0" * 20 + EPS,
    "PSD": b"8BPS\0\1" + b"\0" * 20,
    "PDF": b"%PDF-1.7\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'>",
    "HTML": b"\n\n<!DOCTYPE html><html>",
    "XML": b"<?xml version='1.0'?>",
    "FITS": b"SIMPLE  =                    T" + b" " * 99,
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + b"\0" * 40,
    "GBR or GRIB": b"GRIB\0\0\0\1",
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 20,
    "ICNS": b"icns" + b"\0" * 20,
    "DDS": b"DDS |" + b"\0" * 20,
    "XPM": b"/* XPM */\nstatic",
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_other_format_is_refused_by_name_and_nothing_is_started(name, tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was started"))
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    file = tmp_path / "photo.jpg"
    file.write_bytes(REFUSED[name])
    for source in (str(file), REFUSED[name], {"bytes": REFUSED[name], "path": "photo.jpg"}):
        with pytest.raises(ImageError) as caught:
            open_image(source)
        form = name.removesuffix(" of DOS")
        assert f"it is in the format {form}, which is not read; save it as JPEG or PNG" in str(caught.value)
    assert read_metadata(str(file)) == {}


def test_an_image_that_pillow_opened_and_has_not_decoded_is_refused_likewise(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(EPS)
    with pytest.raises(ImageError, match="it is in the format EPS, which is not read"):
        open_image(Image.open(tmp_path / "photo.jpg"))
    decoded = EpsImagePlugin.EpsImageFile(tmp_path / "photo.jpg")
    decoded.tile = []  # as after `load`
    check_image(decoded)


def test_no_plugin_of_pillow_is_asked_beyond_the_list(monkeypatch):
    Image.init()
    for name, (_, accepts) in list(Image.OPEN.items()):
        if name not in IMAGE_FORMATS:
            monkeypatch.setitem(Image.OPEN, name, (lambda *a: pytest.fail("it was opened"), accepts))
    for form in READ:
        assert open_image(encode(photo(), form)).size == (53, 37)
    for data in (b"nothing at all, but some text", bytes(100), b"\xff" * 100, os.urandom(99)):
        with pytest.raises(ImageError):
            open_image(data)


def test_a_missing_extra_is_named_whatever_the_suffix(tmp_path, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(photo(64, 64)).save(buffer)
    (tmp_path / "phone.jpg").write_bytes(buffer.getvalue())
    assert open_image(tmp_path / "phone.jpg").size == (64, 64)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ImageError, match=r"HEIC images need an extra: pip install 'captioner\[heic\]'"):
        open_image(tmp_path / "phone.jpg")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_that_opens_to_much_is_refused_within_pillows_limit(kind):
    text = (b"key\0\1\0\0\0" if kind == b"iTXt" else b"key\0\0") + zlib.compress(bytes(64 << 20), 9)
    with pytest.raises(ImageError, match="Decompressed data too large"):
        open_image(png(2, 2, chunk(kind, text), pixels=bytes(18)))


def test_what_is_no_file_says_what_it_is(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.jpg")
    said = {
        tmp_path / "empty.jpg": "the file is empty (0 bytes); copy it again from where it came",
        tmp_path: "it is a folder",
        tmp_path / "pipe.jpg": "it is no regular file",
        "/dev/null": "it is no regular file",
        "https://example.org/photo.jpg": "it is an address, not a file; download it, then give the file or its bytes",
        b"\xff\xd8\xff": "the header of this JPEG is damaged: it ends too early",
    }
    for source, reason in said.items():
        with pytest.raises(ImageError) as caught:
            open_image(source)
        assert str(caught.value).endswith(f": {reason}")


MODES = {
    "RGB": photo(64, 48),
    "1": photo(64, 48).convert("1"),
    "L": photo(64, 48).convert("L"),
    "CMYK": photo(64, 48).convert("CMYK"),
    "YCbCr": photo(64, 48).convert("YCbCr"),
    "RGBA": photo(64, 48).convert("RGBA"),
    "LA": photo(64, 48).convert("LA"),
    "PA": photo(64, 48).convert("PA"),
    "P": photo(64, 48).convert("P"),
    "I": Image.fromarray(np.arange(64 * 48, dtype=np.int32).reshape(64, 48) * 21),
    "I;16": Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) * 21),
    "F": Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(64, 48)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("band", [1, 100, 47 * 7])
def test_a_large_image_is_converted_band_by_band_to_what_it_is_at_once(mode, band, monkeypatch):
    image = MODES[mode].copy()
    if "A" in mode:
        image.putalpha(MODES["L"])
    if mode in ("P", "L", "RGB", "1"):
        image.info["transparency"] = {"P": 3, "L": 7, "RGB": (1, 2, 3), "1": 0}[mode]
    settings = ImageSettings(20, 24)
    whole = images.to_rgb(image)
    fitted = settings.fit(whole)
    monkeypatch.setattr(images, "BAND", band)
    banded = images.to_rgb(image)
    assert (banded.mode, banded.size) == ("RGB", (48, 64))
    assert np.array_equal(np.asarray(banded), np.asarray(whole))
    assert np.array_equal(settings.fit(banded), fitted)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_modes_of_files_stay_what_they_are(form, mode):
    image = MODES[mode]
    with opened(encode(image, form)) as file:
        assert file.mode == mode
        assert np.array_equal(np.asarray(images.to_rgb(file)), np.asarray(images.to_rgb(image)))


def test_a_cmyk_photo_is_not_inverted():
    red = Image.new("RGB", (16, 16), (220, 20, 20))
    for form in ("JPEG", "TIFF"):
        seen = np.asarray(open_image(encode(red.convert("CMYK"), form)), int)
        assert np.abs(seen - np.asarray(red, int)).max() < 12
