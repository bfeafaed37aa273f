"""Options of commands, each declared once: those that several commands have, and groups of them. Knows no command.

A group is a frozen dataclass whose fields are options, so that a command takes a few groups and hands them on whole.
"""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

ModelOption = Annotated[str, typer.Option("--model", "-m", help="A shipped name, a directory or a Hub repository.")]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.")]
WorkersOption = Annotated[int, typer.Option("--num-workers", min=0, help="Processes that decode images.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings, as section.key=value.")]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread the groups among a command's parameters over its command line.

    A field `name: Annotated[type, typer.Option(…)] = default` of a group stands there in the place of the group, as if
    it was a parameter of the command.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = [own for one in signature(command).parameters.values() for own in _spread(one, groups.get(one.name))]

    @wraps(command)
    def spread(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    spread.__signature__ = Signature(parameters)
    spread.__annotations__ = {one.name: one.annotation for one in parameters}
    return spread


def _spread(parameter: Parameter, group: type | None) -> Iterator[Parameter]:
    """The parameters that stand for one, all by keyword, so that some with a default may come before some without."""
    if group is None:
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    for field in fields(group):
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=field.type)


@dataclass(frozen=True)
class RetrievalGroup:
    """What to read beside images that look like others."""

    retrieve: Annotated[
        str | None,
        typer.Option("--retrieve", help="A caption store: captions of images that look alike follow each context."),
    ] = None
    neighbours: Annotated[int | None, typer.Option(min=1, help="Images that captions come from; default: 4.")] = None

    def overrides(self) -> list[str]:
        """As overrides of settings."""
        return [f"data.{name}={value}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class LoadingGroup:
    """How images are read for work that nobody waits for image by image."""

    batch_size: BatchOption = 64
    num_workers: WorkersOption = 2
