"""What a score was measured on and how, in one line beside it (after Post 2018, arXiv 1804.08771).

Two scores may be compared where their signatures are equal. Knows nothing about models.
"""

import hashlib
import json
from importlib.metadata import version
from typing import Any

from ..base import GenerationSettings, TrainingSettings

LIBRARIES = ("captioner", "transformers", "torch")


def signature(
    records: list[dict[str, Any]],
    generation: GenerationSettings,
    data: str,
    split: str,
    task: str = "captions",
) -> str:
    """Of an evaluation: tokenizer, references, data set, split, samples, search (what is not default), versions.

    Args:
        data: the name of the data set; a fingerprint of the references follows it.
    """
    counts = sorted({len(record["captions"]) for record in records})
    references = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    defaults = GenerationSettings().model_dump()
    search = {key: value for key, value in generation.model_dump().items() if value != defaults[key]}
    parts = {
        "tok": "vqa" if task == "questions" else "ptb",
        "refs": references,
        "data": f"{data.replace('|', '/')}#{references_fingerprint(records)}",
        "split": split,
        "samples": len(records),
        "search": ",".join(f"{key}={value}" for key, value in search.items()) or "default",
    }
    return _joined(parts | {name: version(name) for name in LIBRARIES})


def references_fingerprint(records: list[dict[str, Any]]) -> str:
    """Eight letters of what captions are measured against, in its order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record["captions"]).encode() + b"\n")
    return digest.hexdigest()[:8]


def training_signature(options: TrainingSettings) -> str:
    """Of self-critical training, after arXiv 2305.12254: reward, end token, frequencies, baseline, samples."""
    own = options.self_critical
    return _joined(
        {
            "reward": "cider_d[n4,s6.0]",
            "eos": "in captions and references",
            "df": "training references",
            "candidates": own.candidates,
            "baseline": own.baseline,
            "samples per image": own.samples,
            "temperature": own.temperature,
            "captioner": version("captioner"),
        }
    )


def _joined(parts: dict[str, Any]) -> str:
    return "|".join(f"{name}:{value}" for name, value in parts.items())
