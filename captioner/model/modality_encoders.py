"""Encoders of modalities beside image and context: any transformers encoder, or features that are made already.

Both have one signature: a tensor with one row per sample and a mask in, states and their mask out. Know nothing about
files, or what a modality is called. Letters: B, S, D as in every file.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel


class FeatureEncoder(nn.Module):
    """Features that are made already: regions of an image, boxes of text, sounds, what a table says.

    Args:
        feature_size: D of the features.
        max_length: S at most; needed for `positions`.
        positions: add a learned vector to each place, for features whose order says something.

    Raises:
        ValueError: another option, or positions without `max_length`.
    """

    def __init__(self, feature_size: int, max_length: int | None = None, positions: bool = False):
        super().__init__()
        if positions and max_length is None:
            raise ValueError("features with `positions` need `max_length` beside it, the most that there may be")
        self.width = feature_size
        self.positions = nn.Embedding(max_length, feature_size) if positions else None

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) and (B, S) → the same; states of padding are 0."""
        if values.ndim != 3 or values.shape[-1] != self.width:
            raise ValueError(f"features must be (B, S, {self.width}), but are {tuple(values.shape)}")
        if self.positions is not None:
            if values.shape[1] > self.positions.num_embeddings:
                raise ValueError(f"{values.shape[1]} features are more than `max_length`; cut them or raise it")
            values = values + self.positions.weight[: values.shape[1]]
        return values.masked_fill(~mask[:, :, None], 0.0), mask


class TransformersEncoder(nn.Module):
    """Any encoder that transformers builds from a configuration; of an encoder-decoder, its encoder.

    A model that reads lengths (token ids; waveforms as in wav2vec 2.0) gets the mask. Others, such as AST and Whisper,
    take inputs of one size, so there is only the question whether a sample has one.

    Args:
        shape: of the configuration, with `model_type`.

    Raises:
        ValueError: a model type that transformers does not know, or one without states of a known width.
    """

    def __init__(self, **shape: Any):
        super().__init__()
        config = AutoConfig.for_model(**shape)
        model = AutoModel.from_config(config)
        self.model = model.get_encoder() if config.is_encoder_decoder else model
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        self.width = getattr(config, "hidden_size", None)
        if self.width is None:
            raise ValueError(f"`model_type` {config.model_type!r} has no `hidden_size`, so it is no encoder of states")
        self.all_tied_weights_keys = tied_weights("model", self.model)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the model takes as its main input (B, …), and which places along axis 1 are real (B, places).

        Returns:
            (B, S, D) states, 0 where masked, and the mask (B, S).
        """
        lengths = getattr(self.model, "_get_feature_vector_attention_mask", None)
        reads_ids = self.model.main_input_name == "input_ids"
        options = {"attention_mask": mask.long()} if lengths or reads_ids else {}
        states = self.model(**{self.model.main_input_name: values}, **options).last_hidden_state
        if lengths:
            mask = lengths(states.shape[1], mask.long()).bool()
        elif not reads_ids:
            mask = mask.any(dim=1, keepdim=True).expand(states.shape[:2])
        return states.masked_fill(~mask[:, :, None], 0.0), mask


def build_modality_encoder(name: str, shape: dict[str, Any]) -> nn.Module:
    """The encoder of one of `CaptionerConfig.encoders`.

    Raises:
        ValueError: a name that PyTorch keeps for itself, or a shape that cannot be built.
    """
    if hasattr(nn.ModuleDict, name) or hasattr(nn.ModuleDict(), name):
        raise ValueError(f"`encoders` cannot have the name {name!r}, which PyTorch uses; take another")
    try:
        return TransformersEncoder(**shape) if "model_type" in shape else FeatureEncoder(**shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`encoders.{name}` cannot be built: {error}") from error


def in_precision_of(values: Tensor, *parts: nn.Module) -> Tensor:
    """Floating numbers in the precision of the first weight of these parts: batches are float32, models may be half."""
    weights = (weight for part in parts for weight in part.parameters() if weight.is_floating_point())
    weight = next(weights, None)
    return values if weight is None or not values.is_floating_point() else values.to(weight.dtype)


def tied_weights(name: str, part: nn.Module) -> dict[str, str]:
    """A part's tied weights under its name here: transformers gathers them from direct children only."""
    tied = getattr(part, "all_tied_weights_keys", {})
    return {f"{name}.{target}": f"{name}.{source}" for target, source in tied.items()}
