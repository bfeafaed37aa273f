"""The commands under one name. Each checks what it was given, then imports what it needs and calls what does the work.

Exit codes: 0 done, 1 the work failed in part or whole, 2 the command was used wrongly.
"""

import sys

import typer

from .app import app_command
from .attend import attend
from .caption import caption
from .convert import convert
from .demo import demo
from .evaluate import evaluate
from .index import index
from .score import score
from .terminal import debugging
from .train import train

app = typer.Typer(
    help="An image captioner that looks and reads.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)


app.callback()(debugging)
app.command()(caption)
app.command()(attend)
app.command("app")(app_command)
app.command()(convert)
app.command()(index)
app.command()(demo)
app.command()(train)
app.command()(evaluate)
app.command()(score)


def main() -> None:
    """The entry point of the `captioner` command; `--debug` may stand anywhere."""
    words = sys.argv[1:]
    own = words[: words.index("--")] if "--" in words else words
    debug = ["--debug"] if "--debug" in own else []
    app([*debug, *(word for word in own if word != "--debug"), *words[len(own) :]])
