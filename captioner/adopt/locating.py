"""Where the name of a captioner leads: to a local folder first, then into the package, then to the Hub.

Knows folders and what lies in them; knows nothing about how a captioner is loaded.
"""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from ..base import some

SHIPPED = Path(__file__).parents[1] / "shipped"
CONFIG = "config.json"
STATE_FOLDER = re.compile(r"checkpoint-\d+")  # folders with the state of a run
NEAR = 0.7  # of `get_close_matches`: a slip of the keys, not another name


class AdoptError(ValueError):
    """A captioner that cannot be loaded or put together; the message says what would work."""


def shipped_names() -> list[str]:
    """The captioners inside the package."""
    return sorted(folder.name for folder in SHIPPED.glob("*") if folder.is_dir())


def shipped_folder(name: str) -> Path:
    """Where a captioner of the package lies, for those who want it whatever lies in the working directory."""
    return SHIPPED / name


def is_shipped(directory: str) -> bool:
    """Whether a captioner lies inside the package."""
    return Path(directory).parent == SHIPPED


def remedy() -> str:
    """What a captioner may be named by."""
    return (
        f"give a directory with {CONFIG}, a Hub repository that can be reached, or one of {shipped_names()}; "
        "`captioner demo` needs no network"
    )


def located(name: str, subfolder: str = "") -> str:
    """The directory that a name means, or the name itself where only the Hub may know it.

    Args:
        name: a directory, a shipped name or a Hub repository.
        subfolder: where in it the captioner lies.

    Raises:
        AdoptError: something that is there but no captioner, such as the folder of a run, or a name that is none.
    """
    path = Path(os.path.expanduser(name))
    if (path / subfolder / CONFIG).is_file():
        return str(path)
    if name in shipped_names():
        return str(shipped_folder(name))
    if path.exists():
        raise AdoptError(_what_it_is(path / subfolder))
    if _is_path(name):
        near = _near(path.name, (beside.name for beside in path.parent.glob("*")))
        meant = f"did you mean {path.parent / near[0]}? " if near else ""
        raise AdoptError(f"cannot load a captioner from {name!r}: there is no such directory; {meant}{remedy()}")
    near = _near(name, shipped_names())
    if near:
        raise AdoptError(
            f"cannot load a captioner from {name!r}: there is no such directory and the package has no captioner of "
            f"this name; did you mean {near[0]!r}?"
        )
    return name


def _near(name: str, names: Iterable[str]) -> list[str]:
    return get_close_matches(name, list(names), n=1, cutoff=NEAR)


def _is_path(name: str) -> bool:
    """Whether a name can only be a path; those of the Hub have one slash at most."""
    return name.startswith((".", "~", os.sep)) or os.path.isabs(name) or name.count("/") > 1 or name.endswith("/")


def _what_it_is(path: Path) -> str:
    """A path that is there and no captioner, in words, with the captioners near it."""
    if not path.is_dir():
        return f"{path} is no directory; {_choice(path.parent, 'the captioner that it belongs to is', '.')}"
    if STATE_FOLDER.fullmatch(path.name):
        return (
            f"{path} is the state of a run, which --resume goes on from; {_choice(path.parent, 'its captioners are')}"
        )
    return f"{path} is no captioner, for it has no {CONFIG}; {_choice(path, 'captioners below it are')}"


def _choice(folder: Path, they_are: str, *patterns: str) -> str:
    """The captioners in a folder, with what they are to it; what can be given instead where there is none."""
    found = {file.parent for pattern in patterns or ("*", "*/*") for file in folder.glob(f"{pattern}/{CONFIG}")}
    if found:
        return f"{they_are} {some(sorted(found))}"
    return f"{remedy()} (it holds {some(sorted(path.name for path in folder.glob('*')))})"
