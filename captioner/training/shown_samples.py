"""Validation samples as pictures with what was said about them beneath, for TensorBoard."""

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..model import ImageError, open_image

WIDTH, LINE, LETTERS = 320, 16, 50  # pixels, pixels, letters in a line


def captioned_pictures(records: list[dict[str, Any]], samples: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Evaluated records and the split that their `index` counts → id and picture (H, W, 3) of each, as bytes.

    Beneath the image stand the context, the caption and the first reference. Samples without a readable image get
    the text alone.
    """
    for record in records:
        texts = {"context": record.get("context"), "said": record["caption"], "reference": record["captions"][0]}
        lines = [line for name, text in texts.items() if text for line in wrap(f"{name}: {text}", LETTERS)]
        yield record["id"], _picture(samples[record["index"]].get("image"), lines)


def _picture(source: Any, lines: list[str]) -> np.ndarray:
    try:
        image = None if source is None else open_image(source)
    except ImageError:
        image = None
    height = 0 if image is None else round(WIDTH * image.height / image.width)
    page = Image.new("RGB", (WIDTH, height + LINE * (len(lines) + 1)), "white")
    if image is not None:
        page.paste(image.resize((WIDTH, height)))
    draw = ImageDraw.Draw(page)
    for i, line in enumerate(lines):
        draw.text((LINE // 2, height + LINE * i + LINE // 2), line, "black", ImageFont.load_default(LINE * 0.75))
    return np.asarray(page)
