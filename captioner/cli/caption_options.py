"""The options of `captioner caption` in groups: names that users of other captioners type, and what each group means.

Knows nothing about the order of a run; loads no captioner.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..base import DataSettings, GenerationSettings, SettingsError, load_settings
from ..bulk import METADATA_TEMPLATE, Context, Inputs, Sidecars, Texts, find_inputs, find_texts
from .options import BatchOption, RetrievalGroup, WorkersOption
from .terminal import fail

INPUT, CONTEXT, SEARCH, OUTPUT, RUN = (
    {"rich_help_panel": title} for title in ("Input", "Context", "Search", "Output", "Run")
)

PathsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH…",
        help="Images, folders, globs, lists of paths (.txt), tables (.csv, .tsv, .jsonl, .parquet) with a column of "
        "images, or datasets repositories. With --merge: outputs of shards.",
    ),
]
CaptionerOption = Annotated[
    str | None,
    typer.Option("--model", "-m", "--model-id", help="Name, directory, Hub repository; default: BLIP.", **RUN),
]


@dataclass(frozen=True)
class InputGroup:
    """Which of the images that paths name."""

    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders.", **INPUT)] = False
    image_column: Annotated[
        str | None, typer.Option(help="Column of a table that holds images or their paths.", **INPUT)
    ] = None
    split: Annotated[str | None, typer.Option(help="Split of a datasets repository; default: train.", **INPUT)] = None
    limit: Annotated[int | None, typer.Option("--limit", "--input-limit", min=1, help="Images at most.", **INPUT)] = (
        None
    )
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse images of more pixels.", **INPUT)] = None

    def find(self, paths: Sequence[str]) -> Inputs:
        """The images that paths name.

        Raises:
            InputError: paths that cannot be used.
        """
        return find_inputs(paths, self.recursive, self.image_column, self.split, self.limit)


@dataclass(frozen=True)
class ContextGroup:
    """What is read beside each image, or in place of images."""

    context: Annotated[
        str | None,
        typer.Option(
            help='Text to read beside every image, or a template: "{title}: {tags} in {directory}".', **CONTEXT
        ),
    ] = None
    context_file: Annotated[
        str | None,
        typer.Option(
            help="Read the lines of a file, one after the other, in place of images; - is the input.", **CONTEXT
        ),
    ] = None
    context_column: Annotated[
        str | None, typer.Option(help="Read a column of the table beside each image.", **CONTEXT)
    ] = None
    context_ext: Annotated[
        str | None, typer.Option("--context-ext", help="Read photo.txt beside photo.jpg: .txt.", **CONTEXT)
    ] = None
    context_metadata: Annotated[
        bool, typer.Option("--context-metadata", help="Read EXIF, IPTC and XMP.", **CONTEXT)
    ] = False
    retrieve: Annotated[
        str | None,
        typer.Option(help="A caption store: captions of images that look alike follow each context.", **CONTEXT),
    ] = None
    neighbours: Annotated[
        int | None, typer.Option(min=1, help="Images that captions come from; default: 4.", **CONTEXT)
    ] = None

    def read(self, paths: Sequence[str], chosen: InputGroup) -> tuple[Inputs, Context]:
        """What is captioned, and its context: images, or in place of them the texts of a file, or one text."""
        text = self.context
        if self.context_file is None and (paths or not text):
            inputs = chosen.find(paths)
        elif paths:
            fail("`--context-file` takes the place of images; leave one of them out", code=2)
        elif self.context_file is None:
            inputs, text = Inputs([Texts([text])]), "{text}"
        else:
            inputs, text = find_texts(self.context_file, chosen.limit), text or "{text}"
        return inputs, Context(self._template(text), dotted(self.context_ext), inputs.columns)

    def _template(self, text: str | None) -> str | None:
        """The one kind of context that was asked for, as a template."""
        templates = {
            "--context": text,
            "--context-column": self.context_column and f"{{{self.context_column}}}",
            "--context-metadata": METADATA_TEMPLATE if self.context_metadata else None,
        }
        given = [name for name, own in templates.items() if own] + (["--context-ext"] if self.context_ext else [])
        if len(given) > 1:
            fail(f"give one of {', '.join(given)}; a template in `--context` can name several sources", code=2)
        return next((own for own in templates.values() if own), None)

    def retrieval(self) -> DataSettings:
        """The caption store, and how many images captions come from.

        Raises:
            SettingsError: a value that cannot be used.
        """
        return load_settings(None, RetrievalGroup(self.retrieve, self.neighbours).overrides()).data


def _as_typed(message: str) -> str:
    """What is wrong with settings, in the names of this command's options."""
    own = {"num_beams": "--beams", "num_return_sequences": "--captions", "do_sample": "--temperature"}
    for name in GenerationSettings.model_fields:
        message = re.sub(rf"([`']){name}\b", rf"\1{own.get(name, '--' + name.replace('_', '-'))}", message)
    return message


