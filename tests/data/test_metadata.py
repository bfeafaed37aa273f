"""What image files say about themselves is read in the encoding that their programs write."""

import io

import pytest
from PIL import ExifTags, Image

from captioner.data import read_metadata


def photo(description: bytes) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = description
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_a_description_may_be_in_utf_8_or_windows_1252(encoding):
    content = photo("Häuser in Zürich".encode(encoding))
    assert read_metadata(content) == {"description": "Häuser in Zürich"}
