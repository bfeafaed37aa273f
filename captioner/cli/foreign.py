"""Errors of other libraries and of the system as one line with what to do. Knows no command, and imports none of them.

A kind of error is known by its class's name or that of one of its bases, so that nothing is loaded to ask.
"""

import errno
import os
import re
from collections.abc import Callable

from ..base import one_line

FAILED, MISUSED = 1, 2  # exit codes

EXTRAS = {
    "gradio": "app",
    "matplotlib": "plots",
    "peft": "lora",
    "faiss": "retrieval",
    "pillow_heif": "heic",
    "tensorboard": "tensorboard",
}


def _system(error: OSError) -> tuple[int, str]:
    if isinstance(error, ConnectionError | TimeoutError) or error.errno is None:
        return FAILED, f"{one_line(error)}; look at the network or the disk, then start the same command again"
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    remedies = {
        errno.ENOENT: "give a path that is there",
        errno.EACCES: "change its permissions, or name another",
        errno.EPERM: "change its permissions, or name another",
        errno.EISDIR: "name a file in it",
        errno.ENOTDIR: "name a path whose folders are there",
        errno.ENOSPC: "make room on the disk, then start the same command again",
        errno.EDQUOT: "make room on the disk, then start the same command again",
        errno.ENAMETOOLONG: "give a shorter name",
        errno.EMFILE: "raise the number of open files (`ulimit -n`), or lower `--num-workers`",
    }
    remedy = remedies.get(error.errno, "look at the disk, then start the same command again")
    usage = error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)
    return MISUSED if usage else FAILED, f"{file}{error.strerror}; {remedy}"


def _import(error: ImportError) -> tuple[int, str]:
    package = (error.name or "").partition(".")[0]
    remedy = f"pip install 'captioner[{EXTRAS[package]}]'" if package in EXTRAS else "install it, or captioner anew"
    return MISUSED, f"a package is missing or too old: {one_line(error)}; {remedy}"


def _memory(error: BaseException) -> tuple[int, str]:
    return FAILED, f"out of memory ({_short(error)}); lower `--batch-size` or the size of what is read"


def _unicode(error: UnicodeError) -> tuple[int, str]:
    return MISUSED, f"a text is in another encoding than its program said: {one_line(error)}; save it as UTF-8"


def _key(error: KeyError) -> tuple[int, str]:
    return FAILED, f"something that was read lacks {_short(error)}; was it made by another program or cut?"


def _weights(error: BaseException) -> tuple[int, str]:
    return FAILED, f"a file of weights is damaged or cut: {one_line(error)}; copy or download it again"


def _device(error: RuntimeError) -> tuple[int, str]:
    text = one_line(error)
    if re.search(r"out of memory|can't allocate|cannot allocate|alloc_cpu", text, re.IGNORECASE):
        return _memory(error)
    if re.search(r"device type|device string|invalid device|cuda|NVIDIA|accelerator", text, re.IGNORECASE):
        return MISUSED, f"the device cannot be used: {_short(error)}; give `--device cpu`, or one that is there"
    return FAILED, f"{_short(error)}; this may be a fault of captioner: report it with what `--debug` prints"


def _value(error: ValueError) -> tuple[int, str]:
    return MISUSED, f"{one_line(error)}"


def _hub(error: BaseException) -> tuple[int, str]:
    return FAILED, f"the Hub does not give it: {_short(error)}; check its name and the network, or give a directory"


def _recursion(error: RecursionError) -> tuple[int, str]:
    return FAILED, f"something that was read is nested too deep ({_short(error)}); is it damaged?"


def _unknown(error: BaseException) -> tuple[int, str]:
    return FAILED, f"{type(error).__name__}: {_short(error)}; report it with what `--debug` prints"


EXPLANATIONS: dict[str, Callable] = {
    "SafetensorError": _weights,
    "OutOfMemoryError": _memory,
    "MemoryError": _memory,
    "HfHubHTTPError": _hub,
    "ImportError": _import,
    "UnicodeError": _unicode,
    "RecursionError": _recursion,
    "KeyError": _key,
    "OSError": _system,
    "RuntimeError": _device,
    "ValueError": _value,
}


def explained(error: BaseException) -> tuple[int, str]:
    """An exit code, and a line that says what went wrong and what to do."""
    names = [base.__name__ for base in type(error).__mro__]
    explain = next((EXPLANATIONS[name] for name in names if name in EXPLANATIONS), _unknown)
    code, line = explain(error)
    return code, line or type(error).__name__


def _short(error: BaseException) -> str:
    """What an error says in 300 letters, or its name where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"
