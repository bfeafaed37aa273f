"""The data of a run: its two splits, and the training split as batches, from images or from stored features.

Knows nothing about optimisation or scores.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from ..base import Settings, SettingsError
from ..data import (
    BAD_DATA_FILE,
    TRAINING,
    VALIDATION,
    BadData,
    Collator,
    MapPasses,
    Passes,
    SampleCollator,
    Split,
    Stream,
    StreamPasses,
    load_split,
    note_shared,
    open_stream,
)
from ..model import Captioner, CaptionerProcessor
from ..retrieval import retrieved
from .feature_store import FeatureStore, StoredCollator, open_store


@dataclass(frozen=True)
class Splits:
    """Training and validation samples.

    Args:
        settings: of the run.
        bad: what is wrong with them so far.
    """

    settings: Settings
    training: Split | Stream
    validation: Split
    bad: BadData

    @classmethod
    def read(cls, settings: Settings) -> "Splits":
        """The splits that the settings name; a stream is read in full for validation alone.

        Raises:
            DataError: anything missing, empty or malformed.
        """
        data, limit = settings.data, settings.training.max_eval_samples
        if data.streaming and limit is not None:
            limit = min(limit, data.limit or limit)
            validation = load_split(data.model_copy(update={"limit": limit}), data.validation_split)
        else:
            validation = load_split(data, data.validation_split)
        training = (open_stream if data.streaming else load_split)(data, data.train_split)
        bad = BadData(data.max_bad_share, Path(settings.training.output_dir) / BAD_DATA_FILE)
        note_shared(training, validation, data)
        bad.begin(TRAINING, training)
        bad.begin(VALIDATION, validation)
        return cls(settings, training, validation, bad)

    def texts(self) -> Iterator[str]:
        """Every caption and context of the training split, to train a tokenizer on; no picture is opened."""
        for row in self.training.texts:
            yield from row["captions"]
            if row["context"]:
                yield row["context"]

    def with_retrieved(self, model: Captioner, accelerator: Accelerator) -> "Splits":
        """The same splits with retrieved captions behind their contexts, if `data.retrieve` names a store."""
        data, workers = self.settings.data, self.settings.training.dataloader_num_workers
        both = (self.training, self.validation)
        training, validation = (retrieved(own, data, model, workers, accelerator) for own in both)
        return replace(self, training=training, validation=validation)

    def passes(self, model: Captioner, processor: CaptionerProcessor, accelerator: Accelerator) -> Passes:
        """The training split as batches."""
        store = _store(self.settings, model, processor, self.training, accelerator)
        modalities = [name for name in model.config.modalities if store is None or name != "image"]
        collate: Callable = _collator(self.settings, processor, modalities)
        if store is not None:
            collate = StoredCollator(collate, store)
        kind = StreamPasses if self.settings.data.streaming else MapPasses
        return kind(self.training, self.settings, collate, list(model.config.shapes), accelerator)


def _collator(settings: Settings, processor: CaptionerProcessor, modalities: list[str]) -> Collator:
    data, options = settings.data, settings.training
    if options.objective == "self_critical":  # whose captions are not those of the split
        return SampleCollator(processor, data.augment, options.seed, modalities)
    return Collator(processor, data.captions_per_image, data.augment, options.seed, modalities)


def _store(
    settings: Settings, model: Captioner, processor: CaptionerProcessor, samples: Split, accelerator: Accelerator
) -> FeatureStore | None:
    """The store that the settings name, if the image encoder is frozen and sees every image the same way."""
    data, options = settings.data, settings.training
    if data.feature_store is None:
        return None
    if options.image_encoder_learning_rate != 0 or data.augment or model.encoder.image is None:
        raise SettingsError(
            "`data.feature_store` needs an image encoder, `training.image_encoder_learning_rate=0` and no "
            f"`data.augment`, but they are {settings.model.image_encoder}, {options.image_encoder_learning_rate} and "
            f"{data.augment}"
        )
    if processor.max_images > 1:
        raise SettingsError(
            f"`data.feature_store` keeps one image of a sample, but `max_images` is {processor.max_images}"
        )
    batch, workers = options.per_device_eval_batch_size, options.dataloader_num_workers
    return open_store(Path(data.feature_store), model, processor, samples, accelerator, batch, workers)
