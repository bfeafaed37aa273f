"""Samples to what the encoders of a captioner take: images opened, contexts and further modalities as tensors.

Knows nothing about captions.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from ..model import CaptionerProcessor, FeatureError, ImageError
from .augmentation import Augmentation
from .dataset import Batch, Sample
from .faults import MISSING, UNREADABLE, UNREADABLE_FEATURES, Bad


class Opened(NamedTuple):
    """Samples whose images and further modalities can be read or are absent.

    Args:
        images: of each sample one, None or a list; None where the batch has no images.
        bad: the other samples.
    """

    samples: list[Sample]
    images: list[Any] | None
    bad: list[Bad]


class EncoderInputs:
    """Encoder inputs of a batch: `pixel_values` (B, 3, H, W), `context_input_ids` (B, L), `NAME_values` (B, S, …).

    Args:
        processor: makes the tensors.
        modalities: `config.modalities` of the captioner; None: those that a sample of the batch has.
        augmentation: of images; None: the processor's plain transform.
    """

    def __init__(
        self,
        processor: CaptionerProcessor,
        modalities: Collection[str] | None = None,
        augmentation: Augmentation | None = None,
    ):
        self.processor, self.modalities, self.augmentation = processor, modalities, augmentation

    def wanted(self, samples: list[Sample]) -> list[str]:
        """The modalities of their batch."""
        names = ("image", "context", *self.processor.further)
        if self.modalities is not None:
            return [name for name in names if name in self.modalities]
        usable = names if self.processor.image_settings is not None else names[1:]
        return [name for name in usable if any(sample.get(name) is not None for sample in samples)]

    def open(self, samples: list[Sample], wanted: Collection[str]) -> Opened:
        """Decode the images and read the further modalities, those that are wanted."""
        images, names = "image" in wanted, [name for name in wanted if name in self.processor.further]
        opened, shapes = Opened([], [] if images else None, []), {}
        for sample in samples:
            try:
                image = self.processor.open_images(sample.get("image")) if images else None
                read = {name: self._features(name, sample, shapes) for name in names}
            except ImageError as error:
                kind = MISSING if isinstance(error.__cause__, FileNotFoundError) else UNREADABLE
                opened.bad.append(Bad(kind, sample["id"], str(error)))
            except FeatureError as error:
                opened.bad.append(Bad(UNREADABLE_FEATURES, sample["id"], str(error)))
            else:
                opened.samples.append({**sample, **read})
                if images:
                    opened.images.append(image)
        return opened

    def _features(self, name: str, sample: Sample, shapes: dict[str, Any]) -> Any:
        """A sample's values of a further modality, which may differ from those before in length alone."""
        if sample.get(name) is None:
            return None
        values = self.processor.further[name].read(sample[name], name)
        shape = shapes.setdefault(name, values.shape[1:])
        if values.shape[1:] != shape:
            raise FeatureError(f"`{name}` is (S, *{tuple(values.shape[1:])}), but (S, *{tuple(shape)}) in its batch")
        return values

    def __call__(self, opened: Opened, wanted: Collection[str]) -> Batch:
        """Opened samples → the tensors of the wanted modalities, each with its mask."""
        batch, given = {}, {}
        if opened.images is not None and self.augmentation is not None:
            batch = self.augmentation(opened.samples, opened.images)
        elif opened.images is not None:
            given["images"] = opened.images
        for name in wanted:
            if name != "image":
                given[name] = [sample.get(name) for sample in opened.samples]
        return batch | dict(self.processor(**given)) if given else batch

    def blank(self, sample: Sample, wanted: Collection[str]) -> Batch:
        """The tensors of a sample without anything to see or read."""
        nothing = dict.fromkeys(("image", "context", *self.processor.further))
        return self(Opened([sample | nothing], [None] if "image" in wanted else None, []), wanted)
