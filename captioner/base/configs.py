"""Settings from YAML, then from `section.key=value` overrides, checked before any work.

Knows nothing about what a key does.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from .settings import Section, Settings, SettingsError, explain
from .texts import TextError, read_text

NOTHING = ("", "null", "Null", "NULL")


class Loader(yaml.SafeLoader):
    """YAML in which no key of a mapping may come twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping.

        Raises:
            yaml.YAMLError: a key comes twice.
        """
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_settings(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read settings from a YAML file and apply `section.key=value` overrides in order.

    Raises:
        SettingsError: a missing or malformed file, an unknown key (the nearest is named) or a bad value.
    """
    tree = _read(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    _refuse_unknown_keys(Settings, tree, "")
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError("; ".join(explain(error))) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(read_text(path), Loader) or {}
    except OSError as error:
        raise SettingsError(f"cannot read the config {path}: {error.strerror}; give the path of a YAML file") from error
    except (yaml.YAMLError, TextError) as error:
        raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise SettingsError(f"{path} must hold the sections {', '.join(Settings.model_fields)}, but holds {tree!r}")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one dotted key; the value is read as YAML, so numbers, lists and null are what they look like.

    Where the setting is a text, such as a path or a column, the value is taken as it is.
    """
    name, equals, text = override.partition("=")
    *parents, last = keys = name.strip().split(".")
    if not equals or not last:
        raise SettingsError(f"an override must look like section.key=value, but is {override!r}")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"cannot set {name!r}: {parent!r} is {tree!r}, not a section")
    try:
        tree[last] = _plain(text, _kinds_of(keys))
    except yaml.YAMLError as error:
        raise SettingsError(f"the value of {name!r} is not valid YAML: {text!r}") from error


def _plain(text: str, kinds: set[Any]) -> Any:
    """What an override gives a setting of some kinds."""
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    structured = text.startswith(("{", "[")) and not kinds <= {str, NoneType}
    if str not in kinds or quoted or structured:
        value = yaml.load(text, Loader)
        return value if str in kinds and isinstance(value, str) else _number(value)
    return None if NoneType in kinds and text in NOTHING else text


def _kinds_of(keys: Sequence[str]) -> set[Any]:
    """The types that a setting may have, by its dotted key; none for what is not known here."""
    section: type[BaseModel] | None = Settings
    for place, key in enumerate(keys):
        if section is None or key not in section.model_fields:
            return set()
        annotation = section.model_fields[key].annotation
        one = isinstance(annotation, type) or get_origin(annotation) in (list, dict)
        kinds = {annotation} if one else {*get_args(annotation)}
        texts = [get_args(kind)[1] for kind in (annotation, *kinds) if get_origin(kind) is dict]
        if texts and place == len(keys) - 2:  # the key is one of a dict's own
            return {*texts} & {str}
        section = _section_of(section, key)
    return kinds


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; a person who types it means a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _refuse_unknown_keys(section: type[BaseModel], tree: dict[str, Any], prefix: str) -> None:
    for key, value in tree.items():
        if key not in section.model_fields:
            known = [prefix + name for name in section.model_fields]
            near = get_close_matches(f"{prefix}{key}", [*known, *_all_keys(Settings, "")], n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise SettingsError(f"unknown setting {prefix + str(key)!r}; {remedy}")
        inner = _section_of(section, key)
        if inner is not None and isinstance(value, dict):
            _refuse_unknown_keys(inner, value, f"{prefix}{key}.")


def _section_of(section: type[BaseModel], key: str) -> type[Section] | None:
    """The section behind a field, also where a plain name may stand in its place."""
    annotation = section.model_fields[key].annotation
    candidates = getattr(annotation, "__args__", (annotation,))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


def _all_keys(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for key in section.model_fields:
        inner = _section_of(section, key)
        yield from _all_keys(inner, f"{prefix}{key}.") if inner is not None else [prefix + key]
