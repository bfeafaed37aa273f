"""One captioning of many images to files: planned, shared between processes and shards, resumed, joined in order.

A job keeps its records in a journal beside the output and makes the output from it at the end. Knows nothing about
captioners: it is handed records.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import explaining, some, write_text
from .inputs import InputError, Inputs, Item
from .journal import Journal, Located, Place, Tally, digest
from .options import JobSettings
from .outputs import RECORD_COLUMNS, OutputError, read_records, write_records
from .sidecars import SidecarError, Sidecars
from .target import Reads, Target, remove_errors

INPUT_KEYS = ("images", "input", "shards")
FREE_KEYS = ("captioner", *INPUT_KEYS)


@dataclass
class Summary:
    """What became of the images of a job: how many were captioned, failed, were left alone, and are still to do.

    Of the captioned: how many have an empty caption, were captioned before this run, and came with a context.
    """

    captioned: int = 0
    failed: int = 0
    skipped: int = 0
    missing: int = 0
    empty: int = 0
    already: int = 0
    contexts: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.captioned + self.failed + self.skipped + self.missing


@dataclass
class Job:
    """The images to caption, where to, and with which settings.

    Args:
        settings: everything that changes its records. They are kept beside the output, with the size of the input.
        shard: i and n of `--shard i/n`, i from 1: every n-th image.
        process: which of the processes that share the work this is.
        processes: how many there are.
        read: files that the run reads beside the images, by what they are in words.
    """

    inputs: Inputs
    target: Target
    settings: JobSettings
    shard: tuple[int, int] = (1, 1)
    process: int = 0
    processes: int = 1
    read: Reads = field(default_factory=dict)
    already: int = field(default=0, init=False)  # captioned before this run
    skipped: int = field(default=0, init=False)
    left: int = field(default=0, init=False)  # images of all processes when the work began
    finished: Tally = field(init=False)  # how many of them have come since

    def __post_init__(self) -> None:
        self.journal = Journal(self.target.journal, self.shard, self.process)
        names, own = self.inputs.names, self.settings.as_json()
        self.kept = {**own, "images": len(names), "input": digest(names), "shards": self.shard[1]}

    def prepare(self) -> None:
        """Look at what is there already; for one process, before any other plans.

        Raises:
            OutputError: something is in the way.
            InputError: two images whose texts would be one file.
            WriteError: the place cannot be written.
            JournalError: another run is writing there, or something that is no journal of this command is there.
            OccupiedError: a file of a person's is where this job would write.
        """
        sidecars = self.target.sidecars
        self.target.check(self.read, [] if sidecars is None and self.target.output is None else self._files())
        self.journal.open()
        if self.journal.has_records():
            self._go_on(self.journal.settings())
        else:
            self._begin()
        if sidecars is not None:
            self._check_sidecars(sidecars)
            self._complete(sidecars)

    def _files(self) -> list[str]:
        return [item.file for item in self.inputs if item.file is not None]

    def _complete(self, sidecars: Sidecars) -> None:
        """Put texts in place that a kill has kept from it: those of this run's images, beside them, and no others."""
        for record in self.journal.last_records():
            index, text = record["index"], record.get("text")
            if not isinstance(text, str) or not 0 <= index < len(self.inputs.names):
                continue
            path = sidecars.path(self.inputs[index].file)
            if self.inputs.names[index] == record["image"] and os.fspath(path) == record.get("sidecar"):
                sidecars.complete(path, text, record.get("before"))

    def _begin(self) -> None:
        """Start a journal, from the captions that the output has if they are to be kept."""
        output, existing = self.target.output, self.target.existing
        there = output is not None and output.exists()
        if there and existing == "fail":
            raise OutputError(f"{output} is there already; name another file, or give `--existing skip` or `overwrite`")
        keep = there and existing == "skip" and output.stat().st_size
        if keep and (before := self.target.settings()) is not None:
            self._check_same(before, output)
        self.journal.save_settings(self.kept)
        if keep:
            self.journal.take_over(read_records(output), self.inputs.names)

    def _go_on(self, before: dict[str, Any] | None) -> None:
        """Take up the journal of a run that did not end, unless it may be thrown away and is of another kind."""
        try:
            if before is None:
                raise OutputError(
                    f"{self.journal.folder} holds records, but not what they were made with, so they are not believed; "
                    "move it away, or give `--existing overwrite`"
                )
            self._check_same(before, self.journal.folder)
        except OutputError:
            if self.target.existing != "overwrite" or self.shard[1] > 1:
                raise
            self.journal.clear()
            self._begin()
        self.journal.save_settings(self.kept)

    def _check_same(self, before: dict[str, Any], where: Path) -> None:
        ours, theirs = ({k: v for k, v in s.items() if k not in FREE_KEYS} for s in (self.kept, before))
        other = [name for name in ours if ours[name] != theirs.get(name)]
        if other:
            changes = ", ".join(f"{name} was {theirs.get(name)!r} and is {ours[name]!r}" for name in other)
            raise OutputError(
                f"{where} was begun with other settings ({changes}); name another output, or give "
                "`--existing overwrite`"
            )
        shards = self.shard[1], before.get("shards", 1)
        if max(shards) > 1 and any(before.get(key) != self.kept[key] for key in INPUT_KEYS):
            raise OutputError(
                f"{where} was begun for {before.get('shards')} shards of {before.get('images')} images, now there are "
                f"{self.shard[1]} of {self.kept['images']}, or others; all shards must have the same input"
            )

    def _check_sidecars(self, sidecars: Sidecars) -> None:
        files = self._files()
        if len(files) < len(self.inputs):
            raise InputError("`--sidecar` writes beside image files, but some images have none; use `--output`")
        paths = [sidecars.path(file) for file in files]
        twice = [path for path, count in Counter(paths).items() if count > 1]
        if twice:
            raise OutputError(f"{len(twice)} texts would have two images, such as {twice[0]}; caption these apart")
        for folder in {path.parent for path in paths}:
            if folder.is_dir() and not os.access(folder, os.W_OK):
                raise OutputError(f"cannot write beside the images in {folder}; use `--output`")
        there = [sidecars.path(file) for file in files if sidecars.existing == "fail" and sidecars.has_text(file)]
        if there and not self.journal.has_records():
            raise OutputError(f"{len(there)} texts are there already ({some(there, 3)}); see `--existing`")

    def plan(self) -> list[int]:
        """The images that are this process's to caption; all processes must plan before one of them works."""
        self.journal.open()
        places = self.journal.locate(self.inputs.names).places
        self.already = sum(map(_good, places[self.shard[0] - 1 :: self.shard[1]]))
        left = [i for i in range(self.shard[0] - 1, len(places), self.shard[1]) if not _good(places[i])]
        sidecars = self.target.sidecars
        if sidecars is not None and sidecars.existing == "skip":
            todo = [index for index in left if not sidecars.has_text(self.inputs[index].file)]
            self.skipped = len(left) - len(todo)
            left = todo
        self.left, self.finished = len(left), self.journal.tally(self.processes)
        return left[self.process :: self.processes]

    def record(self, results: Iterable[tuple[Item, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
        """Keep records as they come.

        Raises:
            WriteError: one could not be written; those before it are kept.
        """
        for item, record in results:
            yield self._keep(item, record)

    def _keep(self, item: Item, record: dict[str, Any]) -> dict[str, Any]:
        """Keep one record, and its text if there is to be one; a text that cannot be is a reason, as a bad image is."""
        sidecars, kept = self.target.sidecars, {"index": item.index, **record}
        if sidecars is None or "error" in record:
            self.journal.append(kept)
            return record
        path = sidecars.path(item.file)
        try:
            text, before = sidecars.compose(path, record.get("captions") or [record["caption"]])
        except SidecarError as error:
            failed = {"image": record["image"], "error": str(error)}
            self.journal.append({"index": item.index, **failed})
            return failed
        self.journal.append(kept | {"sidecar": os.fspath(path), "text": text, "before": before})
        sidecars.write(path, text)
        return record

    def summarise(self) -> Summary:
        """Count this shard's records."""
        blank = self.settings.prefix + self.settings.suffix
        places = self.journal.locate(self.inputs.names, blank).places[self.shard[0] - 1 :: self.shard[1]]
        good = sum(map(_good, places))
        failed = sum(place is not None and not place.good for place in places)
        return Summary(
            captioned=good,
            failed=failed,
            skipped=self.skipped,
            missing=max(0, len(places) - good - failed - self.skipped),
            empty=sum(place is not None and place.empty for place in places),
            already=self.already,
            contexts=sum(place is not None and place.context for place in places),
        )

    def publish(self) -> None:
        """Make the output, the errors file and the settings file, and take the journal away.

        Raises:
            WriteError: one could not be written; the journal stays, and the same command tries again.
        """
        _publish(self.journal, self.journal.locate(self.inputs.names), self.target, self.kept)
        self.journal.remove()

    def close(self) -> None:
        """Let others write; leave no journal behind where nothing was recorded, unless it may be other shards'."""
        if self.journal.is_open and self.process == 0 and self.shard[1] == 1 and not self.journal.has_records():
            self.journal.remove()
        self.journal.close()


def _good(place: Place | None) -> bool:
    return place is not None and place.good


def _publish(journal: Journal, located: Located, target: Target, settings: dict[str, Any]) -> None:
    if target.output is not None:
        write_records(journal.read([*located.gone, *located.places]), target.output, _columns(settings))
    bad = [place for place in located.places if place is not None and not place.good]
    if bad:
        write_records(journal.read(bad), target.errors_file)
    else:
        remove_errors(target.errors_file)
    with explaining(target.settings_file):
        write_text(target.settings_file, json.dumps(settings, indent=2) + "\n")


def _columns(settings: dict[str, Any]) -> list[str]:
    """The columns that records with these settings may have."""
    several = settings["generation"]["num_return_sequences"] > 1
    has = {
        "captions": several,
        "score": settings["scores"] and not several,
        "scores": settings["scores"] and several,
        "context": settings["context_varies"],
    }
    return [name for name in RECORD_COLUMNS if has.get(name, True)]


def merge(paths: Sequence[Path], target: Target, tell: Callable[[str], None]) -> Summary:
    """Join what shards have written, in the order of the input; with shards missing, what is there.

    Args:
        paths: the outputs of shards or their `.parts` folders; none: those of the target.
        tell: takes a line on shards that are not complete.

    Raises:
        OutputError: no shards, or shards of different inputs or settings.
        WriteError: the output could not be written.
    """
    folders = [_parts(path) for path in paths] or [target.journal]
    journal = Journal(folders[0], others=folders[1:])
    found = [settings for folder in folders if (settings := Journal(folder).settings()) is not None]
    if not found or not journal.has_records():
        raise OutputError(f"nothing to merge in {some(folders)}; run `captioner caption … --shard 1/n` first")
    if any(settings != found[0] for settings in found):
        raise OutputError(f"{some(folders)} were made with different settings or inputs; merge those of one command")
    blank = f"{found[0].get('prefix', '')}{found[0].get('suffix', '')}"
    located, shards = journal.locate(found[0]["images"], blank), found[0]["shards"]
    places = located.places
    missing = Counter(index % shards + 1 for index, place in enumerate(places) if place is None)
    if missing:
        tell(f"not complete: {some(f'shard {shard} lacks {count}' for shard, count in sorted(missing.items()))}")
    _check_captions(target)
    _publish(journal, located, target, found[0])
    if not paths and not missing:
        journal.remove()
    good, empty = sum(map(_good, places)), sum(place is not None and place.empty for place in places)
    return Summary(good, len(places) - good - missing.total(), missing=missing.total(), empty=empty)


def _check_captions(target: Target) -> None:
    """Make sure that an output that is there holds captions, unless it is to be overwritten."""
    output = target.output
    if target.existing != "overwrite" and output.exists() and output.stat().st_size:
        for _ in read_records(output):
            pass


def _parts(path: Path) -> Path:
    beside = path.with_name(path.name + ".parts")
    folder = beside if beside.is_dir() else path
    if not folder.is_dir():
        raise OutputError(f"there are no records of shards at {path}: neither a folder nor {beside}")
    return folder
