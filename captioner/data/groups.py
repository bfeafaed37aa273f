"""Rows that are one sample: those of one image and context, or of one id where nothing else tells images apart.

Knows nothing about splits or files; no image is opened.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from ..base import some
from .cells import captions_in, context_in
from .faults import BLANK_IMAGE, DUPLICATE, EMPTY, MISSING, Bad
from .identity import Identity
from .rows import Rows


class Groups:
    """The samples that rows make, in the order in which they first come.

    One id on several images is several samples.

    Args:
        rows: of a source.
    """

    def __init__(self, rows: Rows):
        nothing = [None] * len(rows.keys)
        self.source = rows
        self.contexts = [context_in(value) for value in rows.cells.contexts or nothing]
        self.ids = [None if value in (None, "") else str(value) for value in rows.cells.ids or nothing]
        groups = defaultdict(list)
        for row, key in enumerate(rows.keys):
            image = row if key is None and self.ids[row] is None else key
            groups[self.ids[row], image, self.contexts[row]].append(row)
        self.members = list(groups.values())
        self.names = unique([self.ids[own[0]] or rows.names[own[0]] for own in self.members])

    def first(self, place: int) -> int:
        """The first row of a sample."""
        return self.members[place][0]

    def context(self, place: int) -> str | None:
        """The context of a sample."""
        return self.contexts[self.first(place)]

    def image(self, place: int) -> Hashable:
        """Equal for samples of the same image."""
        first = self.first(place)
        return self.source.keys[first] or first

    def image_name(self, place: int) -> str:
        """What the image of a sample is called, whatever the source calls the sample."""
        return self.source.names[self.first(place)]

    def checked(self, place: int, files: Mapping[str, str | None]) -> tuple[list[str], list[Bad]]:
        """The captions of a sample, and what is wrong with it.

        Args:
            files: of the source; None where there is no such file.
        """
        rows, name, first = self.source, self.names[place], self.first(place)
        cells = [captions_in(rows.cells.captions[row]) for row in self.members[place]]
        captions = [text for own, _ in cells for text in own]
        unread = [rows.faults[row] for row in self.members[place] if row in rows.faults]
        faults = [Bad(kind, name, why) for kind, why in unread]
        if not unread:
            faults = [Bad(MISSING, name, file) for file in rows.files[first] if files[file] is None]
        if first in rows.blank:
            faults.append(Bad(BLANK_IMAGE, name, "it is used without an image", left_out=False))
        if not unread and (not captions or any(blank for _, blank in cells)):
            faults.append(empty(name, captions))
        return captions, faults

    def duplicates(self, chosen: Sequence[int]) -> list[Bad]:
        """Ids that several images have."""
        images = defaultdict(dict)
        for first in map(self.first, chosen):
            if self.ids[first] is not None and self.source.keys[first] is not None:
                images[self.ids[first]][self.source.keys[first]] = self.source.names[first]
        return [Bad(DUPLICATE, name, some(own.values(), 3), False) for name, own in images.items() if len(own) > 1]

    def identity(self, chosen: Sequence[int]) -> Identity:
        """What tells these samples from those of another split."""
        rows, firsts = self.source, [self.first(place) for place in chosen]
        places = firsts if rows.places is None else [rows.places[first] for first in firsts]
        keys = [rows.keys[first] for first in firsts]
        images = [key and (key[:2] if key[0] else None) for key in keys] if rows.embedded else keys
        return Identity.of(rows.origin, places, images)


def empty(name: str, captions: Sequence[str]) -> Bad:
    """A sample with a blank caption: it is used where it has others."""
    return Bad(EMPTY, name, f"{len(captions)} others are used" if captions else "it has no other", not captions)


def unique(names: Sequence[str]) -> list[str]:
    """The names; those that several have with their place."""
    counts, result = Counter(names), []
    taken = {name for name, count in counts.items() if count == 1}
    for place, name in enumerate(names):
        made = name if counts[name] == 1 else f"{name}#{place}"
        while made in taken and counts[name] > 1:
            made = f"{made}#{place}"
        taken.add(made)
        result.append(made)
    return result
