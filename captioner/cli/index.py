"""`captioner index`: what its options mean; looking is done in `store_encoder.py`, writing in `caption_store.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..base import Processes, Settings, check_replaceable, claim, load_settings, progress, say
from ..bulk import TABLE_SUFFIXES
from .options import LoadingGroup, grouped
from .terminal import fail, quiet, teaching

if TYPE_CHECKING:
    from ..retrieval import StoreEncoder

STORE_FILES = ("store.json", "index.faiss", "images.npy", "ids.npy", "captions.npy")  # what every store has
MORE_STORE_FILES = ("ids_ends.npy", "captions_ends.npy", "encoder.safetensors")


@dataclass(frozen=True)
class EncoderGroup:
    """What looks at the images."""

    model: Annotated[str | None, typer.Option("--model", "-m", help="The captioner whose image encoder looks.")] = None
    encoder: Annotated[str | None, typer.Option(help="A timm model that looks instead.")] = None
    weights: Annotated[str | None, typer.Option(help="A local file with its weights; default: the Hub.")] = None

    def check(self) -> None:
        """Refuse none, and two."""
        if (self.model is None) == (self.encoder is None):
            fail("give what looks at the images: a captioner with `--model`, or a timm model with `--encoder`", code=2)
        if self.weights is not None and self.encoder is None:
            fail("`--weights` are those of `--encoder`, which is not given; leave them out", code=2)

    def load(self, device: str | None) -> "StoreEncoder":
        """The encoder, on its device."""
        from ..adopt import load
        from ..retrieval import StoreEncoder

        place = Processes(device).device
        if self.encoder is None:
            made = StoreEncoder.of_captioner(*load(self.model))
        else:
            made = StoreEncoder.of_timm(self.encoder, self.weights or True)
        made.encoder.to(place)
        return made


@teaching
@grouped
def index(
    *,
    dataset: Annotated[
        str,
        typer.Argument(help="A YAML config with `data`, or the path of a dataset: a table, a folder, a repository."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory of the store.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings, such as data.source=coco.")
    ] = None,
    looking: EncoderGroup,
    split: Annotated[str | None, typer.Option(help="Which split; default: `data.train_split`.")] = None,
    kind: Annotated[
        str | None, typer.Option("--index", help="As FAISS names it: SQfp16, IVF4096,SQfp16, …; default: by size.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:1, …; default: what there is.")] = None,
    loading: LoadingGroup,
) -> None:
    """Build a caption store, whose captions `--retrieve` then makes the context of images that look alike."""
    settings = _settings(dataset, overrides or [])
    looking.check()
    if all((output / name).is_file() for name in STORE_FILES):
        claim(output, [*STORE_FILES, *MORE_STORE_FILES])  # of a version that left no mark
    check_replaceable(output)
    quiet()
    from ..data import load_split
    from ..retrieval import CaptionStore, import_faiss, write_store

    import_faiss()
    encoder = looking.load(device)
    samples = load_split(settings.data, split or settings.data.train_split)
    batches = encoder.encode(samples, range(len(samples)), loading.batch_size, loading.num_workers)
    shown = progress(batches, "looking", -(-len(samples) // loading.batch_size))
    made = ((features, [s["id"] for s in own], [s["captions"] for s in own]) for features, own in shown)
    write_store(output, made, encoder.save, kind)
    facts = CaptionStore(output).facts
    say(f"{output}: {facts['captions']} captions of {facts['images']} images")


def _settings(dataset: str, overrides: list[str]) -> Settings:
    """A config says what its data are; of a path its ending does."""
    if dataset.endswith((".yaml", ".yml")):
        return load_settings(dataset, overrides)
    source = "table" if dataset.lower().endswith(tuple(TABLE_SUFFIXES)) else "datasets"
    return load_settings(None, [f"data.source={source}", f"data.path={dataset}", *overrides])