@dataclass(frozen=True)
class SearchGroup:
    """How captions are searched or drawn."""

    beams: Annotated[
        int | None, typer.Option("--beams", "--num-beams", min=1, help="Default: 3; 1 is greedy search.", **SEARCH)
    ] = None
    captions: Annotated[
        int, typer.Option("--captions", "--num-return-sequences", "--num-captions", min=1, help="Per image.", **SEARCH)
    ] = 1
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "--max-length", min=1, **SEARCH)] = 30
    min_new_tokens: Annotated[int, typer.Option("--min-new-tokens", "--min-length", min=0, **SEARCH)] = 0
    length_penalty: Annotated[float, typer.Option(help="Above 0, longer captions win more often.", **SEARCH)] = 1.0
    no_repeat_ngram_size: Annotated[int, typer.Option("--no-repeat-ngram-size", min=0, **SEARCH)] = 0
    repetition_penalty: Annotated[float, typer.Option(**SEARCH)] = 1.0
    bad_words: Annotated[
        list[str] | None, typer.Option("--bad-words", help="Never say it; may be repeated.", **SEARCH)
    ] = None
    force_words: Annotated[
        list[str] | None, typer.Option("--force-words", help="Say it; may be repeated.", **SEARCH)
    ] = None
    num_beam_groups: Annotated[int, typer.Option("--num-beam-groups", min=1, help="Of diverse beams.", **SEARCH)] = 1
    diversity_penalty: Annotated[
        float, typer.Option("--diversity-penalty", min=0, help="Between groups of beams.", **SEARCH)
    ] = 0.0
    temperature: Annotated[float | None, typer.Option(help="Draw words; so do --top-k and --top-p.", **SEARCH)] = None
    top_k: Annotated[int | None, typer.Option(min=0, **SEARCH)] = None
    top_p: Annotated[float | None, typer.Option(**SEARCH)] = None
    seed: Annotated[
        int | None, typer.Option(help="Of drawn words, default: 0; each image has its own from it.", **SEARCH)
    ] = None

    @property
    def draws(self) -> list[str]:
        """The options that ask for drawn words."""
        return [name for name in ("temperature", "top_k", "top_p") if getattr(self, name) is not None]

    def generation(self) -> GenerationSettings:
        """The settings of the same names; words are drawn where temperature, top-k or top-p is given."""
        given = {name: value for name, value in vars(self).items() if name in GenerationSettings.model_fields}
        given = {name: value for name, value in given.items() if value is not None}
        drawing = self.draws
        beams = self.beams or (1 if drawing else 3)
        if drawing and beams > 1:
            draws = ", ".join(drawing)
            fail(f"`--beams` is {beams}, but {draws} draw words instead of searching; leave one out", code=2)
        if self.captions > beams and not drawing:
            found = f"a search with {beams} beams finds {beams}"
            fail(f"`--captions` is {self.captions}, but {found}; raise `--beams`", code=2)
        own = {"num_beams": beams, "num_return_sequences": self.captions, "do_sample": bool(drawing)}
        try:
            return GenerationSettings.of(**own, **given)
        except SettingsError as error:
            fail(_as_typed(str(error)), code=2)


@dataclass(frozen=True)
class OutputGroup:
    """Where captions go, and how they are written there."""

    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".jsonl, .csv or .parquet; without, the terminal.", **OUTPUT)
    ] = None
    sidecar: Annotated[
        str | None,
        typer.Option(
            "--sidecar",
            "--caption-ext",
            "--caption-extension",
            help="Write photo.txt beside photo.jpg: .txt.",
            **OUTPUT,
        ),
    ] = None
    existing: Annotated[
        Literal["skip", "overwrite", "append", "prepend", "fail"],
        typer.Option(help="What to do with captions that are there already.", **OUTPUT),
    ] = "skip"
    overwrite: Annotated[bool, typer.Option("--overwrite", help="The same as --existing overwrite.", **OUTPUT)] = False
    prefix: Annotated[str, typer.Option("--prefix", "--prepend", help="Put before every caption.", **OUTPUT)] = ""
    suffix: Annotated[str, typer.Option("--suffix", "--append", help="Put after every caption.", **OUTPUT)] = ""
    scores: Annotated[
        bool, typer.Option("--scores", help="Write each caption's log-probability per token.", **OUTPUT)
    ] = False
    errors: Annotated[
        Path | None, typer.Option(help="Where to list failed images; default: by the output.", **OUTPUT)
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines in the terminal.", **OUTPUT)] = False

    @property
    def policy(self) -> str:
        """What happens to captions that are there already: a value of `existing`."""
        return "overwrite" if self.overwrite else self.existing

    def sidecars(self, context_ext: str | None) -> Sidecars | None:
        """The texts beside the images; not those that are read as contexts, unless they are kept."""
        extension = dotted(self.sidecar)
        if extension is None:
            return None
        if extension == dotted(context_ext) and self.policy not in ("append", "prepend"):
            fail(
                f"captions would replace the contexts in {extension} files; give `--existing append` or `prepend`",
                code=2,
            )
        return Sidecars(extension, self.policy)


@dataclass(frozen=True)
class RunGroup:
    """Which share of the work is done, where, and with how much at a time."""

    shard: Annotated[str | None, typer.Option(help="i/n: caption the i-th of n shares of the input.", **RUN)] = None
    merge: Annotated[bool, typer.Option("--merge", help="Join the outputs of shards in --output.", **RUN)] = False
    device: Annotated[str | None, typer.Option(help="cpu, cuda:1, …; default: what there is.", **RUN)] = None
    dtype: Annotated[
        str | None, typer.Option("--dtype", "--precision", help="float32, bfloat16 or float16.", **RUN)
    ] = None
    layout: Annotated[
        Literal["small", "auto", "fast"],
        typer.Option(help="On a CPU: fast copies weights to read them faster, small holds least memory.", **RUN),
    ] = "auto"
    batch_size: BatchOption = 16
    num_workers: WorkersOption = 2

    def share(self, output: Path | None) -> tuple[int, int]:
        """The i and n of `--shard i/n`."""
        if self.shard is not None and output is None:
            fail("`--shard` needs `--output`: the file in which `--merge` will join the shards", code=2)
        found = re.fullmatch(r"(\d+)/(\d+)", self.shard or "1/1")
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            fail(f"`--shard` must be i/n with i from 1 to n, such as 3/64, but is {self.shard!r}", code=2)
        return int(found[1]), int(found[2])


def dotted(extension: str | None) -> str | None:
    """An extension with its dot, which people leave out."""
    return extension and "." + extension.lstrip(".")
