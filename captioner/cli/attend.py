"""`captioner attend`: caption one image, then draw what each word looked at and read."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..base import check_writable, console, say
from .options import ModelOption, grouped
from .terminal import fail, quiet, teaching

if TYPE_CHECKING:
    from rich.table import Table

    from ..explain import Attribution

VERBS = {"image": "looked", "context": "read"}


@dataclass(frozen=True)
class WeightsGroup:
    """Which weights are drawn."""

    method: Annotated[str, typer.Option(help="attention, rollout or saliency (by gradients).")] = "attention"
    layer: Annotated[int | None, typer.Option(help="One layer of the attention; default: their mean.")] = None
    head: Annotated[int | None, typer.Option(help="One head of the attention; default: their mean.")] = None


@teaching
@grouped
def attend(
    *,
    model: ModelOption,
    image: Annotated[str | None, typer.Argument(metavar="[IMAGE]", help="The photo.")] = None,
    context: Annotated[str | None, typer.Option(help="Text to read beside the image.")] = None,
    further: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A further modality from a .npy or .safetensors file; repeatable."),
    ] = None,
    caption: Annotated[str | None, typer.Option(help="A caption to look into; default: the captioner's own.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: .png, .svg, .pdf, …")] = Path(
        "attend.png"
    ),
    weights: WeightsGroup,
    beams: Annotated[
        int | None, typer.Option("--beams", "--num-beams", min=1, help="Of the search, default: 3; 1 is greedy.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", "--max-length", min=1, help="Default: 30.")
    ] = None,
) -> None:
    """Draw what each word of a caption looked at and read."""
    files = dict(map(_named, further or []))
    if caption is not None and (beams or max_new_tokens):
        fail("`--caption` is given, so nothing is searched; leave `--beams` and `--max-new-tokens` out", code=2)
    if image is None and context is None and not files:
        fail("nothing to caption: give an IMAGE, `--context` or `--further NAME=FILE`", code=2)
    try:
        from ..explain import check_picture_name, holds_picture, picture, save_picture
    except ImportError:
        fail("pictures need matplotlib: pip install 'captioner[plots]'", code=2)
    check_picture_name(output)
    read = {"the photo": [image] if image else [], "a file that is read": files.values()}
    check_writable(output, "`--output`", holds_picture, read)
    from ..adopt import load
    from ..explain import look

    quiet()
    seen = look(*load(model), image, context, caption, files, num_beams=beams or 3, max_new_tokens=max_new_tokens or 30)
    save_picture(picture(seen.found, seen.photo, **vars(weights)), output)
    console.print(_table(seen.found, weights))
    say(f"the picture: {output}")


def _named(given: str) -> tuple[str, str]:
    """NAME=FILE → both."""
    name, equals, file = given.partition("=")
    if not (name and equals and file):
        fail(f"`--further` must be NAME=FILE, such as sound=dog.npy, but is {given!r}", code=2)
    return name, file


def _table(found: "Attribution", weights: WeightsGroup) -> "Table":
    """A line per word: its shares, its probability, and that probability without each modality."""
    from rich.table import Table

    table = Table("word")
    shares = found.shares(**vars(weights))
    columns = {VERBS.get(name, name): own for name, own in shares.items()}
    columns["probability"] = found.log_probability.exp()
    if len(found.without) > 1:
        columns.update({f"without {name}": own.exp() for name, own in found.without.items()})
    for name in columns:
        table.add_column(name, justify="right")
    for i, word in enumerate(found.words):
        table.add_row(word.text, *(f"{float(own[i]):.0%}" for own in columns.values()))
    return table
