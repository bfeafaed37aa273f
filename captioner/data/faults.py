"""Data that cannot be used, or not as they are: counted, named at the end, an error where too much of a split is lost.

Whoever meets bad data makes a `Bad` of it; from workers they travel in the batch, under the key `bad`. Knows nothing
about what makes them bad.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState
from accelerate.utils import gather_object

from ..base import say, some, write_text

UNREADABLE = "unreadable image"
MISSING = "missing image"
BLANK_IMAGE = "blank image cell"
UNREADABLE_FEATURES = "unreadable features"
UNREADABLE_CAPTION = "unreadable caption"
EMPTY = "empty caption"
CUT = "caption over the length limit"
DUPLICATE = "duplicate id"
SHARED = "image also in training"
CUT_ARCHIVE = "cut archive"
BAD_DATA_FILE = "bad_data.jsonl"
TRAINING, VALIDATION = "training", "validation"


class DataError(ValueError):
    """Data that cannot be used; the message says what was looked for, what is there, and the remedy."""


class Bad(NamedTuple):
    """One thing that is wrong with a sample."""

    kind: str
    id: str
    why: str
    left_out: bool = True  # the sample; else it is used all the same


def sift(batches: Iterable[dict[str, Any]], found: list[Bad]) -> Iterator[dict[str, Any]]:
    """The same batches without the key `bad`, whose content is added to `found`."""
    for batch in batches:
        found += batch.pop("bad", ())
        yield batch


class BadData:
    """What was wrong with the splits of a run, each sample and kind once, however often it was met.

    Args:
        limit: the largest share of a split's samples that may be left out.
        file: where `write` writes; None: nowhere.
    """

    def __init__(self, limit: float, file: Path | None = None):
        self.limit, self.file = limit, file
        self.totals: dict[str, int] = {}  # split → its samples, with those that are left out
        self.fresh: dict[str, list[Bad]] = defaultdict(list)  # of this process, not yet known to the others
        self.known: dict[tuple[str, str, str], Bad] = {}  # split, kind, id

    def begin(self, split: str, samples: Any) -> None:
        """Note a split and what reading it brought; the same on all processes."""
        found = getattr(samples, "bad", [])
        self.totals[split] = len(samples) + len({bad.id for bad in found if bad.left_out})
        self.known |= {(split, bad.kind, bad.id): bad for bad in found}

    def of(self, split: str) -> list[Bad]:
        """A list to add to what this process finds in a split; the others know it after `share`."""
        return self.fresh[split]

    def share(self) -> None:
        """Let every process know what all found; for all processes together.

        Raises:
            DataError: on every process, if a split lost more than the limit.
        """
        self._gather()
        self.check()

    def _gather(self) -> None:
        for split, bad in gather_object([(split, bad) for split, found in self.fresh.items() for bad in found]):
            self.known.setdefault((split, bad[0], bad[1]), Bad(*bad))
        for found in self.fresh.values():
            found.clear()

    def check(self) -> None:
        """Make sure that no split lost more than the limit.

        Raises:
            DataError: one did.
        """
        for split, total in self.totals.items():
            lost = {bad.id: bad for (of, *_), bad in self.known.items() if of == split and bad.left_out}
            if len(lost) > self.limit * total:
                self.write()
                examples = some((f"{bad.id} ({bad.kind}: {bad.why})" for bad in lost.values()), 3)
                raise DataError(
                    f"{len(lost)} of {total} samples of {split} cannot be used, a share above `data.max_bad_share` "
                    f"{self.limit}: {examples}{f'; all: {self.file}' if self.file else ''}; repair or remove them, or "
                    "raise the limit"
                )

    def lines(self) -> Iterator[str]:
        """A line per split and kind, with some of the ids."""
        kinds = defaultdict(list)
        for (split, kind, _), bad in self.known.items():
            kinds[split, kind, bad.left_out].append(bad.id)
        for (split, kind, left_out), ids in kinds.items():
            yield f"{split}: {kind} × {len(ids)}, {'left out' if left_out else 'used'} ({some(ids, 5)})"

    def report(self) -> None:
        """Say at the end what was found by all processes, and write it; for all processes together.

        Raises:
            DataError: as `share`.
        """
        self._gather()
        self.write()
        for line in self.lines():
            say(line)
        if self.known and self.file is not None:
            say(f"all of them: {self.file}")
        self.check()

    def write(self) -> None:
        """Write all as JSON lines, on the first process and if there is a file; without bad data there is none."""
        if self.file is None or not PartialState().is_main_process:
            return
        if not self.known:
            self.file.unlink(missing_ok=True)
            return
        lines = ({"split": split, **bad._asdict()} for (split, *_), bad in self.known.items())
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, text)

    def facts(self) -> list[list[Any]]:
        """What a restart must know."""
        return [[split, *bad] for (split, *_), bad in self.known.items()]

    def restore(self, facts: Iterable[list[Any]]) -> None:
        """Go on from what `facts` said."""
        self.known |= {(split, bad[0], bad[1]): Bad(*bad) for split, *bad in facts}
