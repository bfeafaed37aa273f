"""What the captioner reads beside each image: one text, or a template over the columns, files and metadata around it.

Knows nothing about tensors; runs in workers.
"""

import os
from collections.abc import Callable, Collection
from string import Formatter
from typing import Any

from ..base import read_text
from ..data import FIELDS, read_metadata
from .inputs import InputError, Item

METADATA_TEMPLATE = "{title} {description} {keywords}"


def _directory(item: Item) -> str:
    return os.path.basename(os.path.dirname(os.path.abspath(item.file or item.name)))


def _stem(item: Item) -> str:
    return os.path.splitext(os.path.basename(item.name))[0]


PLACES: dict[str, Callable[[Item], str]] = {
    "name": _stem,
    "file_name": lambda item: os.path.basename(item.name),
    "directory": _directory,
}
METADATA = {name: name for name in FIELDS} | {"tags": "keywords"}


class Context:
    """Makes the context of an image.

    Args:
        template: text with fields in braces: columns of the table, `name`, `file_name`, `directory`, and from the
            image's metadata `title`, `description`, `keywords` or `tags`. Columns come before the others. Braces
            that are meant as such are doubled. A template with fields, all of them empty, is no context.
        sidecar_extension: read the text file beside the image instead, `photo.txt` for `photo.jpg`.
        columns: the columns that the images have.

    Raises:
        InputError: a template that is none, or with a field that no image has.
    """

    def __init__(
        self, template: str | None = None, sidecar_extension: str | None = None, columns: Collection[str] = ()
    ):
        self.template, self.sidecar_extension = template, sidecar_extension
        self.fields = _fields(template or "")
        known = list(dict.fromkeys([*columns, *PLACES, *METADATA]))
        self.named = {name.strip(): name for name in columns}  # a header may have spaces around its names
        for name in self.fields:
            if name not in known and name not in self.named:
                raise InputError(f"`--context` has the field {{{name}}}, but there is {', '.join(known)}; braces: {{{{")

    @property
    def varies(self) -> bool:
        """Whether each image has a context of its own."""
        return bool(self.fields or self.sidecar_extension)

    def __bool__(self) -> bool:
        return bool(self.template or self.sidecar_extension)

    def __call__(self, item: Item) -> str | None:
        """The context of one image, or None where nothing is known about it."""
        if self.sidecar_extension:
            return _read_sidecar(item, self.sidecar_extension)
        metadata = read_metadata(item.image) if self._asks_metadata(item) else {}
        values = {name: _text(self._value(name, item, metadata)) for name in self.fields}
        if self.fields and not any(values.values()):
            return None
        parts = (text + values.get(name, "") for text, name, _, _ in Formatter().parse(self.template or ""))
        return " ".join("".join(parts).split()) or None

    def _asks_metadata(self, item: Item) -> bool:
        return any(name in METADATA and self._column(name, item) is None for name in self.fields)

    def _column(self, name: str, item: Item) -> str | None:
        """The column that a field names, where the item has it."""
        return next((own for own in (name, self.named.get(name)) if own in item.columns), None)

    def _value(self, name: str, item: Item, metadata: dict[str, str]) -> Any:
        if (column := self._column(name, item)) is not None:
            return item.columns[column]
        return PLACES[name](item) if name in PLACES else metadata.get(METADATA[name])


def _fields(template: str) -> list[str]:
    try:
        names = [(name, spec, how) for _, name, spec, how in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise InputError(f"`--context` {template!r} is no template: {error}; write {{{{ for a brace") from error
    for name, spec, how in names:
        if not name or spec or how:
            raise InputError(f"`--context` {template!r} may have plain fields only, such as {{title}}, not {{{name}…}}")
    return list(dict.fromkeys(name for name, _, _ in names))


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _read_sidecar(item: Item, extension: str) -> str | None:
    """The text beside an image, None where there is none.

    Raises:
        TextError: it is no text.
    """
    if item.file is None:
        return None
    try:
        return " ".join(read_text(os.path.splitext(item.file)[0] + extension).split()) or None
    except OSError:
        return None
