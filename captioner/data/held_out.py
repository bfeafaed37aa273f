"""Images that are held out of a split for validation, the same ones in every run and on every machine.

Knows nothing about where samples come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ..base import DataSettings, SettingsError
from .faults import DataError
from .groups import Groups

DEFAULT_SPLIT = DataSettings.model_fields["validation_split"].default


@dataclass(frozen=True)
class Held:
    """One of the two parts of a split.

    Args:
        share: of its images that is held out, at least one.
        out: whether these are meant, or all others.
    """

    share: float
    out: bool

    def of(self, groups: Groups, places: Sequence[int]) -> list[int]:
        """Those of some samples that are in this part; all samples of an image are in the same.

        Raises:
            DataError: there is only one image.
        """
        images = {place: groups.image(place) for place in places}
        names: dict[object, str] = {}
        for place, image in images.items():
            names.setdefault(image, groups.image_name(place))
        if len(names) < 2:
            raise DataError(
                f"`data.hold_out` is {self.share}, but there is only one image; give validation its own data"
            )
        drawn = sorted(names, key=lambda image: blake2b(names[image].encode("utf-8", "surrogateescape")).digest())
        count = min(max(round(self.share * len(drawn)), 1), len(drawn) - 1)
        held = set(drawn[:count])
        return [place for place in places if (images[place] in held) == self.out]


def part_of(settings: DataSettings, split: str) -> tuple[str, Held | None]:
    """The split that has to be read for another, and which part of it that is; None: all of it.

    Raises:
        SettingsError: `hold_out` beside what it cannot go with.
    """
    share = settings.hold_out
    if share is None or split not in (settings.train_split, settings.validation_split):
        return split, None
    if settings.validation_split != DEFAULT_SPLIT:
        given = f"`data.validation_split` is {settings.validation_split!r}"
        raise SettingsError(
            f"`data.hold_out` takes validation from the training split, but {given}; set one of the two"
        )
    return settings.train_split, Held(share, split == settings.validation_split)
