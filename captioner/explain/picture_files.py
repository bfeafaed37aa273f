"""Pictures as files: written whole, and known again by a mark, so that no other picture is replaced.

Knows nothing about what they show; needs matplotlib only for what it is given.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..base import explaining, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGN = "captioner attend"
DESCRIPTION = 0x010E  # EXIF


def save_picture(figure: "Figure", file: Path) -> None:
    """Write a picture in the format of the file's ending, whole or not at all.

    Raises:
        WriteError: it could not be written.
    """
    kind = file.suffix[1:].lower()
    with explaining(file), replacing(file) as unfinished:
        figure.savefig(unfinished, dpi=120, format=kind, **_signed(kind))


def _signed(kind: str) -> dict[str, Any]:
    """Options by which a format keeps the mark; none for the few that cannot."""
    exif = Image.Exif()
    exif[DESCRIPTION] = SIGN
    return {
        "png": {"metadata": {"Software": SIGN}},
        **{key: {"metadata": {"Creator": SIGN}} for key in ("svg", "pdf", "ps", "eps")},
        **{key: {"pil_kwargs": {"comment": SIGN.encode()}} for key in ("jpg", "jpeg")},
        **{key: {"pil_kwargs": {"description": SIGN}} for key in ("tif", "tiff")},
        "webp": {"pil_kwargs": {"exif": exif}},
    }.get(kind, {})


def holds_picture(file: Path) -> bool:
    """Whether a file is a picture that `save_picture` wrote."""
    return SIGN.encode() in file.read_bytes()
