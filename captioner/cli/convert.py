"""`captioner convert`: what its options mean; loading and adding are done in `adopt/`, switching in `model/`."""

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ..base import say
from .terminal import fail, quiet, teaching


@teaching
def convert(
    source: Annotated[str, typer.Argument(help="What --model takes: a shipped name, a directory, a Hub repository.")],
    target: Annotated[Path, typer.Argument(help="The directory to write.")],
    conditioning: Annotated[str | None, typer.Option(help="Switch to: concatenated or separate.")] = None,
    fusion: Annotated[
        str | None, typer.Option(help="Of separate: serial, parallel, hierarchical, gated or joint.")
    ] = None,
    add_context: Annotated[
        str | None,
        typer.Option(
            metavar="ENCODER", help="A text encoder to read contexts with, outputs as before: directory or Hub id."
        ),
    ] = None,
    remote_code: Annotated[
        bool, typer.Option("--remote-code", help="Write the code beside it, to load without this package.")
    ] = False,
) -> None:
    """Write a captioner as one of ours: as it is, in another mode, or with a context added."""
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        fail(f"TARGET {target} is there already; name a new directory", code=2)
    quiet()
    from ..adopt import add_modality, code_beside, load
    from ..model import mode_name
    from ..training import save_captioner

    model, processor = load(source)
    if add_context is not None:
        add_modality(model, "context", add_context, processor)
    if conditioning is not None or fusion is not None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.switch_conditioning(conditioning or "separate", fusion)
        for warning in caught:
            say(f"warning: {warning.message}")
    target.parent.mkdir(parents=True, exist_ok=True)
    base = Path(source).name if Path(source).exists() else source
    with code_beside(model) if remote_code else nullcontext():
        save_captioner(model, processor, target, base=base)
    say(f"{target}: {mode_name(model.config)}, reads {' and '.join(model.config.modalities)}")
