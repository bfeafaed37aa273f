"""Tables of photos in plain colours, and caption stores made from them by a tiny encoder."""

import json

import numpy as np
import torch
from PIL import Image

from captioner.base import DataSettings
from captioner.data import load_split
from captioner.model import ImageEncoder, ImageSettings
from captioner.retrieval import StoreEncoder, write_store

TINY = {"name": "vit_tiny_patch16_224", "image_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2}
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")


def draw(colour, seed):
    """A photo of mostly one colour: those of a colour are alike, no two are the same."""
    noise = np.random.default_rng(seed).normal(0, 25, (40, 40, 3))
    return Image.fromarray((np.array(Image.new("RGB", (40, 40), colour)) + noise).clip(0, 255).astype(np.uint8))


def make_table(folder, count, word="photo"):
    """A table of photos, `count` of each colour, each with two captions and a title."""
    folder.mkdir()
    rows = []
    for i in range(count * len(COLOURS)):
        colour = COLOURS[i % len(COLOURS)]
        draw(colour, i).save(folder / f"{i:02}.png")
        row = {
            "image": f"{i:02}.png",
            "captions": [f"{word} {i} is {colour} .", f"{colour} {i}"],
            "title": f"title {i}",
        }
        rows.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(rows))
    (folder / "validation.jsonl").write_text("\n".join(rows[: len(COLOURS)]))
    return folder


def tiny_encoder(seed=0):
    torch.manual_seed(seed)
    return StoreEncoder(TINY, ImageEncoder(TINY), ImageSettings(32, 32))


def build(directory, table, encoder=None, split="train"):
    encoder = encoder or tiny_encoder()
    samples = load_split(DataSettings(source="table", path=str(table)), split)
    batches = encoder.encode(samples, range(len(samples)), 5, 0)
    made = ((features, [s["id"] for s in own], [s["captions"] for s in own]) for features, own in batches)
    write_store(directory, made, encoder.save)
    return directory


def tiny_facts(directory):
    return {}
