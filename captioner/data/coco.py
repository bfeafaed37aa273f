"""Captions of COCO in JSON: the annotations of the data set itself, the splits of Karpathy, and the lists of BLIP.

Knows nothing about how entries become rows.
"""

from collections import defaultdict
from dataclasses import replace
from typing import Any

from ..base import DataSettings
from .annotations import expect, named_file, read_json
from .columns import entry_rows
from .rows import Rows
from .split_names import choose_split


def read_coco(settings: DataSettings, split: str) -> Rows:
    """`path`: the image folder; `annotations`: a JSON file or one per split, with `images`, `annotations`.

    One file serves every split; hold images out with slices or `hold_out`.
    """
    file = named_file(settings, split, {".json"})
    tree, captions = read_json(file), defaultdict(list)
    with expect("COCO captions", file):
        for annotation in tree["annotations"]:
            captions[annotation["image_id"]].append(annotation["caption"])
        new = ({"image": image["file_name"], "captions": captions[image["id"]]} for image in tree["images"])
        entries = [{**image, **keys} for image, keys in zip(tree["images"], new, strict=True)]
    return entry_rows(entries, settings, "id", file, split)


def read_karpathy(settings: DataSettings, split: str) -> Rows:
    """`path`: the image folder; `annotations`: Karpathy's JSON, or BLIP's lists, told apart by their form.

    Karpathy's train includes restval. A BLIP list serves every split.
    """
    file = named_file(settings, split, {".json"}, splits=True)
    tree = read_json(file)
    if isinstance(tree, list):
        named_file(settings, split, {".json"})  # a list has no splits
        with expect("a list of image and caption", file):
            entries = [{**entry, "image": entry["image"], "captions": entry["caption"]} for entry in tree]
        return entry_rows(entries, settings, "image", file, split)
    with expect("Karpathy's JSON", file):
        names = {image["split"]: None for image in tree["images"]}
        wanted = {choose_split(split, names, file), *(["restval"] if split == "train" else [])}
        chosen = {place: image for place, image in enumerate(tree["images"]) if image["split"] in wanted}
        entries = [_karpathy_entry(image) for image in chosen.values()]
    return replace(entry_rows(entries, settings, "id", file, split), places=list(chosen))


def _karpathy_entry(image: dict[str, Any]) -> dict[str, Any]:
    name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
    captions = [sentence["raw"] for sentence in image["sentences"]]
    return {**image, "image": name, "captions": captions, "id": image.get("cocoid", image["filename"])}
