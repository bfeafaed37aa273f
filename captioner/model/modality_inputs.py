"""Modalities beside image and context, from what a sample holds to tensors: arrays, `.npy` and `.safetensors` files.

Knows nothing about encoders; waveforms become what an encoder takes by a feature extractor of transformers. Letters:
B, S, D as in every file.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.feature_extraction_utils import FeatureExtractionMixin

FILES = (".npy", ".safetensors")


class FeatureError(ValueError):
    """Features that cannot be read; the message names them and says what is wrong."""


@dataclass
class ModalityInput:
    """How a batch of one modality is made.

    Args:
        feature_size: D of features that are made already; None: an encoder's inputs of any shape.
        max_length: S at most; longer ones lose their end. None: as long as they are.
        extractor: of transformers; makes inputs of waveforms (1-D, at its own sampling rate). None: arrays are taken
            as they are.
    """

    feature_size: int | None = None
    max_length: int | None = None
    extractor: FeatureExtractionMixin | None = None

    @classmethod
    def for_encoder(cls, shape: Mapping[str, Any], extractor: FeatureExtractionMixin | None = None) -> "ModalityInput":
        """What goes with one of `CaptionerConfig.encoders`."""
        if "feature_size" in shape:
            return cls(shape["feature_size"], shape.get("max_length"))
        return cls(extractor=extractor)

    def to_dict(self, folder: str) -> dict[str, Any]:
        """As it stands in `processor_config.json`; `folder` is where the extractor lies, if there is one."""
        return {
            "feature_size": self.feature_size,
            "max_length": self.max_length,
            "extractor": None if self.extractor is None else folder,
        }

    def read(self, value: Any, name: str) -> Tensor:
        """One sample's: an array, a list of numbers, or a file, as float32 or long (S, …).

        Args:
            value: a path may end in `.safetensors#key`, where a file holds the features of many samples.
            name: of the modality, which is also the key in a `.safetensors` file with several and none given.

        Raises:
            FeatureError: no such file, no numbers, or another D.
        """
        try:
            array = _open(value, name) if isinstance(value, str | Path) else np.asarray(value)
            if self.extractor is not None and array.ndim == 1:
                made = self.extractor(array, sampling_rate=self.extractor.sampling_rate, return_tensors="np")
                array = made[self.extractor.model_input_names[0]][0]
            tensor = torch.from_numpy(np.array(array, dtype=np.int64 if array.dtype.kind in "iu" else np.float32))
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise FeatureError(f"cannot read `{name}` {_shown(value)}: {error}") from error
        if self.feature_size is not None:
            tensor = tensor.float()
            if tensor.ndim != 2 or tensor.shape[1] != self.feature_size:
                raise FeatureError(
                    f"`{name}` {_shown(value)} must be (S, {self.feature_size}), but is {tuple(tensor.shape)}"
                )
        return tensor

    def batch(self, rows: Sequence[Tensor | None]) -> tuple[Tensor, Tensor] | None:
        """B samples, None where one lacks it → (B, S, …) with zeros behind shorter ones, and the mask (B, S).

        None where all lack it and nothing says what shape it would have.
        """
        blank = next((row[:0] for row in rows if row is not None), None)
        if blank is None and self.feature_size is not None:
            blank = torch.zeros(0, self.feature_size)
        if blank is None:
            return None
        filled = [blank if row is None else row for row in rows]
        if len({row.shape[1:] for row in filled}) > 1:
            raise FeatureError(
                f"samples of a batch may differ in length only, but are {[tuple(r.shape) for r in rows]}"
            )
        lengths = torch.tensor([len(row) for row in filled])
        values = pad_sequence([*filled, blank.new_zeros(1, *blank.shape[1:])], batch_first=True)[:-1]
        return values, torch.arange(values.shape[1]) < lengths[:, None]


def as_samples(values: Any) -> list[Any]:
    """A batch as a list: a list already, or an array (B, S, D); anything else is one sample."""
    return list(values) if isinstance(values, list | tuple) or getattr(values, "ndim", 0) == 3 else [values]


def _file_and_key(path: str) -> tuple[str, str]:
    """What a path says before and behind its last "#", unless a file is called so."""
    if os.path.exists(path):
        return path, ""
    file, _, key = path.rpartition("#")
    return (file, key) if file else (path, "")


def _open(path: str | Path, name: str) -> np.ndarray:
    file, key = _file_and_key(str(path))
    if file.endswith(".npy"):
        return np.load(file, allow_pickle=False)
    if not file.endswith(".safetensors"):
        raise ValueError(f"files of features end in {' or '.join(FILES)}")
    with safe_open(file, "np") as tensors:
        keys = list(tensors.keys())
        return tensors.get_tensor(key or (keys[0] if len(keys) == 1 else name))


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str | Path) else f"of type {type(value).__name__}"
