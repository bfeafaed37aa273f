"""Scores that need more than Python: METEOR and SPICE through pycocoevalcap and Java, CLIPScore through a CLIP model.

Hessel et al. 2021 (arXiv 2104.08718) for CLIPScore and RefCLIPScore. Knows nothing about captioners.
"""

import importlib
import shutil
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base import TrainingSettings, is_first_process, one_line, some
from ..metrics import tokenize
from ..model import open_image

JAVA_METRICS = {"meteor": "Meteor", "spice": "Spice"}
CLIP_SCORES = ("clip_score", "ref_clip_score")
WEIGHT = 2.5
PROMPT = "A photo depicts "


class BorrowedMetricError(ValueError):
    """A metric whose program, package or model is not there; the message says what to install."""


def java_score(metric: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 or SPICE of one caption per image, tokenised as for the other scores; a fraction.

    Raises:
        BorrowedMetricError: no Java, no pycocoevalcap, or (SPICE downloads its parser when first used) no network.
    """
    if shutil.which("java") is None:
        raise BorrowedMetricError(f"{metric} needs Java, but there is no `java`; install a runtime, or leave it out")
    try:
        module = importlib.import_module(f"pycocoevalcap.{metric}.{metric}")
    except ImportError as error:
        raise BorrowedMetricError(f"{metric} needs pycocoevalcap; `pip install pycocoevalcap`") from error
    captions = {i: [tokenize(caption)] for i, caption in enumerate(predictions)}
    others = {i: [tokenize(caption) for caption in own] for i, own in enumerate(references)}
    try:
        return float(getattr(module, JAVA_METRICS[metric])().compute_score(others, captions)[0])
    except Exception as error:  # pycocoevalcap raises whatever its programs and downloads end in
        raise BorrowedMetricError(f"{metric} failed: {one_line(error)}; try it without `{metric}`") from error


class ClipScore:
    """CLIPScore of captions for their images, and RefCLIPScore with their references.

    Args:
        model: directory or Hub repository of a CLIP of transformers.
        device: where it runs.

    Raises:
        BorrowedMetricError: it cannot be loaded.
    """

    def __init__(self, model: str, device: torch.device | str = "cpu"):
        from transformers import CLIPModel, CLIPProcessor

        try:
            clip, found = CLIPModel.from_pretrained(model, output_loading_info=True)
            self.processor = CLIPProcessor.from_pretrained(model)
        except Exception as error:  # transformers raises whatever it meets in a folder of another model
            raise BorrowedMetricError(
                f"cannot load the CLIP model {model!r}: give a directory or a Hub repository that can be reached "
                f"({one_line(error)[:160]})"
            ) from error
        if found["missing_keys"] or found["mismatched_keys"]:
            raise BorrowedMetricError(
                f"{model!r} is no CLIP model: of its weights {len(found['missing_keys'])} are missing, such as "
                f"{some(sorted(found['missing_keys']), 2)}; name another `training.clip_model`"
            )
        self.model = clip.to(device).eval()

    def __call__(
        self, images: Sequence[Any], captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> list[tuple[float, float]]:
        """B images in any form that `open_image` reads, B captions, B lists of references → B pairs of scores.

        CLIPScore is 2.5 · max(cos, 0); RefCLIPScore the harmonic mean of that and the best max(cos, 0) to a reference.
        """
        seen, said = self._image_features([open_image(image) for image in images]), self._text_features(captions)
        scores = WEIGHT * (seen * said).sum(-1).clamp(min=0)
        pairs = []
        for caption, score, own in zip(said, scores, references, strict=True):
            near = (self._text_features(own) @ caption).max().clamp(min=0)
            both = 2 * score * near / (score + near) if score + near > 0 else torch.zeros(())
            pairs.append((score.item(), both.item()))
        return pairs

    @torch.inference_mode()
    def _image_features(self, images: list[Any]) -> Tensor:
        inputs = self.processor(images=images, return_tensors="pt").to(self.model.device)
        features = self.model.vision_model(**inputs).pooler_output
        return F.normalize(self.model.visual_projection(features), dim=-1)

    @torch.inference_mode()
    def _text_features(self, captions: Sequence[str]) -> Tensor:
        texts = [PROMPT + caption for caption in captions]
        inputs = self.processor(text=texts, return_tensors="pt", padding=True, truncation=True).to(self.model.device)
        return F.normalize(self.model.text_projection(self.model.text_model(**inputs).pooler_output), dim=-1)


class BorrowedMetrics:
    """The metrics of this file that the settings name.

    Each is tried on one caption by the first process, so that none is missed only after a split was captioned.

    Raises:
        BorrowedMetricError: one lacks its program, package or model.
    """

    def __init__(self, settings: TrainingSettings, device: torch.device | str = "cpu"):
        self.java = settings.java_metrics
        if is_first_process():
            for name in self.java:
                java_score(name, ["a dog runs"], [["a dog runs"]])
        self.clip = None if settings.clip_model is None else ClipScore(settings.clip_model, device)

    def add_clip_scores(self, records: list[dict[str, Any]], samples: Any, batch_size: int = 32) -> None:
        """Put `clip_score` and `ref_clip_score` into records of captioned samples that have an image."""
        if self.clip is None:
            return
        for start in range(0, len(records), batch_size):
            own = [(record, samples[record["index"]].get("image")) for record in records[start : start + batch_size]]
            own = [(record, image) for record, image in own if image is not None]
            if own:
                seen = [record for record, _ in own]
                captions, references = [record["caption"] for record in seen], [record["captions"] for record in seen]
                pairs = self.clip([image for _, image in own], captions, references)
                for record, (score, both) in zip(seen, pairs, strict=True):
                    record.update(clip_score=score, ref_clip_score=both)

    def scores(self, records: list[dict[str, Any]]) -> dict[str, float]:
        """Of a whole split, after `add_clip_scores`; CLIPScores are means over the samples that have an image."""
        captions, references = [record["caption"] for record in records], [record["captions"] for record in records]
        scores = {name: java_score(name, captions, references) for name in self.java}
        for name in CLIP_SCORES if self.clip is not None else ():
            values = [record[name] for record in records if name in record]
            if values:
                scores[name] = sum(values) / len(values)
        return scores
