"""Caption a split and score it: over all processes, each sample exactly once, with any modality hidden.

Knows nothing about files or training; captions come from `decoding.search`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader, Subset

from .. import metrics
from ..base import GenerationSettings
from ..cpu import for_search
from ..data import Bad, CaptionDataset, DataError, EvaluationCollator, sift
from ..metrics import signature
from ..model import Captioner, CaptionerProcessor, input_names
from ..search import SearchError, SearchOptions, search
from .borrowed_metrics import BorrowedMetrics

SCORES = {  # task → the metrics of its captions
    "captions": tuple(metrics.METRICS),
    "translation": tuple(metrics.METRICS),
    "sounds": tuple(metrics.METRICS),
    "questions": tuple(metrics.ANSWER_METRICS),
}


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


def search_options(settings: GenerationSettings, model: Captioner, processor: CaptionerProcessor) -> SearchOptions:
    """What the settings say, in the ids of the processor and within the positions that the decoder has.

    Raises:
        SearchError: settings that do not go together.
    """
    options = settings.model_dump()
    options["max_new_tokens"] = min(settings.max_new_tokens, model.config.decoder.max_positions - 1)
    forbidden, forced = options.pop("bad_words"), options.pop("force_words")
    return SearchOptions(
        **options,
        bad_words_ids=[ids for word in forbidden for ids in _spellings(word, processor)],
        force_words_ids=[_spellings(word, processor)[0] for word in forced],
    )


def _spellings(word: str, processor: CaptionerProcessor) -> list[list[int]]:
    """Ids of a word inside a caption, and those at its start where the tokenizer tells the two apart."""
    tokenizer = processor.tokenizer
    spellings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {word.strip()}", word.strip())]
    if not spellings[0] or tokenizer.unk_token_id in spellings[0]:
        raise SearchError(
            f"the captioner's vocabulary cannot write {word!r}, so it can neither be forbidden nor forced"
        )
    return spellings[:1] if spellings[0] == spellings[1] else spellings


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
    hidden: str | None = None,
) -> list[dict[str, Any]]:
    """Caption collated batches in order; each record is the sample's with `caption`, the best one, added."""
    model.eval()
    options, records, fast = search_options(generation, model, processor), [], None
    for batch in batches:
        samples = batch.pop("samples")
        if not samples:  # none could be read
            continue
        fast = fast or for_search(model, len(samples), options.captions)
        batch = {name: value.to(model.device) for name, value in batch.items() if name in model.encoder_inputs}
        if hidden is not None:
            batch = hide(batch, hidden)
        found = search(fast, fast.encode(**batch), options, seeds=[sample["index"] for sample in samples])
        captions = [
            "".join(processor.decode(best.ids) for best in own[:1]) for own in found
        ]  # forced words may fit none
        records += [{**sample, "caption": caption} for sample, caption in zip(samples, captions, strict=True)]
    return records


def evaluation_loader(
    samples: Any,
    processor: CaptionerProcessor,
    model: Captioner,
    batch_size: int,
    workers: int,
    accelerator: Accelerator,
) -> DataLoader:
    """This process's share of a split: every n-th sample, so that together each sample comes exactly once."""
    mine = range(accelerator.process_index, len(samples), accelerator.num_processes)
    return DataLoader(
        Subset(CaptionDataset(samples), mine),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=EvaluationCollator(processor, model.config.modalities),
    )


def evaluate(
    model: Captioner,
    processor: CaptionerProcessor,
    samples: Any,
    generation: GenerationSettings,
    *,
    batch_size: int = 64,
    workers: int = 0,
    accelerator: Accelerator | None = None,
    hidden: str | None = None,
    split: str = "unnamed",
    task: str = "captions",
    borrowed: BorrowedMetrics | None = None,
    watch: Callable[[Iterable], Iterable] = iter,
) -> Evaluation:
    """Caption every sample of a split over all processes and score the captions.

    Args:
        model: an unwrapped captioner, on this process's device.
        samples: a split in the data schema.
        generation: the search.
        hidden: a modality to take away from every sample, or None.
        split: its name, for the signature.
        task: what the captions are, a key of `SCORES`.
        borrowed: metrics beyond our own, or None.
        watch: wraps the batches, for a progress bar.

    Returns:
        The same evaluation on every process.
    """
    accelerator = accelerator or Accelerator(cpu=model.device.type == "cpu")
    loader = evaluation_loader(samples, processor, model, batch_size, workers, accelerator)
    bad: list[Bad] = []
    records = caption_batches(model, processor, sift(watch(loader), bad), generation, hidden)
    if borrowed is not None:
        borrowed.look(records, samples)
    records = sorted(gather_object(records), key=lambda record: record["index"])
    bad = gather_object(bad)
    if not records:
        raise DataError(f"none of the {len(samples)} samples could be captioned: {bad[0].why}; repair the images")
    scores: list[dict[str, float]] = [{}]
    if accelerator.is_main_process:
        scores = [score_records(records, task) | (borrowed.scores(records) if borrowed is not None else {})]
    return Evaluation(records, broadcast_object_list(scores)[0], signature(records, generation, split, task), bad)


def score_records(records: list[dict[str, Any]], task: str = "captions") -> dict[str, float]:
    """Score records that hold `caption` and `captions` with the metrics of a task, and by exact match."""
    predictions = [record["caption"] for record in records]
    references = [record["captions"] for record in records]
    return {**metrics.score(predictions, references, SCORES[task]), "exact_match": exact_match(predictions, references)}


def exact_match(predictions: list[str], references: list[list[str]]) -> float:
    """The share of captions that equal one of their references, but for case and spaces."""
    hits = [_plain(caption) in map(_plain, own) for caption, own in zip(predictions, references, strict=True)]
    return sum(hits) / len(hits)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
