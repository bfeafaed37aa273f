"""Decoders of the Llama kind: how their shape and weights become our decoder's.

Llama (and SmolLM2, which is one), Mistral, Qwen2, Qwen2.5 and Qwen3 name their tensors alike; they differ in biases,
norms of queries and keys, and windows. Knows nothing about files, encoders or processors.
"""

from torch import Tensor, nn
from transformers import PreTrainedConfig

from .configuration import DecoderConfig
from .families import Family, FamilyError, linear


def _configuration(source: PreTrainedConfig, **switches: bool) -> DecoderConfig:
    """What all have in common; `switches` are what a family adds.

    Attention within a sliding window is full attention as long as a caption is no longer than the window.
    """
    window = getattr(source, "sliding_window", None)
    positions = source.max_position_embeddings
    return DecoderConfig(
        vocab_size=source.vocab_size,
        hidden_size=source.hidden_size,
        num_layers=source.num_hidden_layers,
        num_heads=source.num_attention_heads,
        num_key_value_heads=source.num_key_value_heads,
        head_dim=getattr(source, "head_dim", None),
        feed_forward="gated",
        intermediate_size=source.intermediate_size,
        positions="rotary",
        rope_theta=_theta(source),
        max_positions=positions if window is None else min(positions, window),
        norm="rms",
        norm_eps=source.rms_norm_eps,
        activation=source.hidden_act,
        dropout=0.0,
        initializer_range=source.initializer_range,
        tie_word_embeddings=source.tie_word_embeddings,
        **{"attention_bias": False, "attention_output_bias": False, "feed_forward_bias": False, **switches},
    )


def _theta(source: PreTrainedConfig) -> float:
    rope = source.rope_parameters
    if rope["rope_type"] != "default":
        raise FamilyError(
            f"`rope_type` of a {source.model_type} decoder must be 'default', but is {rope['rope_type']!r}; "
            "take a model whose rotary angles are not scaled"
        )
    return rope["rope_theta"]


def _llama_configuration(source: PreTrainedConfig) -> DecoderConfig:
    bias = source.attention_bias
    return _configuration(source, attention_bias=bias, attention_output_bias=bias, feed_forward_bias=source.mlp_bias)


def _qwen2_configuration(source: PreTrainedConfig) -> DecoderConfig:
    return _configuration(source, attention_bias=True)


def _qwen3_configuration(source: PreTrainedConfig) -> DecoderConfig:
    bias = source.attention_bias
    return _configuration(source, attention_bias=bias, attention_output_bias=bias, query_key_norm=True)


def _weights(source: nn.Module) -> dict[str, Tensor]:
    weights = {
        "decoder.token_embedding.weight": source.model.embed_tokens.weight,
        "decoder.final_norm.weight": source.model.norm.weight,
        "lm_head.weight": source.lm_head.weight,
    }
    for i, layer in enumerate(source.model.layers):
        block = f"decoder.blocks.{i}"
        for name, part in _parts(layer).items():
            weights |= linear(f"{block}.{name}", part.weight, getattr(part, "bias", None))
    return weights


def _parts(layer: nn.Module) -> dict[str, nn.Module]:
    """Our name in a block → the part of a layer."""
    attention, feed_forward = layer.self_attn, layer.mlp
    parts = {
        "self_residual.norm": layer.input_layernorm,
        "self_attention.query": attention.q_proj,
        "self_attention.key": attention.k_proj,
        "self_attention.value": attention.v_proj,
        "self_attention.output": attention.o_proj,
        "feed_residual.norm": layer.post_attention_layernorm,
        "feed_forward.gate": feed_forward.gate_proj,
        "feed_forward.up": feed_forward.up_proj,
        "feed_forward.down": feed_forward.down_proj,
    }
    if hasattr(attention, "q_norm"):
        parts |= {"self_attention.query_norm": attention.q_norm, "self_attention.key_norm": attention.k_norm}
    return parts


LLAMA_FAMILIES = {
    "llama": Family(_llama_configuration, _weights),
    "mistral": Family(_configuration, _weights),
    "qwen2": Family(_qwen2_configuration, _weights),
    "qwen3": Family(_qwen3_configuration, _weights),
}
