"""Image files opened: which formats are let in, and how many pixels; all of it is known before anything is decoded.

Formats are a list of our own, for one of Pillow's starts another program (EPS) and others are documents or stubs. Sizes
are read from headers, for a small file can open to gigabytes. Knows nothing about colours or tensors.
"""

import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import DibImageFile
from PIL.IcoImagePlugin import IcoFile

# Pillow's names. Pictures for two eyes (MPO) are JPEGs to it; TGA comes last, since nothing marks it.
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "ICO", "TGA")
OPENED_ELSEWHERE = (*IMAGE_FORMATS, "MPO", None)  # what Pillow says of an image that was opened, or made
MAX_PIXELS = 120_000_000  # decoded, a gigabyte; above what one shot of a phone or a medium format camera has
TOO_LARGE = (
    "make it smaller, or raise the limit: `--max-pixels` of `captioner caption`, `processor.max_pixels` in Python"
)
HEADER = 24  # bytes that tell a format, and the size of a PNG
PNG_START = b"\x89PNG\r\n\x1a\n"
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
NEEDS_EXTRA = "HEIC images need an extra: pip install 'captioner[heic]'"
NO_IMAGES = {"PDF": b"%pdf", "SVG": b"<svg", "XML": b"<?xml", "HTML": (b"<!doctype html", b"<html")}
NO_SUCH_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)  # what Pillow's plugins say it with


@contextmanager
def opened(source: Any, most: int = MAX_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """An image file of which only the header is read; of an animation, its first frame.

    Args:
        source: a path, or encoded bytes.
        most: pixels that it may have.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: no regular file, empty, a format that is not let in, too many pixels or none.
    """
    encoded = isinstance(source, bytes | bytearray)
    with BytesIO(source) if encoded else _file(source) as file:
        image = _recognised(file, "" if encoded else os.fspath(source), most)
        check_pixels(image.size, most)
        if image.format == "TIFF":
            _check_tiles(image, most)
        yield image


def check_pixels(size: tuple[int, int], most: int = MAX_PIXELS) -> None:
    """Refuse a width and height of more pixels, or of none.

    Pillow has a limit of its own, which it raises to ours where ours is higher.

    Raises:
        ValueError: the size, the limit and what to do.
    """
    (width, height), pixels = size, size[0] * size[1]
    if min(size) < 1:
        raise ValueError(f"it is {width} pixels wide and {height} high, so there is nothing to see; leave it out")
    if pixels > most:
        raise ValueError(f"it has {width} × {height} = {pixels:,} pixels, and at most {most:,} are read; {TOO_LARGE}")
    if Image.MAX_IMAGE_PIXELS is not None and pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most


def check_image(image: Image.Image, most: int = MAX_PIXELS) -> None:
    """As `opened` checks a file, an image that someone else opened with Pillow and that may not be decoded yet.

    Raises:
        ValueError: as `opened`.
    """
    waits = isinstance(image, ImageFile.StubImageFile) or bool(getattr(image, "tile", None))
    if waits and image.format not in OPENED_ELSEWHERE:
        raise ValueError(_refused(image.format))
    check_pixels(image.size, most)
    if waits and image.format == "TIFF":
        _check_tiles(image, most)


def read_heic() -> bool:
    """Let Pillow open HEIC images; → whether the extra for it is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _file(path: Any) -> BinaryIO:
    """A regular file; others are refused before they are opened, for pipes would wait for ever."""
    file = os.fspath(path)
    if re.match("https?://", os.fsdecode(file)):
        raise ValueError("it is an address, not a file; download it, then give the file or its bytes")
    mode = os.stat(file).st_mode
    if stat.S_ISDIR(mode):
        readable = os.access(file, os.R_OK | os.X_OK)
        raise ValueError("it is a folder" if readable else "it is a folder that cannot be looked into")
    if not stat.S_ISREG(mode):
        raise ValueError("it is no regular file")
    return open(file, "rb")


def _recognised(file: BinaryIO, name: str | bytes, most: int) -> ImageFile.ImageFile:
    """What Pillow's plugin of the first format that knows the file makes of its header."""
    header = file.read(HEADER)
    if not header:
        raise ValueError("the file is empty (0 bytes); copy it again from where it came")
    Image.preinit()
    damage = None
    for form in IMAGE_FORMATS:
        try:
            if (open_as := _plugin(form, header)) is not None:
                if form in CLAIMS:
                    check_pixels(CLAIMS[form](file), most)
                file.seek(0)
                return open_as(file, name)
        except NO_SUCH_FORMAT as error:
            early = isinstance(error.__cause__ or error, IndexError | struct.error | EOFError)
            said = "it ends too early" if early else error
            damage = damage or (None if form == "TGA" else f"the header of this {form} is damaged: {said}")
    heic_waits = "HEIF" not in Image.OPEN and header[4:8] == b"ftyp" and header[8:12] in HEIC_BRANDS
    raise ValueError(NEEDS_EXTRA if heic_waits else damage or _unknown(header))


def _plugin(form: str, header: bytes) -> Callable[..., ImageFile.ImageFile] | None:
    """What opens a format, if a file that starts so may have it."""
    if form not in Image.OPEN:
        Image.init()
        if form == "HEIF" and header[4:8] == b"ftyp":
            read_heic()
    open_as, accepts = Image.OPEN.get(form, (None, None))
    answer = accepts is None or accepts(header[:16])
    if isinstance(answer, str):
        raise SyntaxError(answer)  # Pillow was built without what reads it
    return open_as if answer else None


def _gif_size(file: BinaryIO) -> tuple[int, int]:
    """Of the canvas, which a first frame may widen."""
    file.seek(6)
    width, height = struct.unpack("<HH", file.read(4))
    return max(width, 1), max(height, 1)


def _png_size(file: BinaryIO) -> tuple[int, int]:
    file.seek(len(PNG_START) + 8)
    return struct.unpack(">II", file.read(8))


def _icon_size(file: BinaryIO) -> tuple[int, int]:
    """The size of the largest picture of an icon, which is a file of its own."""
    file.seek(0)
    place = IcoFile(file).entry[0].offset
    file.seek(place)
    start = file.read(HEADER)
    file.seek(place)
    return struct.unpack(">II", start[16:24]) if start.startswith(PNG_START) else DibImageFile(file).size


# Formats of which Pillow decodes or fills a frame while it opens them → their size by their own word.
CLAIMS = {"GIF": _gif_size, "PNG": _png_size, "ICO": _icon_size}


def _check_tiles(image: ImageFile.ImageFile, most: int) -> None:
    """A tile is decoded whole, however little of it the image shows."""
    tags = image.tag_v2
    if 322 in tags and 323 in tags:  # TileWidth and TileLength
        check_pixels((tags[322], tags[323]), most)


def _unknown(header: bytes) -> str:
    """Why a file that starts so is not let in."""
    Image.init()
    start = header.lstrip().lower()
    known = [name for name, starts in NO_IMAGES.items() if start.startswith(starts)]
    others = {form: accepts for form, (_, accepts) in Image.OPEN.items() if form not in IMAGE_FORMATS}
    known += [form for form, accepts in others.items() if _accepted(accepts, header)]
    return _refused(" or ".join(known)) if known else "it is not in an image format that Pillow reads"


def _accepted(accepts: Callable[[bytes], bool | str] | None, header: bytes) -> bool:
    try:
        return accepts is not None and bool(accepts(header[:16]))
    except NO_SUCH_FORMAT:
        return False


def _refused(form: str) -> str:
    return f"it is in the format {form}, which is not read; save it as JPEG or PNG, or give its pixels"
