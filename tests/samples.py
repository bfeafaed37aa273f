"""A photo, an image as a file, and texts that several test files read; the tokenizers made from them are fixtures."""

import io

import numpy as np
from PIL import Image

TEXTS = [
    "A red dog runs.",
    "a blue cat sleeps on a mat",
    "Two dogs and a cat, all red!",
    "Anna rides a horse",
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cat", ".", "##s"]


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photo(height: int = 37, width: int = 53) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)
