"""Options in groups: on the command line as if they were the command's own, in its call whole."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from captioner.cli.options import grouped
from captioner.cli.terminal import teaching


@dataclass(frozen=True)
class SizeGroup:
    width: Annotated[int, typer.Option("--width", "-w", help="In cm.")]
    height: Annotated[int, typer.Option(min=1)] = 3
    colours: Annotated[list[str] | None, typer.Option()] = None


@dataclass(frozen=True)
class MoodGroup:
    loud: Annotated[bool, typer.Option("--loud")] = False


def command(calls):
    """A command that notes how it is called."""
    made = typer.Typer()

    @made.command()
    @teaching
    @grouped
    def draw(*, name: Annotated[str, typer.Argument()] = "x", size: SizeGroup, mood: MoodGroup) -> None:
        """Draw."""
        calls.append((name, size, mood))

    return lambda *arguments: CliRunner().invoke(made, list(arguments))


def test_a_command_gets_its_groups_whole_with_what_was_given_and_the_defaults():
    calls = []
    run = command(calls)
    assert run("-w", "2").exit_code == 0
    assert run("y", "--width", "4", "--height", "5", "--loud", "--colours", "a", "--colours", "b").exit_code == 0
    assert calls[0] == ("x", SizeGroup(2), MoodGroup())
    assert calls[1] == ("y", SizeGroup(4, 5, ["a", "b"]), MoodGroup(True))


def test_options_of_a_group_are_checked_and_required_like_others():
    calls = []
    run = command(calls)
    assert run("-w", "2", "--height", "0").exit_code == 2
    assert run().exit_code == 2
    assert not calls


def test_help_lists_the_options_of_groups_in_their_order():
    printed = command([])("--help").output
    places = [printed.index(name) for name in ("Draw.", "--width", "--height", "--colours", "--loud")]
    assert places == sorted(places)
