"""How images are captioned, as the caller wishes it, and what of that a job keeps beside its output.

Knows nothing about captioners; needs no torch.
"""

from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..base import GenerationSettings
from .contexts import Context
from .sidecars import Sidecars


@dataclass(frozen=True)
class CaptioningOptions:
    """How to caption: the search, and what is read beside each image.

    Args:
        generation: the search.
        context: what the captioner reads beside each image.
        batch_size: images at a time; halved whenever memory does not suffice.
        workers: processes that read images.
        seed: with an image's name, the seed of its samples.
        scores: whether records say how likely a caption is.
        max_pixels: images with more are refused; None: than the processor lets in.
        reads_only: whether there are contexts alone and no images.
        layout: of the decoder's matrices on a CPU: "small", "auto" or "fast".
    """

    generation: GenerationSettings = field(default_factory=GenerationSettings)
    context: Context = field(default_factory=Context)
    batch_size: int = 16
    workers: int = 0
    seed: int = 0
    scores: bool = False
    max_pixels: int | None = None
    reads_only: bool = False
    layout: str = "auto"


@dataclass(frozen=True)
class JobSettings:
    """Everything that changes the records of a job, so that a run goes on with the same or not at all.

    Args:
        model: the captioner as it was named, or None.
        dtype: of its weights as it was named, or None.
        options: of captioning.
        retrieve: the caption store whose captions follow the contexts, or None.
        neighbours: how many images these come from, or None.
        prefix: before every caption.
        suffix: after every caption.
        sidecars: the texts beside the images, or None.
    """

    model: str | None = None
    dtype: str | None = None
    options: CaptioningOptions = field(default_factory=CaptioningOptions)
    retrieve: str | None = None
    neighbours: int | None = None
    prefix: str = ""
    suffix: str = ""
    sidecars: Sidecars | None = None

    def as_json(self) -> dict[str, Any]:
        """As they are kept in the journal and beside the output."""
        options = self.options
        return {
            "captioner": __version__,
            "model": self.model,
            "dtype": self.dtype,
            "generation": options.generation.model_dump(),
            "seed": options.seed,
            "context": options.context.template,
            "context_ext": options.context.sidecar_extension,
            "context_varies": options.context.varies,
            "retrieve": self.retrieve,
            "neighbours": self.neighbours,
            "prefix": self.prefix,
            "suffix": self.suffix,
            "scores": options.scores,
            "sidecar": None if self.sidecars is None else vars(self.sidecars),
        }
