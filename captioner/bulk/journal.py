"""What a run has done so far: records in a folder of JSONL files that are appended to and survive any kill.

Each process of each shard has a file of its own, so nobody waits for anybody. Lines are whole or not there: a half
line at the end of a file is cut off or skipped. Knows nothing about images or final formats.
"""

import hashlib
import json
import mmap
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..base import WriteError, explaining, replacing

try:
    import fcntl
except ImportError:  # Windows has no advisory locks
    fcntl = None

SETTINGS_FILE = "settings.json"
PREVIOUS = "0-previous.jsonl"
GONE = -1  # index of an image that is not in the input


class JournalError(ValueError):
    """A journal that cannot go on; the message says what would work."""


class Place(NamedTuple):
    """Where a record stands, and whether it is a caption."""

    file: int
    offset: int
    good: bool


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
            JournalError: another run is writing it.
            WriteError: it cannot be opened.
        """
        if self._descriptor is not None:
            return
        descriptor = None
        try:
            self.folder.mkdir(exist_ok=True)
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            _lock(descriptor, self.file)
            self._end = _whole_lines(descriptor)
            os.ftruncate(descriptor, self._end)
            self._descriptor, descriptor = descriptor, None
            _LOCKED.add(self._descriptor)
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
            _LOCKED.discard(self._descriptor)
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
        counts = Counter(names)
        only = {name: index for index, name in enumerate(names) if counts[name] == 1}

        def index(line: int, image: str) -> int:
            return line if line < len(names) and names[line] == image else only.get(image, GONE)

        lines = (encode({"index": index(line, record["image"]), **record}) for line, record in enumerate(records))
        self._replace(self.folder / PREVIOUS, lines)

    def settings(self) -> dict[str, Any] | None:
        """What `save_settings` saved."""
        try:
            return json.loads((self.folder / SETTINGS_FILE).read_text())
        except (OSError, ValueError):
            return None

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings of the run."""
        self._replace(self.folder / SETTINGS_FILE, [json.dumps(settings, indent=2).encode() + b"\n"])

    def last_records(self) -> list[dict[str, Any]]:
        """The last record of every file: what was being written when a run was killed."""
        last = {file: offset for file, offset, _ in self._scan()}
        return [json.loads(_line(open_file, last[n])) for n, open_file in self._opened() if n in last]

    def locate(self, names: Sequence[str] | int) -> Located:
        """Find the record of each image.

        A record belongs to the image at its index. Where the input has changed since and another name is there, it
        belongs to the only image of its name.

        Args:
            names: of the images; or only how many there are, to go by the index.
        """
        size = names if isinstance(names, int) else len(names)
        places: list[Place | None] = [None] * size
        strays: dict[str, Place] = {}
        for file, offset, record in self._scan():
            place = Place(file, offset, "error" not in record)
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
        shutil.rmtree(gone, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

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
    return record if isinstance(record, dict) and {"index", "image"} <= set(record) else None


def _better(one: Place | None, other: Place) -> Place:
    """A caption rather than an error, else the later one."""
    return one if one is not None and one.good and not other.good else other


def _line(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.readline()


def _let_go() -> None:
    """Forked workers must not keep the lock of a run that was killed."""
    for descriptor in _LOCKED:
        os.close(descriptor)
    _LOCKED.clear()


_LOCKED: set[int] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _lock(descriptor: int, file: Path) -> None:
    """Keep other runs out; a file that has just been taken away is no longer the one to lock."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.path.samestat(os.fstat(descriptor), os.stat(file)):
        raise FileNotFoundError(file)


def _whole_lines(descriptor: int) -> int:
    """How many bytes of a file are whole lines."""
    if not os.fstat(descriptor).st_size:
        return 0
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
        return content.rfind(b"\n") + 1
