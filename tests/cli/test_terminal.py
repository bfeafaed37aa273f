"""Whatever goes wrong in a command becomes one line with what to do; `--debug` shows where it came from."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pydantic
import pytest
import torch
import typer
from PIL import Image
from safetensors import SafetensorError
from typer.testing import CliRunner

from captioner.base import FailureError, OccupiedError, WriteError
from captioner.cli import terminal
from captioner.cli.main import app
from captioner.cli.terminal import teaching


class Odd(BaseException):
    """An error of a kind of its own."""


def json_error():
    try:
        json.loads("{")
    except ValueError as error:
        return error


def pydantic_error():
    try:
        pydantic.TypeAdapter(int).validate_python("x")
    except pydantic.ValidationError as error:
        return error


ERRORS = {
    "ours": (OccupiedError("o is there; name another"), 2, "name another"),
    "write": (WriteError("cannot write o"), 1, "cannot write o"),
    "failure": (FailureError("no value\nat step 3"), 1, "no value at step 3"),
    "missing file": (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.txt"), 2, "x.txt: No such file"),
    "permission": (PermissionError(errno.EACCES, "Permission denied", b"x\xff"), 2, "Permission denied"),
    "folder": (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), 2, "name a file in it"),
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), 1, "make room"),
    "long name": (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2, "give a shorter name"),
    "bare os": (OSError("odd"), 1, "odd"),
    "network": (ConnectionResetError("reset by peer"), 1, "network"),
    "time": (TimeoutError(), 1, "network"),
    "device": (RuntimeError("Expected one of cpu, cuda device type at start of device string: gpu"), 2, "--device cpu"),
    "cuda": (RuntimeError("Found no NVIDIA driver on your system.\nPlease check"), 2, "--device cpu"),
    "shape": (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 1, "mat1 and mat2"),
    "memory": (MemoryError(), 1, "lower `--batch-size`"),
    "gpu memory": (torch.OutOfMemoryError("CUDA out of memory. Tried"), 1, "lower `--batch-size`"),
    "cpu memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "lower `--batch-size`"),
    "weights": (SafetensorError("Error while deserializing header: MetadataIncompleteBuffer"), 1, "damaged or cut"),
    "decode": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "save it as UTF-8"),
    "encode": (UnicodeEncodeError("latin-1", "\u2026", 0, 1, "ordinal not in range"), 2, "save it as UTF-8"),
    "key": (KeyError("splits"), 1, "lacks 'splits'"),
    "index": (IndexError("list index out of range"), 1, "list index"),
    "type": (TypeError("unsupported"), 1, "TypeError: unsupported"),
    "attribute": (AttributeError("no x"), 1, "no x"),
    "assertion": (AssertionError(), 1, "AssertionError"),
    "recursion": (RecursionError("maximum recursion depth exceeded"), 1, "nested too deep"),
    "stop": (StopIteration(), 1, "StopIteration"),
    "zero": (ZeroDivisionError("division by zero"), 1, "division by zero"),
    "overflow": (OverflowError("int too large"), 1, "int too large"),
    "end": (EOFError("Compressed file ended"), 1, "Compressed file ended"),
    "extra": (ModuleNotFoundError("No module named 'peft'", name="peft"), 2, "pip install 'captioner[lora]'"),
    "import": (ImportError("cannot import name 'x' from 'timm'", name="timm"), 2, "install it"),
    "value": (ValueError("two\nlines"), 2, "two lines"),
    "json": (json_error(), 2, "Expecting property name"),
    "pydantic": (pydantic_error(), 2, "valid integer"),
    "arrow": (pyarrow.ArrowInvalid("not a Parquet file"), 2, "not a Parquet file"),
    "image": (Image.DecompressionBombError("too large"), 1, "too large"),
    "own": (type("HfHubHTTPError", (Exception,), {})("404"), 1, "the Hub does not give it"),
    "ctrl-c": (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    "markup": (ValueError("[bold]a[/nope] \udcff"), 2, "[bold]a[/nope]"),
}


def command(error):
    made = typer.Typer()

    made.callback()(terminal.debugging)

    @made.command()
    @teaching
    def work() -> None:
        raise error

    return made


@pytest.mark.parametrize("name", ERRORS)
def test_every_kind_of_error_is_one_line_and_an_exit_code(name):
    error, code, said = ERRORS[name]
    result = CliRunner().invoke(command(error), ["work"])
    assert result.exit_code == code, result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert "Traceback" not in result.output


def test_debug_prints_where_an_error_came_from_and_its_line_after_it():
    result = CliRunner().invoke(command(KeyError("x")), ["--debug", "work"])
    assert "Traceback (most recent call last)" in result.output
    assert "raise error" in result.output
    assert result.output.strip().splitlines()[-1].startswith("error: ")


def test_who_reads_the_output_may_leave(monkeypatch):
    result = CliRunner().invoke(command(BrokenPipeError(errno.EPIPE, "Broken pipe")), ["work"])
    assert result.exit_code == 1
    assert result.output == ""


def test_paths_begin_at_home_where_a_shell_left_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert terminal._at_home(Path("~/o.csv")) == tmp_path / "o.csv"
    assert terminal._at_home("~ about") == "~ about"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "CPU", "meta", "cuda:x", "tpu"])
@pytest.mark.parametrize("words", [["caption", "."], ["index", ".", "--model", "scenes-separate", "--output", "s"]])
def test_a_device_that_is_not_there_is_said_before_any_work(tmp_path, monkeypatch, device, words):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("a.png")
    result = CliRunner().invoke(app, [*words, "--device", device])
    assert result.exit_code == 2, result.output
    assert "here there is cpu" in result.output
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_terminal_without_unicode_gets_escapes(tmp_path, encoding, as_json):
    Image.new("RGB", (40, 40)).save(tmp_path / "emoji 😀.png")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = ["emoji 😀.png", "--model", "scenes-separate", "--num-workers", "0", "--beams", "1", *as_json]
    made = subprocess.run(
        [sys.executable, "-m", "captioner", "caption", *words], cwd=tmp_path, env=environment, capture_output=True
    )
    assert made.returncode == 0, made.stderr
    said = made.stdout.decode(encoding)
    assert json.loads(said)["image"] == "emoji 😀.png" if as_json else said.startswith("emoji \\U0001f600.png")


def test_streams_that_cannot_be_told_are_left(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    terminal._show_all_letters()
