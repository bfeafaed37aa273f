"""Text files that people and their programs write: their encoding, where their lines end, the JSON that they hold.

One rule for every reader: a byte order mark counts; then UTF-8; then UTF-16 without a mark; then Windows-1252 where it
reads as a Western language. Anything else is refused by name. Knows nothing about what the texts are for.
"""

import codecs
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WINDOWS = "cp1252"
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
WESTERN = re.compile(r"[\t\n\r\x20-\x7e\xa0-\xff€„…Š‹ŒŽ‘’“”•–—™š›œžŸ]*")
FOREIGN_RUN = re.compile(rb"[\x80-\xff]{3}")  # other code pages and broken UTF-8 are full of them
UTF_8_LETTER = re.compile(rb"[\xc2-\xc5\xd0\xd1][\x80-\xbf]")  # the usual ones of two bytes
HALF_SIGN = re.compile(r"\\u[dD][89a-fA-F]")  # may be one of a pair


def _refuse(constant: str) -> Any:
    raise ValueError(f"it has no {constant}; write null")


DECODER = json.JSONDecoder(parse_constant=_refuse)
_warned: list[str] = []


class TextError(ValueError):
    """A text that cannot be read; the message names the file, what is wrong and the remedy."""


def read_text(path: str | os.PathLike) -> str:
    """The text in a file, without its byte order mark; line ends stay as they are.

    Raises:
        OSError: it cannot be read.
        TextError: it is in an encoding that cannot be told.
    """
    return decoded(Path(path).read_bytes(), os.fspath(path))


def decoded(content: bytes, name: str) -> str:
    """The text in bytes that come from a file or a pipe.

    Args:
        name: of where they come from, for errors.

    Raises:
        TextError: they are in an encoding that cannot be told.
    """
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    encoding = MARKS[mark] if mark else _encoding(content)
    remedy = "save it as UTF-8"
    if encoding is None:
        raise TextError(f"{name} is neither UTF-8, UTF-16 nor Windows-1252; {remedy}")
    if encoding == WINDOWS:
        _warn_of_windows(name)
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise TextError(f"{name} is not whole {encoding.upper()} (byte {error.start}); {remedy}") from error


def _encoding(content: bytes) -> str | None:
    """The encoding of bytes without a mark; None where it cannot be told."""
    if b"\0" in content:
        return _utf_16(content)
    try:
        content.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        pass
    if FOREIGN_RUN.search(content) or UTF_8_LETTER.search(content):  # of two encodings, or of neither
        return None
    try:
        text = content.decode(WINDOWS)
    except UnicodeDecodeError:
        return None
    return WINDOWS if WESTERN.fullmatch(text) else None


def _warn_of_windows(name: str) -> None:
    if not _warned:
        _warned.append(name)
        text = f"{name} is no UTF-8 and is read as Windows-1252; where its letters come out wrong, save it as UTF-8"
        warnings.warn(f"{text}. This is said once.", stacklevel=4)


def _utf_16(content: bytes) -> str | None:
    """Text in UTF-16 has its NULs in every second byte, all before or all behind a letter of ASCII."""
    if len(content) % 2:
        return None
    before, behind = content[::2].count(0), content[1::2].count(0)
    if behind and not before:
        return "utf-16-le"
    return "utf-16-be" if before and not behind else None


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, without their ends, which are "\n", "\r\n" or, where there is no "\n" at all, "\r".

    U+2028, U+0085 and their like are signs within a line.
    """
    text = text if "\n" in text else text.replace("\r", "\n")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def parse_json(text: str, name: str) -> Any:
    """What JSON holds; NaN and Infinity, which it does not have, and halves of a sign (a lone "\\ud83d") are refused.

    Args:
        name: of where it stands, such as a file and a line, for errors.

    Raises:
        TextError: it is no JSON.
    """
    try:
        value = DECODER.decode(text)
        if "\\u" in text and HALF_SIGN.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise TextError(f"{name} is not JSON: {error}") from error


def json_lines(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """What stands on each line of a JSONL file that is not blank, after the line's name: "FILE, line 3".

    Raises:
        OSError, TextError: as `read_text` and `parse_json`.
    """
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        if line.strip():
            name = f"{os.fspath(path)}, line {number}"
            yield name, parse_json(line, name)
