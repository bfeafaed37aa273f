"""From a batch to `Memory`: every modality by its own encoder, projected to one width, made short where asked.

Knows which inputs belong to which modality and which samples lack one; what an encoder does is in `image_encoder.py`,
`context_encoder.py` and `modality_encoders.py`. Knows nothing about captions. Letters: B, S_m, D as in every file; I
images of a sample, L context tokens, R rows that are encoded.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .configuration import FIRST_INPUTS, CaptionerConfig, input_names
from .context_encoder import ContextEncoder
from .image_encoder import ImageEncoder
from .memory import Memory
from .memory_options import RESAMPLER
from .modality_encoders import build_modality_encoder, in_precision_of, tied_weights
from .reduction import Pool, Resampler, nearest_grid
from .windows import Windows


class Encoders(nn.Module):
    """All of a captioner's encoders, each with a projection where its width is not the memory's."""

    main_input_name = "pixel_values"

    def __init__(self, config: CaptionerConfig):
        super().__init__()
        self.order = config.modalities
        self.image = ImageEncoder(config.image_encoder) if config.image_encoder is not None else None
        windows = Windows(**config.context_window) if config.context_window else None
        self.context = ContextEncoder(config.context_encoder, windows) if config.context_encoder is not None else None
        self.further = nn.ModuleDict({n: build_modality_encoder(n, shape) for n, shape in config.encoders.items()})
        width, parts = config.memory_width or config.decoder.hidden_size, self.parts
        self.projections = nn.ModuleDict({name: _projection(part.width, width) for name, part in parts.items()})
        pool = config.memory.get("image", {}).get("pool", 1)
        self.pool = Pool(pool) if pool > 1 else None
        self.resamplers = nn.ModuleDict(
            {
                name: Resampler(width, **RESAMPLER | config.memory[name]["resampler"])
                for name in self.order
                if "resampler" in config.memory.get(name, {})
            }
        )
        several = self.image is not None and config.max_images > 1
        self.image_places = nn.Embedding(config.max_images, width) if several else None
        self.widths = dict.fromkeys(self.order, width)
        self.all_tied_weights_keys = {
            key: source for name, part in parts.items() for key, source in tied_weights(self.path(name), part).items()
        }

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Modality → its encoder, in the configured order."""
        return {name: self.get_submodule(self.path(name)) for name in self.order}

    @staticmethod
    def path(modality: str) -> str:
        """Where the encoder of a modality is kept."""
        return modality if modality in FIRST_INPUTS else f"further.{modality}"

    def forward(
        self,
        pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        **inputs: Any,
    ) -> Memory:
        """Encode what is given; a modality that is not given is missing from the `Memory`.

        Args:
            pixel_values: (B, 3, H, W); or (B, I, 3, H, W) for up to I images of a sample.
            image_mask: (B,) or (B, I), False where there is no image; None when all are there.
            context_input_ids: (B, L).
            context_attention_mask: (B, L), False or 0 at padding and throughout for a sample without context.
            inputs: of each further modality, `NAME_values` (B, S, …) and `NAME_mask`, (B, S) or (B,); also
                `output_attentions` and the like, which `generate` hands to every encoder.

        Returns:
            States of the images of a sample one after the other, I times those of one.

        Raises:
            ValueError: nothing to encode, or a modality that this captioner has no encoder for.
        """
        given = {"image": (pixel_values, image_mask), "context": (context_input_ids, context_attention_mask)}
        for name in self.further:
            given[name] = tuple(inputs.get(key) for key in input_names(name))
        self._check({name: values for name, (values, _) in given.items()})
        encoded = {}
        for name in self.order:
            values, mask = given[name]
            if values is not None:
                encoded[name] = ENCODE.get(name, Encoders._encode_modality)(self, values, mask, name)
                if name in self.resamplers:
                    encoded[name] = self.resamplers[name](*encoded[name])
        return Memory(
            states={name: states for name, (states, _) in encoded.items()},
            masks={name: mask for name, (_, mask) in encoded.items()},
        )

    def _encode_images(self, pixel_values: Tensor, image_mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) or (B, I, 3, H, W) → (B, I·S, D) and (B, I·S)."""
        samples, images = len(pixel_values), pixel_values.shape[1] if pixel_values.ndim == 5 else 1
        most = 1 if self.image_places is None else self.image_places.num_embeddings
        if images > most:
            raise ValueError(f"a sample has {images} images, but `max_images` is {most}; raise it or leave some out")
        pixels = pixel_values.flatten(0, 1) if pixel_values.ndim == 5 else pixel_values
        mask = None if image_mask is None else image_mask.bool().view(samples, -1).expand(-1, images).flatten()
        if mask is None:
            states = self._encode_pixels(pixels)
        else:
            rows = rows_to_encode(mask, pixels.device)
            states = scatter_rows(self._encode_pixels(pixels[rows]), rows)
        mask = _mask_of(states, mask)
        if self.image_places is not None:
            states = states.unflatten(0, (samples, images)) + self.image_places.weight[:images, None]
        return states.reshape(samples, -1, states.shape[-1]), mask.reshape(samples, -1)

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """Images one by one, (R, 3, H, W) → (R, S, D)."""
        states = self.projections["image"](self.image(pixels))
        if self.pool is None:
            return states
        height, width = pixels.shape[-2:] if pixels.ndim == 4 else self.image.picture
        return self.pool(states, nearest_grid(self.image.prefix, states.shape[1], height, width))

    def _encode_context(self, ids: Tensor, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """(B, L) ids → (B, L, D) and (B, L)."""
        mask = torch.ones_like(ids) if mask is None else mask
        return self.projections[name](self.context(ids, mask)), mask.bool()

    def _encode_modality(self, values: Tensor, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """Any further modality: (B, …) → (B, S, D) and (B, S)."""
        if mask is None:
            mask = torch.ones(len(values), dtype=torch.bool, device=values.device)
        mask = mask.bool().view(len(values), -1).expand(values.shape[:2])
        values = in_precision_of(values, self.further[name], self.projections[name], self)
        rows = rows_to_encode(mask.any(dim=1), values.device)
        states, encoded_mask = self.further[name](values[rows], mask[rows])
        return scatter_rows(self.projections[name](states), rows), scatter_rows(encoded_mask, rows)

    def _check(self, given: dict[str, Tensor | None]) -> None:
        present = [name for name, value in given.items() if value is not None]
        foreign = [name for name in present if name not in self.order]
        if foreign:
            raise ValueError(f"this captioner has no encoder for {foreign}; it takes {self.order}")
        if not present:
            names = ", ".join(f"`{input_names(name)[0]}`" for name in self.order)
            raise ValueError(f"nothing to caption: give at least one of {names}")


# Modality → how its part of a batch is encoded; every further one by `_encode_modality`.
ENCODE = {"image": Encoders._encode_images, "context": Encoders._encode_context}


def _projection(width: int, memory_width: int) -> nn.Module:
    return nn.Identity() if width == memory_width else nn.Linear(width, memory_width)


def rows_to_encode(mask: Tensor, device: torch.device) -> Tensor:
    """The rows to encode, (B,) bool from (B,) bool: a sample that lacks a modality costs nothing.

    Where all lack it, the first is encoded all the same: its states give the shape, and every process of a distributed
    run uses the same parameters.
    """
    present = mask if mask.any() else torch.arange(len(mask)) == 0
    return present.to(device)


def scatter_rows(encoded: Tensor, rows: Tensor) -> Tensor:
    """Encoded rows (R, …) to their places in the batch, (B, …), with zeros in the others; `rows` (B,) bool."""
    return encoded.new_zeros(len(rows), *encoded.shape[1:]).index_put((rows,), encoded)


def _mask_of(states: Tensor, mask: Tensor | None) -> Tensor:
    """States (R, S, D) and which of them are there, (R,) or None → (R, S) bool."""
    everywhere = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    return everywhere if mask is None else everywhere & mask.bool()[:, None]
