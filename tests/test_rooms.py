"""The house as its plan says: rooms only, each with its door, small files and functions, one word one meaning."""

import ast
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

import captioner

HOUSE = Path(captioner.__file__).parent
ROOMS = sorted(path.parent.name for path in HOUSE.glob("*/__init__.py"))
FILES = sorted(HOUSE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 350, 60, 10


def named(path):
    return str(path.relative_to(HOUSE))


def parsed(path):
    return ast.parse(path.read_text())


def functions(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_package_holds_rooms_and_nothing_else():
    found = {path.name for path in HOUSE.iterdir()} - {"__pycache__"}
    assert found == {"__init__.py", "__main__.py", "shipped", "templates", *ROOMS}
    assert len(ROOMS) == 15


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_what_it_knows_nothing_about(room):
    text = ast.get_docstring(parsed(HOUSE / room / "__init__.py"))
    assert text
    assert "knows nothing" in text.lower() or room == "cli"


@pytest.mark.parametrize("room", ROOMS)
def test_no_name_that_a_room_hands_on_is_hidden_by_one_of_its_files(room):
    files = {path.stem for path in (HOUSE / room).glob("*.py")}
    handed_on = set(import_module(f"captioner.{room}").__all__)
    assert not files & handed_on - {"main"}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_takes_from_other_rooms_only_what_they_hand_on(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module and node.module != "base.lazy":
            assert node.module in ROOMS, f"{named(path)} reaches past the door of {node.module}"
            handed_on = import_module(f"captioner.{node.module}").__all__
            assert {alias.name for alias in node.names} <= set(handed_on), named(path)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_has_one_job_of_readable_size(path):
    assert ast.get_docstring(parsed(path)), "a file says at its head what it is for"
    assert len(path.read_text().splitlines()) <= LONGEST_FILE
    for function in functions(path):
        assert function.end_lineno - function.lineno < LONGEST_FUNCTION, f"{named(path)}: {function.name}"


def is_command(path, function):
    return path.parent.name == "cli" and path.stem == function.name.removesuffix("_command")


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_function_takes_more_than_ten_parameters(path):
    for function in functions(path):
        taken = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        count = len([argument for argument in taken if argument.arg not in ("self", "cls")])
        contract = function.name in ("forward", "from_parts", "caption")  # public signatures
        assert count <= MOST_PARAMETERS or contract or is_command(path, function), f"{named(path)}: {function.name}"


def test_a_constant_has_one_meaning_in_the_whole_house():
    places = defaultdict(list)
    for path in FILES:
        for node in parsed(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and target.id.isupper() and len(target.id) > 1:  # type variables
                    places[target.id].append(named(path))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
