"""Whether a run may begin, and from where: asked before any data are read, answered the same on all processes.

Nothing that the run would write takes the place of what it did not make. Knows nothing about models or samples.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from ..base import OccupiedError, Processes, Settings, SettingsError, check_replaceable, say
from .checkpoints import STATE_FILE, CheckpointError, checkpoints, step_of
from .feature_store import STORE

CAPTIONER_FOLDERS = ("best", "last")
RUN_FILES = ("metrics.jsonl", "settings.yaml", "bad_data.jsonl")  # beside the weights and checkpoints of a run


def begin(settings: Settings, resume: bool) -> Path | None:
    """The checkpoint to go on from, None to start afresh; for all processes together.

    Raises:
        SettingsError: folders that cannot be written or that get in each other's way, fewer steps than were taken.
        OccupiedError: the run would write where something else lies.
        CheckpointError: there is a checkpoint, but the run is not to be resumed.
        DisagreementError: the processes do not see the same settings or the same checkpoint.
    """
    run, processes = Path(settings.training.output_dir), Processes()
    found = checkpoints(run)
    newest = found[-1] if found and resume else None
    seen = {"the checkpoint to go on from": _identity(newest)} if resume else {}
    processes.agree({f"`{key}`": value for key, value in _flat(settings)} | seen)
    refusal = processes.first(_refusal(settings, found, resume) if processes.rank == 0 else None)
    if refusal is not None:
        kind, message = refusal
        raise kind(message)
    if resume and newest is None:
        say(f"nothing to resume in {run}: starting afresh")
    return newest


def _flat(settings: Settings) -> Iterator[tuple[str, Any]]:
    for section, own in settings.model_dump().items():
        yield from ((f"{section}.{key}", value) for key, value in own.items())


def _identity(checkpoint: Path | None) -> str:
    """A checkpoint's name and what it holds, in a few letters."""
    if checkpoint is None:
        return "none"
    state = checkpoint / STATE_FILE
    content = state.read_bytes() if state.is_file() else b""
    return f"{checkpoint.name} ({hashlib.sha256(content).hexdigest()[:8]})"


def _refusal(settings: Settings, found: list[Path], resume: bool) -> tuple[type[ValueError], str] | None:
    """Why the run may not begin; an error may be sent to other processes only as its kind and words."""
    checks: list[Callable[[], None]] = [
        lambda: _check_places(settings),
        lambda: _check_run(Path(settings.training.output_dir), found, resume),
        lambda: _check_steps(settings, found, resume),
        lambda: _check_writable(Path(settings.training.output_dir)),
    ]
    for check in checks:
        try:
            check()
        except ValueError as error:
            return type(error), str(error)
    return None


def _check_places(settings: Settings) -> None:
    """No folder that is written is one that is read, or is written by something else."""
    data, run = settings.data, settings.training.output_dir
    read = {"data.path": data.path, "data.retrieve": data.retrieve, "model.init_from": settings.model.init_from}
    written = {"training.output_dir": run, "data.feature_store": data.feature_store}
    for name, own in written.items():
        for other, place in (written | read).items():
            if other != name and own is not None and place is not None and _same(own, place):
                raise SettingsError(f"`{name}` and `{other}` are both {own}; give `{name}` a folder of its own")
    if data.feature_store is not None and not (Path(data.feature_store) / STORE).exists():
        check_replaceable(Path(data.feature_store))


def _same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _check_run(run: Path, found: list[Path], resume: bool) -> None:
    """Leave the captioners and the log of another run alone; a stopped run without either may start again."""
    if found and not resume:
        raise CheckpointError(
            f"{run} holds {found[-1].name} of an earlier run; add --resume to go on from it, set another "
            "`training.output_dir`, or remove it"
        )
    names = () if found else CAPTIONER_FOLDERS if resume else (*CAPTIONER_FOLDERS, *RUN_FILES)
    there = [name for name in names if (run / name).exists()]
    if there:
        raise OccupiedError(
            f"{run} holds {', '.join(there)} and no checkpoint to go on from; set another `training.output_dir`, or "
            "move that away"
        )


def _check_steps(settings: Settings, found: list[Path], resume: bool) -> None:
    if resume and found and step_of(found[-1]) > settings.training.max_steps:
        raise SettingsError(
            f"`training.max_steps` is {settings.training.max_steps}, but {found[-1]} has taken more; set it higher"
        )


def _check_writable(run: Path) -> None:
    """Ask the nearest folder that is there, so that a refused run leaves nothing."""
    place = next(path for path in (run.resolve(), *run.resolve().parents) if path.exists())
    try:
        TemporaryFile(dir=place).close()
    except OSError as error:
        raise SettingsError(f"cannot write to `training.output_dir` {run}: {error.strerror}; name another") from error
