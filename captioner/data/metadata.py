"""Title, description and keywords that people and cameras write inside image files: EXIF, IPTC and XMP.

Fields: EXIF 2.32, IPTC-IIM 4.2 (record 2), Dublin Core in XMP; the first source that has one wins. Decodes no pixels
and knows nothing about samples.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image, IptcImagePlugin

from ..model import opened

FIELDS = ("title", "description", "keywords")
IPTC = {"title": (2, 5), "description": (2, 120), "keywords": (2, 25)}
IPTC_CHARSET, UTF_8 = (1, 90), b"\x1b%G"
XP = {"title": ExifTags.Base.XPTitle, "description": ExifTags.Base.XPComment, "keywords": ExifTags.Base.XPKeywords}
DUBLIN_CORE = {"title": "title", "description": "description", "keywords": "subject"}
XMP_KEYS = ("xmp", "XML:com.adobe.xmp")
NAMESPACE = "{http://purl.org/dc/elements/1.1/}"
LIST_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"


def read_metadata(source: Any) -> dict[str, str]:
    """Read what an image file says about itself.

    Args:
        source: a path, encoded bytes or `{"bytes": …, "path": …}`.

    Returns:
        Some of `FIELDS`, keywords joined by commas; nothing where the file cannot be read or says nothing.
    """
    if isinstance(source, dict):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    try:
        with opened(source) as image:
            sources = [list(reader(image)) for reader in (_xmp, _iptc, _exif)]
    except Exception:  # damaged files raise anything; decoding the pixels is what reports them
        return {}
    found: dict[str, str] = {}
    for name, text in (pair for pairs in sources for pair in pairs):
        text = " ".join(text.replace("\0", " ").split())
        if text:
            found.setdefault(name, text)
    return found


def _xmp(image: Image.Image) -> Iterator[tuple[str, str]]:
    packet = next((image.info[key] for key in XMP_KEYS if key in image.info), b"")
    packet = packet.encode() if isinstance(packet, str) else packet
    if not packet or b"<!" in packet:  # entities are not for metadata
        return
    tree = ElementTree.fromstring(packet.strip(b"\0 \r\n\t"))
    for name, element in DUBLIN_CORE.items():
        texts = [item.text or "" for found in tree.iter(NAMESPACE + element) for item in found.iter(LIST_ITEM)]
        yield name, ", ".join(texts) if name == "keywords" else next(iter(texts), "")


def _iptc(image: Image.Image) -> Iterator[tuple[str, str]]:
    records = IptcImagePlugin.getiptcinfo(image) or {}
    charset = "utf-8" if records.get(IPTC_CHARSET) == UTF_8 else "latin-1"
    for name, key in IPTC.items():
        values = records.get(key, [])
        values = values if isinstance(values, list) else [values]
        yield name, ", ".join(_decode(value, charset) for value in values)


def _exif(image: Image.Image) -> Iterator[tuple[str, str]]:
    exif = image.getexif()
    for name, tag in XP.items():
        value = exif.get(tag, b"")
        text = bytes(value).decode("utf-16-le", "ignore") if not isinstance(value, str) else value
        yield name, text.replace(";", ", ") if name == "keywords" else text
    value = exif.get(ExifTags.Base.ImageDescription, "")
    try:
        value = value.encode("latin-1") if isinstance(value, str) else bytes(value)  # what Pillow took for Latin-1
        yield "description", _decode(value, "cp1252")
    except (UnicodeEncodeError, TypeError):
        yield "description", str(value)


def _decode(value: bytes, charset: str) -> str:
    """Text in the declared charset; many programs write UTF-8 without declaring it."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode(charset, "replace")
