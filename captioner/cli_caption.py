"""`captioner caption`: what its options mean; the work is done in `captioning.py`."""

from typing import Annotated

import typer

from .progress import progress, say
from .settings import GenerationSettings
from .terminal import (
    BatchOption,
    BeamsOption,
    ModelOption,
    OutputOption,
    WorkersOption,
    fail,
    quiet,
    teaching,
    writable,
    write,
)


@teaching
def caption(
    paths: Annotated[list[str], typer.Argument(metavar="IMAGE|FOLDER…", help="Images, and folders of images.")],
    model: ModelOption,
    context: Annotated[str | None, typer.Option(help="Text to read beside every image.")] = None,
    beams: BeamsOption = 3,
    captions: Annotated[
        int, typer.Option("--captions", "--num-return-sequences", min=1, help="Captions per image.")
    ] = 1,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "--max-length", min=1)] = 30,
    output: OutputOption = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders.")] = False,
    batch_size: BatchOption = 16,
    num_workers: WorkersOption = 2,
) -> None:
    """Caption images and folders of images."""
    from .captioning import Captioning, find_images

    if captions > beams:
        fail(
            f"`--captions` is {captions}, but a search with {beams} beams finds {beams}; raise `--beams`",
            code=2,
        )
    writable(output)
    files = find_images(paths, recursive)
    generation = GenerationSettings(num_beams=beams, max_new_tokens=max_new_tokens, num_return_sequences=captions)
    from .adopt import load

    quiet()
    work = Captioning(*load(model), generation, context, batch_size, num_workers)
    failed = write(progress(work.run(files), "captioning", total=len(files)), output)
    if output is not None:
        say(f"{len(files) - failed} of {len(files)} images captioned, written to {output}")
    if failed:
        fail(f"{failed} of {len(files)} images could not be read; the others are captioned", code=1)
