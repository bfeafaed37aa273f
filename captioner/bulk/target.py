"""Where a job writes, and whether it may. Knows nothing about how captions are made or kept while it works."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from ..base import OccupiedError, check_writable
from .outputs import OutputError, check_records_file, holds_errors
from .sidecars import Sidecars

SHORT = ".jsonl"  # outputs of this ending lend their stem to the files beside them; others their whole name

Reads = Mapping[str, Iterable[str | os.PathLike]]  # files that a run reads, by what they are in words


@dataclass(frozen=True)
class Target:
    """Where a job writes.

    Args:
        output: the file of all captions, or None.
        sidecars: the texts beside the images, or None.
        existing: what to do with what is there: "skip", "overwrite", "append", "prepend" or "fail".
        errors: the file of images that failed; None: beside the output.
        folder: where the journal goes without an output.
    """

    output: Path | None
    sidecars: Sidecars | None = None
    existing: str = "skip"
    errors: Path | None = None
    folder: Path = Path()

    def __post_init__(self) -> None:
        for option, file in (("--output", self.output), ("--errors", self.errors)):
            if file is not None:
                check_records_file(file, option)
        if self.errors is not None and not self.errors.parent.is_dir():
            raise OutputError(f"`--errors` is in {self.errors.parent}, which is no folder; make it first")
        if self.sidecars is None and self.existing in ("append", "prepend"):
            raise OutputError(f"`--existing {self.existing}` is for the texts of `--sidecar`; give that too")

    def check(self, read: Reads, images: Sequence[str] = ()) -> None:
        """Refuse files that are a person's own; what becomes of captions that are there is for `existing` to say.

        Args:
            read: files that the run reads, by what they are in words.
            images: files of the images that it captions.

        Raises:
            OccupiedError: something of a person's would be replaced.
        """
        if self.output is not None:
            same = [file for file in images if os.path.basename(file) == self.output.name]
            read = {**read, "an image to caption": same}
        check_writable(self.output, "`--output`", lambda file: True, read)
        if self.output is None and self.sidecars is None:
            check_writable(self.errors, "`--errors`", holds_errors, read)
            return
        if self.sidecars is not None:
            outputs = [file for file in (self.output, self.errors_file, self.settings_file) if file is not None]
            self.sidecars.check_free(images, [*chain.from_iterable(read.values()), *outputs])
        others = {**read, "the `--output` too": [] if self.output is None else [self.output]}
        check_writable(self.errors_file, "the list of failed images (`--errors`)", holds_errors, others)
        check_writable(self.settings_file, "the file of the settings used", holds_settings, others)

    @cached_property
    def base(self) -> Path:
        """What the names of the files around the output begin with."""
        return self.folder / "captioner.jsonl" if self.output is None else self.output

    @property
    def journal(self) -> Path:
        """The folder of the journal."""
        return self.base.with_name(self.base.name + ".parts")

    @property
    def errors_file(self) -> Path:
        """The list of what failed."""
        return self.errors or self._beside(".errors.jsonl")

    @property
    def settings_file(self) -> Path:
        """The settings that were used."""
        return self._beside(".settings.json")

    def settings(self) -> dict[str, Any] | None:
        """The settings that the output there was made with, where they are known.

        Earlier versions gave two outputs of one stem one file: it counts where it can only be this output's.
        """
        before = self.base.with_suffix(".settings.json")
        shared = any(
            self.base.with_suffix(ending).exists() for ending in {SHORT, ".csv", ".parquet"} - {self.base.suffix}
        )
        files = (self.settings_file, *(() if shared else (before,)))
        return next((_read(file) for file in files if holds_settings(file)), None)

    def _beside(self, ending: str) -> Path:
        if self.base.suffix == SHORT:
            return self.base.with_suffix(ending)
        return self.base.with_name(self.base.name + ending)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def holds_settings(file: Path) -> bool:
    """Whether a file holds what a job has kept of its settings."""
    kept = _read(file)
    return isinstance(kept, dict) and {"captioner", "model", "generation", "images"} <= set(kept)


def remove_errors(file: Path) -> None:
    """Take away the list of failed images of an earlier run, and nothing else.

    Raises:
        OccupiedError: another file has its name.
    """
    if file.is_file():
        if not holds_errors(file):
            raise OccupiedError(f"{file} holds no list of failed images, so it is left; name another with `--errors`")
        file.unlink()
