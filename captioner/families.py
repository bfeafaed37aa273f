"""Families of pretrained text decoders: how each one's shape and weights become our decoder's.

Knows configurations and tensors by their names; knows nothing about files, encoders or processors.
"""

from torch import Tensor, nn
from transformers import PreTrainedConfig

from .configuration import DecoderConfig


def _gpt2_configuration(source: PreTrainedConfig) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=source.vocab_size,
        hidden_size=source.n_embd,
        num_layers=source.n_layer,
        num_heads=source.n_head,
        intermediate_size=source.n_inner,
        max_positions=source.n_positions,
        norm_eps=source.layer_norm_epsilon,
        activation=source.activation_function,
        dropout=source.resid_pdrop,
    )


def _gpt2_weights(source: nn.Module) -> dict[str, Tensor]:
    """GPT-2's names to ours; its `Conv1D` weights are (in, out), its queries, keys and values lie side by side."""
    transformer = source.transformer
    weights = {
        "token_embedding.weight": transformer.wte.weight,
        "position_embedding.weight": transformer.wpe.weight,
        **_linear("final_norm", transformer.ln_f.weight, transformer.ln_f.bias),
    }
    for i, layer in enumerate(transformer.h):
        block = f"blocks.{i}"
        fused = zip(
            ("query", "key", "value"),
            layer.attn.c_attn.weight.chunk(3, dim=1),
            layer.attn.c_attn.bias.chunk(3),
            strict=True,
        )
        for name, weight, bias in fused:
            weights |= _linear(f"{block}.self_attention.{name}", weight.T, bias)
        for name, conv in (
            ("self_attention.output", layer.attn.c_proj),
            ("feed_forward.0", layer.mlp.c_fc),
            ("feed_forward.2", layer.mlp.c_proj),
        ):
            weights |= _linear(f"{block}.{name}", conv.weight.T, conv.bias)
        for name, norm in (("self_residual", layer.ln_1), ("feed_residual", layer.ln_2)):
            weights |= _linear(f"{block}.{name}.norm", norm.weight, norm.bias)
    return weights


def _linear(name: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": weight, f"{name}.bias": bias}


FAMILIES = {"gpt2": (_gpt2_configuration, _gpt2_weights)}  # model type → how to translate its shape, its weights
