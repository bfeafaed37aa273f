"""The files of a journal: which are its own, who writes them, and how they are taken away.

A folder of records may come from elsewhere, in a prepared folder of images: nothing in it is opened, cut or removed
before `check_own` has seen it. Knows nothing about records.
"""

import logging
import mmap
import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from ..base import some

try:
    import fcntl
except ImportError:  # Windows has no advisory locks
    fcntl = None

logger = logging.getLogger(__name__)

OWN_FILES = re.compile(r"settings\.json|0-previous\.jsonl|\d+-of-\d+\.\d+\.jsonl|\..*\.tmp")


class JournalError(ValueError):
    """A journal that cannot go on; the message says what would work."""


def check_own(folder: Path) -> None:
    """Make sure that the folder is not there, or was made by runs of this user and holds nothing else.

    Raises:
        JournalError: it was not.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise JournalError(f"{folder} is no folder of records but in their place; move it away")
    with os.scandir(folder) as listing:
        entries = list(listing)
    others = [e.name for e in entries if not OWN_FILES.fullmatch(e.name) or not e.is_file(follow_symlinks=False)]
    if others:
        raise JournalError(f"{folder} holds {some(others, 3)}, which captioner did not make; move it away")
    with TemporaryFile(dir=folder.resolve().parent) as made:  # also where a server gives users other numbers
        user = os.fstat(made.fileno()).st_uid
    if any(entry.stat(follow_symlinks=False).st_uid != user for entry in entries):
        raise JournalError(f"{folder} holds records of another user; name another output, or move it away")


def sweep(folder: Path) -> None:
    """Take away a folder of records; what is none, and what links to elsewhere, is left."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in list(os.scandir(folder)):
        if OWN_FILES.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)
    with suppress(OSError):
        folder.rmdir()


def _let_go() -> None:
    """Forked workers must not keep the lock of a run that was killed."""
    for descriptor in LOCKED:
        os.close(descriptor)
    LOCKED.clear()


LOCKED: set[int] = set()  # descriptors of files that this process writes alone
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def lock(descriptor: int, file: Path) -> None:
    """Keep other runs out; a file that has just been taken away is no longer the one to lock."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        _warn_unlocked(file, error.strerror)
    if fcntl is None:
        _warn_unlocked(file, "this system has no locks")
    if not os.path.samestat(os.fstat(descriptor), os.stat(file)):
        raise FileNotFoundError(file)


def _warn_unlocked(file: Path, reason: str) -> None:
    logger.warning("cannot lock %s (%s): start no second run that writes there until this one ends", file, reason)


def whole_lines(descriptor: int) -> int:
    """How many bytes of a file are whole lines."""
    if not os.fstat(descriptor).st_size:
        return 0
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
        return content.rfind(b"\n") + 1
