"""Every source by its name, and a split of any of them as samples of one schema.

A sample is a dict of `image` (a path, `{"bytes", "path"}`, a list of those or None), `captions` (list of str),
`context` (str or None), `id` (str), and each further modality by its name (an array, a path or None). Images stay
encoded until a worker collates them. Knows nothing about models or tensors.
"""

from collections.abc import Callable

from ..base import DataSettings, SettingsError
from ..scenes import Scenes, load_scenes
from .coco import read_coco, read_karpathy
from .flickr8k import read_flickr8k
from .grouping import Samples, samples_of
from .held_out import part_of
from .repositories import read_repository
from .rows import Rows
from .sidecars import read_sidecars
from .split_names import SAME_SPLIT
from .streaming import read_once
from .tables import read_table
from .vqa import read_vqa

SOURCES: dict[str, Callable[[DataSettings, str], Rows]] = {
    "datasets": read_repository,
    "coco": read_coco,
    "karpathy": read_karpathy,
    "table": read_table,
    "flickr8k": read_flickr8k,
    "vqa": read_vqa,
    "sidecar": read_sidecars,
}  # `data.source` → its reader, which takes the name of a split


def load_split(settings: DataSettings, split: str) -> Samples | Scenes:
    """Read one split of any source.

    Args:
        settings: `source`, `limit` and the keys that the reader in `SOURCES` takes.
        split: a name, or a slice such as "train[:95%]", which never parts the captions of a sample, that is of an image
            and its context. The names in `SAME_SPLIT` stand for each other. With `hold_out`, the two splits of the
            settings are the two parts of the training split.

    Raises:
        SettingsError: `hold_out` beside what it cannot go with.
        DataError, SceneError: anything missing, empty or malformed, in one line with the remedy.
    """
    if settings.hold_out is not None and (settings.source == "scenes" or settings.streaming):
        what = (
            "generated scenes have a validation split" if settings.source == "scenes" else "a stream is cut by slices"
        )
        raise SettingsError(f"`data.hold_out` is {settings.hold_out}, but {what}; leave it out")
    if settings.source == "scenes":
        return load_scenes(settings, "validation" if split in SAME_SPLIT else split)
    where = f"split {split!r} of {settings.path}"
    if settings.streaming:
        return samples_of(read_once(settings, split), split, where, None, settings.max_bad_share, whole=True)
    split, held = part_of(settings, split)
    rows = SOURCES[settings.source](settings, split.partition("[")[0])
    return samples_of(rows, split, where, settings.limit, settings.max_bad_share, held=held)
