"""The text decoder: blocks of self-attention, cross-attention and feed-forward, in that order.

Knows token ids and a `Memory`, no families of models and no modalities by name. Shapes: N = B·G rows, T tokens, D.
"""

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.import_utils import is_tracing

from .configuration import CaptionerConfig, DecoderConfig
from .layers import activation, norm, residual
from .memory import Memory
from .positions import POSITIONS, Rotation, positions_under
from .self_attention import SelfAttention


class FeedForward(nn.Sequential):
    """Widen, activate, narrow: (N, T, D) → (N, T, D)."""

    def __init__(self, config: DecoderConfig):
        width, inner, bias = config.hidden_size, config.intermediate_size, config.feed_forward_bias
        super().__init__(
            nn.Linear(width, inner, bias=bias), activation(config.activation), nn.Linear(inner, width, bias=bias)
        )


class GatedFeedForward(nn.Module):
    """Widen twice, one half opening the other, narrow ("GLU variants", arXiv 2002.05202): (N, T, D) → (N, T, D)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.feed_forward_bias
        self.gate = nn.Linear(width, inner, bias=bias)
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self.activation = activation(config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, D) → (N, T, D)."""
        return self.down(self.activation(self.gate(x)) * self.up(x))


FEED_FORWARDS = {"plain": FeedForward, "gated": GatedFeedForward}


class DecoderBlock(GradientCheckpointingLayer):
    """One layer of the decoder."""

    def __init__(self, config: CaptionerConfig, widths: dict[str, int], layer: int):
        super().__init__()
        decoder = config.decoder
        self.self_attention = SelfAttention(decoder, layer)
        self.self_residual = residual(decoder)
        self.cross_attention = config.mode(decoder, widths, layer)
        self.feed_forward = FEED_FORWARDS[decoder.feed_forward](decoder)
        self.feed_residual = residual(decoder)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        memory: Memory | None,
        rotation: Rotation | None = None,
        cache: EncoderDecoderCache | None = None,
    ) -> Tensor:
        """x (N, T, D), causal mask as the backend wants it, memory of B rows → (N, T, D)."""
        x = self.self_residual(x, lambda h: self.self_attention(h, mask, cache, rotation))
        if memory is not None:
            x = self.cross_attention(x, memory, cache)
        return self.feed_residual(x, self.feed_forward)


class Decoder(nn.Module):
    """Embeddings, blocks and what stands before the vocabulary head.

    Args:
        config: of the whole captioner, for the conditioning mode.
        widths: modality → width of its states.
    """

    def __init__(self, config: CaptionerConfig, widths: dict[str, int]):
        super().__init__()
        decoder = config.decoder
        self.config = decoder
        self.token_embedding = nn.Embedding(decoder.vocab_size, decoder.hidden_size)
        self.position_embedding = POSITIONS[decoder.positions](decoder)
        self.embedding_norm = norm(decoder) if decoder.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(decoder.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(config, widths, i) for i in range(decoder.num_layers))
        self.final_norm = norm(decoder) if decoder.norm_position == "pre" else nn.Identity()
        self.head_transform = _head_transform(decoder) if decoder.head_transform else nn.Identity()

    def forward(
        self,
        input_ids: Tensor,
        memory: Memory | None,
        attention_mask: Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        logits_to_keep: int = 0,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Token ids (N, T) and a memory of B rows → states before the vocabulary head, (N, T or `logits_to_keep`, D).

        `positions` (T,) or (N, T) says where in its caption each token stands, for rows that do not hold one caption
        from left to right; such rows need an `attention_mask` (N, 1, T, S) of their own too. None: after what the cache
        holds, padding on the left, as an `attention_mask` (N, past + T) shows it, not counted.

        Raises:
            ValueError: more tokens than `max_positions`, or rows that are no multiple of the memory's.
        """
        self._check_rows(input_ids, memory)
        if positions is None:
            positions = self._next_positions(input_ids, cache, attention_mask)
        x = self.position_embedding.place(self.token_embedding(input_ids), positions)
        x = self.dropout(self.embedding_norm(x))
        rotation = self.position_embedding.rotation(x, positions)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            cache=None if cache is None else cache.self_attention_cache,
        )
        for block in self.blocks:
            x = block(x, mask, memory, rotation, cache=cache)
        return self.head_transform(self.final_norm(x[:, -logits_to_keep:]))

    def _next_positions(
        self, input_ids: Tensor, cache: EncoderDecoderCache | None, mask: Tensor | None = None
    ) -> Tensor:
        """(T,), or (N, T) where a row has padding on the left."""
        past = 0 if cache is None else cache.get_seq_length()
        if past + input_ids.shape[1] > self.config.max_positions:
            raise ValueError(
                f"a caption may have {self.config.max_positions} tokens (`decoder.max_positions`), but has "
                f"{past + input_ids.shape[1]}; shorten it, or lower `max_new_tokens`"
            )
        per_row = isinstance(mask, Tensor) and mask.ndim == 2
        if per_row and (is_tracing(input_ids) or not mask[:, 0].all()):
            return positions_under(mask, input_ids.shape[1])
        return torch.arange(input_ids.shape[1], device=input_ids.device) + past

    def _check_rows(self, input_ids: Tensor, memory: Memory | None) -> None:
        if memory is not None and input_ids.shape[0] % memory.batch_size:
            raise ValueError(
                f"caption rows must be a multiple of the memory's {memory.batch_size} samples, but are "
                f"{input_ids.shape[0]}; give every image the same number of captions"
            )


def _head_transform(config: DecoderConfig) -> nn.Sequential:
    """Dense, activation, norm: what BERT-like models put before the vocabulary head."""
    return nn.Sequential(nn.Linear(config.hidden_size, config.hidden_size), activation(config.activation), norm(config))
