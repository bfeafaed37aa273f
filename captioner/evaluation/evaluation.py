"""Caption a split and score it: over all processes, each sample exactly once, with any modality hidden.

Knows nothing about files or training; captions come from `search`.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader, Subset

from ..base import GenerationSettings, Processes
from ..cpu import prepared
from ..data import Bad, CaptionDataset, DataError, EvaluationCollator, sift
from ..metrics import signature
from ..model import Captioner, CaptionerProcessor, input_names
from ..search import search, search_options
from .borrowed_metrics import BorrowedMetrics
from .record_scores import score_records
from .weights import check_weights


@dataclass
class Evaluation:
    """Captions of a split in its order, and their scores.

    Args:
        records: a dict per sample with `id`, `caption`, `captions` (references), `context` and what the source adds.
        scores: fractions, CIDEr-D on its scale of 0 to 10; `exact_match` is the share of captions that equal one of
            their references.
        signature: what the scores were measured on and how.
        bad: samples that could not be captioned.
    """

    records: list[dict[str, Any]]
    scores: dict[str, float] = field(default_factory=dict)
    signature: str = ""
    bad: list[Bad] = field(default_factory=list)


@dataclass(frozen=True)
class EvaluationOptions:
    """How a split is captioned and scored.

    Args:
        batch_size: images at a time, on each process.
        workers: processes that read samples, beside each process.
        split: its name, for the signature.
        data: the name of the data set, for the signature.
        task: what the captions are, a key of `TASK_METRICS`.
        borrowed: metrics beyond our own, or None.
        accelerator: whose processes share the samples; None: those of this run.
    """

    batch_size: int = 64
    workers: int = 0
    split: str = "unnamed"
    data: str = "unnamed"
    task: str = "captions"
    borrowed: BorrowedMetrics | None = None
    accelerator: Accelerator | None = None


def hide(batch: dict[str, Any], modality: str) -> dict[str, Any]:
    """The same batch with one modality absent in every sample."""
    values, mask = input_names(modality)
    if values not in batch:
        raise ValueError(f"cannot hide {modality!r}: this batch has {sorted(batch)}")
    shape = batch[mask].shape if mask in batch else batch[values].shape[:1]
    nothing = torch.zeros(shape, dtype=torch.bool, device=batch[values].device)
    return {**batch, values: torch.zeros_like(batch[values]), mask: nothing}


@torch.inference_mode()
def caption_batches(
    model: Captioner,
    processor: CaptionerProcessor,
    batches: Iterable[dict[str, Any]],
    generation: GenerationSettings,
    hidden: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Caption collated batches in order; each record is the sample's with `caption`, the best one, added."""
    unknown = sorted(set(hidden) - set(model.config.modalities))
    if unknown:
        raise ValueError(f"cannot hide {', '.join(map(repr, unknown))}: this captioner takes {model.config.modalities}")
    model.eval()
    options, records, fast = search_options(generation, model, processor), [], None
    for batch in batches:
        samples = batch.pop("samples")
        if not samples:  # none could be read
            continue
        fast = fast or prepared(model, len(samples), options.captions)
        batch = {name: value.to(model.device) for name, value in batch.items() if name in model.encoder_inputs}
        for name in hidden:
            if input_names(name)[0] in batch:  # no sample of this batch may have it
                batch = hide(batch, name)
        found = search(fast, fast.encode(**batch), options, seeds=[sample["index"] for sample in samples])
        # forced words may fit no caption
        captions = ["".join(processor.decode(best.ids) for best in own[:1]) for own in found]
        records += [{**sample, "caption": caption} for sample, caption in zip(samples, captions, strict=True)]
    return records


def evaluation_loader(
    samples: Any,
    processor: CaptionerProcessor,
    model: Captioner,
    options: EvaluationOptions,
    accelerator: Accelerator,
) -> DataLoader:
    """This process's share of a split: every n-th sample, so that together each sample comes exactly once."""
    mine = range(accelerator.process_index, len(samples), accelerator.num_processes)
    return DataLoader(
        Subset(CaptionDataset(samples), mine),
        batch_size=options.batch_size,
        num_workers=options.workers,
        collate_fn=EvaluationCollator(processor, model.config.modalities),
    )


def evaluate(
    model: Captioner,
    processor: CaptionerProcessor,
    samples: Any,
    generation: GenerationSettings,
    options: EvaluationOptions | None = None,
    *,
    hidden: str | Collection[str] | None = None,
    watch: Callable[[Iterable], Iterable] = iter,
) -> Evaluation:
    """Caption every sample of a split over all processes and score the captions.

    Args:
        model: an unwrapped captioner, on this process's device.
        samples: a split in the data schema.
        generation: the search.
        options: None: the usual ones.
        hidden: a modality, or several, to take away from every sample; None: nothing.
        watch: wraps the batches, for a progress bar.

    Returns:
        The same evaluation on every process.

    Raises:
        DataError: no sample could be captioned.
        WeightsError: the captioner's weights hold NaN or infinity.
        SearchError: a search that cannot be made.
    """
    options = options or EvaluationOptions()
    check_weights(model)
    accelerator = options.accelerator or _accelerator(model)
    loader = evaluation_loader(samples, processor, model, options, accelerator)
    bad: list[Bad] = []
    names = [hidden] if isinstance(hidden, str) else hidden or ()
    records = caption_batches(model, processor, sift(watch(loader), bad), generation, names)
    if options.borrowed is not None:
        options.borrowed.add_clip_scores(records, samples)
    records = sorted(gather_object(records), key=lambda record: record["index"])
    bad = gather_object(bad)
    if not records:
        raise DataError(f"none of the {len(samples)} samples could be captioned: {bad[0].why}; repair the images")
    scores = [_scores(records, options) if accelerator.is_main_process else {}]
    measured = signature(records, generation, options.data, options.split, options.task)
    return Evaluation(records, broadcast_object_list(scores)[0], measured, bad)


def _accelerator(model: Captioner) -> Accelerator:
    """That of this run's processes, which wait for each other as long as one of them scores."""
    cpu = model.device.type == "cpu"
    _ = Processes("cpu" if cpu else None).state
    return Accelerator(cpu=cpu)


def _scores(records: list[dict[str, Any]], options: EvaluationOptions) -> dict[str, float]:
    """By our own metrics, and by those that were borrowed."""
    own = score_records(records, options.task)
    return own if options.borrowed is None else {**own, **options.borrowed.scores(records)}
