"""Causal attention of a caption to itself: grouped key and value heads, norms and rotation of queries and keys.

Knows nothing about memories. Shape letters: N, T, S, D, H as in every file; d, the width of a head.
"""

from torch import Tensor, nn
from transformers import EncoderDecoderCache

from .attention import Attention
from .configuration import DecoderConfig
from .layers import norm
from .positions import Rotation, rotate


class SelfAttention(Attention):
    """Keys and values have `num_key_value_heads` heads, each shared by a group of queries; new ones go to the cache.

    Queries and keys are normed head by head, if at all, then rotated, if at all, then cached.
    """

    is_causal = True

    def __init__(self, config: DecoderConfig, layer: int):
        biases = (config.attention_bias, config.attention_output_bias)
        super().__init__(config, config.hidden_size, config.num_key_value_heads, *biases)
        self.layer = layer
        self.query_norm = norm(config, self.head_width) if config.query_key_norm else nn.Identity()
        self.key_norm = norm(config, self.head_width) if config.query_key_norm else nn.Identity()

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: EncoderDecoderCache | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        """x (N, T, D), mask (N, 1, T, S) as the backend wants it → (N, T, D)."""
        keys, values = self.keys_and_values(x)
        query, keys = self.query_norm(self.heads(self.query(x))), self.key_norm(keys)
        if rotation is not None:
            query, keys = rotate(query, rotation), rotate(keys, rotation)
        if cache is not None:
            keys, values = cache.self_attention_cache.update(keys, values, self.layer)
        backend = self.config._attn_implementation
        if backend == "eager" and mask is not None and mask.is_floating_point():
            mask = mask == 0
        attended = self.attend(backend, query, keys, values, mask)
        return self.output(attended.flatten(2))
