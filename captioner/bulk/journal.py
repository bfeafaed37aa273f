"""What a run has done so far: records in a folder of JSONL files that are appended to and survive any kill.

Each process of each shard has a file of its own, so nobody waits for anybody. Lines are whole or not there: a half
line at the end of a file is cut off or skipped. Knows nothing about images or final formats.
"""

import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..base import WriteError, explaining, replacing
from .journal_files import LOCKED, JournalError, check_own, lock, sweep, whole_lines

SETTINGS_FILE = "settings.json"
PREVIOUS = "0-previous.jsonl"
GONE = -1  # index of an image that is not in the input


class Place(NamedTuple):
    """Where a record stands, whether it is a caption, and whether that has a word and came with a context."""

    file: int
    offset: int
    good: bool
    empty: bool = False
    context: bool = False


class Located(NamedTuple):
    """The record of each image, where there is one, and the records of images that are no longer in the input."""

    places: list[Place | None]
    gone: list[Place]


def encode(record: Mapping[str, Any]) -> bytes:
    """One line of JSON in UTF-8; bytes of file names that are not UTF-8 stand as escapes that `json` reads back."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


class Tally:
    """Counts the lines that files have gained since it was made; it reads only what is new."""

    def __init__(self, files: Iterable[Path]):
        self._ends = dict.fromkeys(files, 0)  # bytes of each whose lines are counted
        self._lines = self._before = 0
        self._before = self()

    def __call__(self) -> int:
        """How many whole lines have come by now; files may still be missing."""
        for file in self._ends:
            with suppress(FileNotFoundError), file.open("rb") as handle:
                handle.seek(self._ends[file])
                for line in handle:
                    if line.endswith(b"\n"):
                        self._ends[file] += len(line)
                        self._lines += 1
        return self._lines - self._before


class Journal:
    """The journal in a folder; it must be open while this process appends to it.

    Args:
        folder: made when it is needed.
        shard: i and n of `--shard i/n`, i from 1.
        process: which process of the run this is.
        others: further folders to read.
    """

    def __init__(self, folder: Path, shard: tuple[int, int] = (1, 1), process: int = 0, others: Sequence[Path] = ()):
        self.folder, self.others, self.shard = folder, others, shard
        self.file = self._file_of(process)
        self._descriptor: int | None = None
        self._end = 0

    def open(self) -> None:
        """Take this process's file, alone, and cut off a half line; nothing where it is open already.

        Raises:
            JournalError: another run is writing it, or what is there is no journal of this user's.
            WriteError: it cannot be opened.
        """
        if self._descriptor is not None:
            return
        descriptor = None
        try:
            check_own(self.folder)
            self.folder.mkdir(exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self.file, flags, 0o666)
            lock(descriptor, self.file)
            self._end = whole_lines(descriptor)
            os.ftruncate(descriptor, self._end)
            self._descriptor, descriptor = descriptor, None
            LOCKED.add(self._descriptor)
        except (BlockingIOError, FileNotFoundError) as error:
            raise JournalError(f"another run is writing {self.file}; wait for it, or stop it") from error
        except OSError as error:
            raise WriteError(f"cannot write {self.file}: {error.strerror}") from error
        finally:
            if descriptor is not None:
                os.close(descriptor)

    @property
    def is_open(self) -> bool:
        """Whether this process may append."""
        return self._descriptor is not None

    def close(self) -> None:
        """Let go of this process's file."""
        if self._descriptor is not None:
            LOCKED.discard(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = None

    def clear(self) -> None:
        """Forget all records; the file of this process stays open."""
        for file in self.files():
            if file != self.file:
                file.unlink()
        os.ftruncate(self._descriptor, 0)
        self._end = 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record, whole or not at all.

        Raises:
            WriteError: it could not be written.
        """
        line = encode(record)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise WriteError(f"cannot write {self.file}: {error.strerror}") from error
        self._end += len(line)

    def files(self) -> list[Path]:
        """Every file of records, of all shards and processes."""
        return [file for folder in (self.folder, *self.others) for file in sorted(folder.glob("*.jsonl"))]

    def tally(self, processes: int) -> Tally:
        """Count what all processes of this shard append from now on."""
        return Tally(map(self._file_of, range(processes)))

    def has_records(self) -> bool:
        """Whether anything was recorded."""
        return next(self._scan(), None) is not None

    def take_over(self, records: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
        """Begin with the records of a finished output, each for the image of its name or for one that is gone.

        Args:
            records: in the order of their output.
            names: of the images now.
        """
        counts, written = Counter(names), [_as_written(name) for name in names]
        only = {name: index for index, name in enumerate(written) if counts[names[index]] == 1}

        def placed(line: int, record: Mapping[str, Any]) -> Mapping[str, Any]:
            image = _as_written(record["image"])
            index = line if line < len(names) and written[line] == image else only.get(image, GONE)
            return {"index": index, **record, "image": record["image"] if index == GONE else names[index]}

        self._replace(self.folder / PREVIOUS, (encode(placed(*one)) for one in enumerate(records)))

    def settings(self) -> dict[str, Any] | None:
        """What `save_settings` saved; None where there is nothing of that kind."""
        try:
            saved = json.loads((self.folder / SETTINGS_FILE).read_text())
        except (OSError, ValueError):
            return None
        whole = (
            isinstance(saved, dict) and isinstance(saved.get("images"), int) and isinstance(saved.get("shards"), int)
        )
        return saved if whole else None

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings of the run."""
        self._replace(self.folder / SETTINGS_FILE, [json.dumps(settings, indent=2).encode() + b"\n"])

    def last_records(self) -> list[dict[str, Any]]:
        """The last record of every file: what was being written when a run was killed."""
        last = {file: offset for file, offset, _ in self._scan()}
        return [json.loads(_line(open_file, last[n])) for n, open_file in self._opened() if n in last]

    def locate(self, names: Sequence[str] | int, blank: str = "") -> Located:
        """Find the record of each image.

        A record belongs to the image at its index. Where the input has changed since and another name is there, it
        belongs to the only image of its name.

        Args:
            names: of the images; or only how many there are, to go by the index.
            blank: what a caption without a word looks like.
        """
        size = names if isinstance(names, int) else len(names)
        places: list[Place | None] = [None] * size
        strays: dict[str, Place] = {}
        for file, offset, record in self._scan():
            good = "error" not in record
            place = Place(
                file, offset, good, good and record["caption"].strip() == blank.strip(), bool(record.get("context"))
            )
            index, image = record["index"], record["image"]
            if 0 <= index < size and (isinstance(names, int) or names[index] == image):
                places[index] = _better(places[index], place)
            else:
                strays[image] = _better(strays.get(image), place)
        if strays and not isinstance(names, int):
            counts = Counter(name for name in names if name in strays)
            for index, name in enumerate(names):
                if counts[name] == 1:
                    places[index] = places[index] or strays[name]
            strays = {name: place for name, place in strays.items() if not counts[name]}
        return Located(places, list(strays.values()))

    def read(self, places: Iterable[Place | None]) -> Iterator[dict[str, Any]]:
        """The records at places, in their order; nothing for None."""
        files = dict(self._opened())
        try:
            for place in places:
                if place is not None:
                    yield json.loads(_line(files[place.file], place.offset))
        finally:
            for file in files.values():
                file.close()

    def remove(self) -> None:
        """Take the whole journal away; it is gone at once, never in part."""
        gone = self.folder.with_name(self.folder.name + ".done")
        sweep(gone)
        if os.path.lexists(gone):
            gone = gone.with_name(f"{gone.name}-{secrets.token_hex(4)}")
        if self.folder.is_dir() and not self.folder.is_symlink():
            self.folder.rename(gone)
        sweep(gone)

    def _file_of(self, process: int) -> Path:
        return self.folder / f"{self.shard[0]}-of-{self.shard[1]}.{process}.jsonl"

    def _opened(self) -> Iterator[tuple[int, BinaryIO]]:
        return ((number, path.open("rb")) for number, path in enumerate(self.files()))

    def _scan(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Number of the file, offset and record of every whole line."""
        for number, file in self._opened():
            with file:
                offset = 0
                for line in file:
                    record = _parse(line)
                    if record is not None:
                        yield number, offset, record
                    offset += len(line)

    def _replace(self, file: Path, lines: Iterable[bytes]) -> None:
        with explaining(file):
            self.folder.mkdir(exist_ok=True)
            with replacing(file) as unfinished, unfinished.open("wb") as handle:
                handle.writelines(lines)


def digest(names: Sequence[str]) -> str:
    """A short sum of names, to see whether two inputs are the same."""
    total = hashlib.sha256()
    for name in names:
        total.update(os.fsencode(name) + b"\0")
    return total.hexdigest()[:16]


def _parse(line: bytes) -> dict[str, Any] | None:
    """A record, or None for half a line and for what is none."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("index"), int):
        return None
    said = "error" if "error" in record else "caption"
    return record if isinstance(record.get("image"), str) and isinstance(record.get(said), str) else None


def _as_written(name: str) -> str:
    """A name as it stands in an output that has no other way to write bytes that are not UTF-8."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


def _better(one: Place | None, other: Place) -> Place:
    """A caption rather than an error, else the later one."""
    return one if one is not None and one.good and not other.good else other


def _line(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.readline()
