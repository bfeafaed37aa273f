"""Options of `captioner caption` that would do nothing beside the others given: they are refused, not ignored.

Knows the groups of options; which search options go together is for `search/` to say.
"""

import glob
import os
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from ..bulk import TABLE_SUFFIXES
from .caption_options import ContextGroup, InputGroup, OutputGroup, RunGroup, SearchGroup
from .terminal import fail

OPTION_NAMES = {"as_json": "--json"}
MERGED = ("output", "errors", "existing", "overwrite", "merge")  # options that go with `--merge`


def given(group: Any) -> list[str]:
    """The fields of a group that are not at their defaults."""
    return [field.name for field in fields(group) if getattr(group, field.name) != field.default]


def refuse_idle(
    paths: Sequence[str],
    chosen: InputGroup,
    context: ContextGroup,
    search: SearchGroup,
    written: OutputGroup,
    run: RunGroup,
) -> None:
    """Leave with the first option that would do nothing."""
    if run.merge:
        others = [name for group in (chosen, context, search, written, run) for name in given(group)]
        _refuse([name for name in others if name not in MERGED], "`--merge` joins what is captioned already")
        return
    _refuse_inputs(paths, chosen, context)
    if written.output is None and written.sidecar is None:
        _refuse([name for name in given(written) if name == "overwrite"], "without `--output` nothing is replaced")
        if written.existing in ("overwrite", "fail"):
            _refuse(["existing"], "without `--output` or `--sidecar` nothing is there")
    else:
        _refuse([name for name in given(written) if name == "as_json"], "captions go to files, not to the terminal")
    if written.overwrite and written.existing not in ("skip", "overwrite"):
        _refuse(["overwrite"], f"`--existing {written.existing}` says something else")
    if written.scores and written.output is None and written.sidecar is not None:
        _refuse(["scores"], "texts beside images hold captions alone; give `--output`")
    if search.seed is not None and not search.draws:
        _refuse(["seed"], "no words are drawn; give `--temperature`, `--top-k` or `--top-p`")
    if context.neighbours is not None and context.retrieve is None:
        _refuse(["neighbours"], "there is no `--retrieve`")


def _refuse_inputs(paths: Sequence[str], chosen: InputGroup, context: ContextGroup) -> None:
    options = given(chosen)
    if not paths:
        idle = [name for name in options if name != "limit" or context.context_file is None]
        _refuse(idle if context.context_file or context.context else [], "there are texts in place of images")
        return
    single = [path for path in paths if os.path.isfile(path) or glob.has_magic(path)]
    if len(single) < len(paths):
        return  # a folder or a repository
    _refuse([name for name in options if name in ("recursive", "split")], "no path is a folder or a repository")
    if not any(os.path.splitext(path)[1].lower() in TABLE_SUFFIXES for path in paths):
        _refuse([name for name in options if name == "image_column"], "no path is a table")


def _refuse(names: Collection[str], why: str) -> None:
    if names:
        name = next(iter(names))
        option = OPTION_NAMES.get(name, "--" + name.replace("_", "-"))
        fail(f"`{option}` would do nothing, since {why}; leave it out", code=2)
