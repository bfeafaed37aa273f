"""The house in tables and numbers, read off the code; with `--write`, docs/architecture.md has them.

Rooms and their order come from the layers contract in pyproject.toml, what a room or file does from the first line of
its docstring. Nothing of the project is imported.
"""

import argparse
import ast
import re
import tomllib
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
PLACE = re.compile(r"(<!-- made by benchmarks/house.py -->\n).*(<!-- end -->)", re.DOTALL)


def rooms() -> list[str]:
    """From the ground up."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [layer.removeprefix("captioner.") for layer in reversed(contracts[0]["layers"])]


def first_line(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(text.split("\n\n")[0].split())
    return sentence[:1].lower() + sentence[1:].rstrip(".") if not sentence.startswith("`") else sentence.rstrip(".")


def code_lines(files: list[Path]) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def function_lengths(files: list[Path]) -> list[int]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return [n.end_lineno - n.lineno + 1 for tree in trees for n in ast.walk(tree) if isinstance(n, kinds)]


def room_table(room: str) -> list[str]:
    """A heading, what the room is for, a row for each file."""
    folder = ROOT / "captioner" / room
    files = [file for file in sorted(folder.glob("*.py")) if file.name != "__init__.py"]
    rows = [f"| `{file.name}` | {first_line(file)} |" for file in files]
    return [f"### `{room}/`", "", first_line(folder / "__init__.py"), "", "| file | one job |", "|---|---|", *rows, ""]


def numbers() -> list[str]:
    """Sizes of the whole and of each room."""
    package, tests = ([*(ROOT / name).rglob("*.py")] for name in ("captioner", "tests"))
    tests = [file for file in tests if "before" not in file.parts]
    own, tested, lengths = code_lines(package), code_lines(tests), function_lengths(package)
    lines = ["| room | files | lines | longest file |", "|---|---|---|---|"]
    for room in rooms():
        files = [*(ROOT / "captioner" / room).glob("*.py")]
        lines.append(
            f"| `{room}/` | {len(files)} | {code_lines(files)} | {max(map(code_lines, ([f] for f in files)))} |"
        )
    share, middle, most = tested / (own + tested), median(lengths), quantiles(lengths, n=10)[-1]
    return [
        *lines,
        "",
        f"Together {len(package)} files and {own:,} lines, and {tested:,} lines of tests ({share:.0%}).",
        f"Functions: {len(lengths)}, median {middle:.0f} lines, 90th percentile {most:.0f}, longest {max(lengths)}.",
        "",
    ]


def house() -> str:
    """What stands in docs/architecture.md."""
    return "\n".join([line for room in rooms() for line in room_table(room)] + ["### Numbers", "", *numbers()])


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/architecture.md")
    if not parser.parse_args().write:
        print(house())
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(PLACE.sub(lambda found: found[1] + house() + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
