"""Families of pretrained language models: how each one's shape and weights become our decoder's.

Llama (and SmolLM2, which is one), Mistral, Qwen2, Qwen2.5 and Qwen3 name their tensors alike; they differ in biases,
norms of queries and keys, and windows. Knows configurations and tensors by their names; knows nothing about files,
encoders or processors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..model import ROPE_TYPES, DecoderConfig


class FamilyError(ValueError):
    """A decoder of a known family with a switch that ours cannot express; the message names it."""


class Family(NamedTuple):
    """How the language models of one family are translated.

    Args:
        configuration: their configuration → ours.
        weights: a model → its weights under the names that they have in a `Captioner`, the vocabulary head included.
        cross_attention: a model that attends to an encoder → those weights, as `Concatenated` names them; None where
            the family cannot.
    """

    configuration: Callable[[PreTrainedConfig], DecoderConfig]
    weights: Callable[[nn.Module], dict[str, Tensor]]
    cross_attention: Callable[[nn.Module], dict[str, Tensor]] | None = None


def linear(name: str, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """Weight and bias, if there is one, of a linear layer or a norm under its name."""
    return {f"{name}.weight": weight} | ({} if bias is None else {f"{name}.bias": bias})


def module(name: str, part: nn.Module) -> dict[str, Tensor]:
    """The same of a part whose layout is ours."""
    return linear(name, part.weight, part.bias)


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
        tie_word_embeddings=source.tie_word_embeddings,
    )


def _gpt2_weights(source: nn.Module) -> dict[str, Tensor]:
    """GPT-2's queries, keys and values lie side by side."""
    transformer = source.transformer
    weights = {
        "decoder.token_embedding.weight": transformer.wte.weight,
        "decoder.position_embedding.weight": transformer.wpe.weight,
        "lm_head.weight": source.lm_head.weight,
        **module("decoder.final_norm", transformer.ln_f),
    }
    for i, layer in enumerate(transformer.h):
        block = f"decoder.blocks.{i}"
        query, key, value = _linears(layer.attn.c_attn, 3)
        weights |= linear(f"{block}.self_attention.query", *_scaled(query, source.config, i))
        weights |= linear(f"{block}.self_attention.key", *key)
        weights |= linear(f"{block}.self_attention.value", *value)
        weights |= linear(f"{block}.self_attention.output", *_linears(layer.attn.c_proj)[0])
        weights |= linear(f"{block}.feed_forward.0", *_linears(layer.mlp.c_fc)[0])
        weights |= linear(f"{block}.feed_forward.2", *_linears(layer.mlp.c_proj)[0])
        weights |= module(f"{block}.self_residual.norm", layer.ln_1)
        weights |= module(f"{block}.feed_residual.norm", layer.ln_2)
    return weights


def _gpt2_cross_attention(source: nn.Module) -> dict[str, Tensor]:
    """Keys and values of the memory lie side by side, the queries alone."""
    weights = {}
    for i, layer in enumerate(source.transformer.h):
        cross = f"decoder.blocks.{i}.cross_attention"
        key, value = _linears(layer.crossattention.c_attn, 2)
        query = _linears(layer.crossattention.q_attn)[0]
        weights |= linear(f"{cross}.attention.query", *_scaled(query, source.config, i))
        weights |= linear(f"{cross}.attention.key", *key)
        weights |= linear(f"{cross}.attention.value", *value)
        weights |= linear(f"{cross}.attention.output", *_linears(layer.crossattention.c_proj)[0])
        weights |= module(f"{cross}.residual.norm", layer.ln_cross_attn)
    return weights


def _linears(conv: nn.Module, count: int = 1) -> list[tuple[Tensor, Tensor]]:
    """The linear layers that lie side by side in a `Conv1D`, whose weights are (in, out)."""
    return list(zip(conv.weight.T.chunk(count), conv.bias.chunk(count), strict=True))


def _scaled(query: tuple[Tensor, Tensor], config: PreTrainedConfig, layer: int) -> tuple[Tensor, Tensor]:
    """Queries that make 1/√d of what scores are scaled by: nothing more, nothing at all, 1/(layer + 1) more."""
    scale = 1.0 if config.scale_attn_weights else (config.n_embd // config.n_head) ** 0.5
    if config.scale_attn_by_inverse_layer_idx:
        scale /= layer + 1
    return query[0] * scale, query[1] * scale


def _bert_configuration(source: PreTrainedConfig) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=source.vocab_size,
        hidden_size=source.hidden_size,
        num_layers=source.num_hidden_layers,
        num_heads=source.num_attention_heads,
        intermediate_size=source.intermediate_size,
        max_positions=source.max_position_embeddings,
        norm_position="post",
        norm_eps=source.layer_norm_eps,
        activation=source.hidden_act,
        embedding_norm=True,
        head_transform=True,
        head_bias=True,
        dropout=source.hidden_dropout_prob,
        tie_word_embeddings=source.tie_word_embeddings,
    )


def _bert_weights(source: nn.Module) -> dict[str, Tensor]:
    head = source.cls.predictions
    return {
        **_bert_body(source.base_model),
        **module("decoder.head_transform.0", head.transform.dense),
        **module("decoder.head_transform.2", head.transform.LayerNorm),
        **module("lm_head", head.decoder),
    }


def _bert_body(bert: nn.Module) -> dict[str, Tensor]:
    """Captions are of token type 0, whose embedding becomes part of every position's; BLIP has no token types."""
    embeddings = bert.embeddings
    positions = embeddings.position_embeddings.weight
    if hasattr(embeddings, "token_type_embeddings"):
        positions = positions + embeddings.token_type_embeddings.weight[0]
    weights = {
        "decoder.token_embedding.weight": embeddings.word_embeddings.weight,
        "decoder.position_embedding.weight": positions,
        **module("decoder.embedding_norm", embeddings.LayerNorm),
    }
    for i, layer in enumerate(bert.encoder.layer):
        block = f"decoder.blocks.{i}"
        weights |= _bert_attention(f"{block}.self_attention", f"{block}.self_residual", layer.attention)
        weights |= module(f"{block}.feed_forward.0", layer.intermediate.dense)
        weights |= module(f"{block}.feed_forward.2", layer.output.dense)
        weights |= module(f"{block}.feed_residual.norm", layer.output.LayerNorm)
    return weights


def _bert_cross_attention(source: nn.Module) -> dict[str, Tensor]:
    weights = {}
    for i, layer in enumerate(source.base_model.encoder.layer):
        cross = f"decoder.blocks.{i}.cross_attention"
        weights |= _bert_attention(f"{cross}.attention", f"{cross}.residual", layer.crossattention)
    return weights


def _bert_attention(name: str, residual: str, attention: nn.Module) -> dict[str, Tensor]:
    return {
        **module(f"{name}.query", attention.self.query),
        **module(f"{name}.key", attention.self.key),
        **module(f"{name}.value", attention.self.value),
        **module(f"{name}.output", attention.output.dense),
        **module(f"{residual}.norm", attention.output.LayerNorm),
    }


def _roberta_configuration(source: PreTrainedConfig) -> DecoderConfig:
    """BERT's, but the positions up to that of padding are not a caption's, and the head knows one activation."""
    if source.hidden_act != "gelu":
        raise FamilyError(
            f"`hidden_act` of a RoBERTa decoder must be 'gelu', as in its head, but is {source.hidden_act!r}"
        )
    config = _bert_configuration(source)
    config.max_positions -= source.pad_token_id + 1
    return config


def _roberta_weights(source: nn.Module) -> dict[str, Tensor]:
    weights = _bert_body(source.base_model)
    positions = weights["decoder.position_embedding.weight"]
    weights["decoder.position_embedding.weight"] = positions[source.config.pad_token_id + 1 :]
    return {
        **weights,
        **module("decoder.head_transform.0", source.lm_head.dense),
        **module("decoder.head_transform.2", source.lm_head.layer_norm),
        **module("lm_head", source.lm_head.decoder),
    }


def _llama_like_configuration(source: PreTrainedConfig, **switches: bool) -> DecoderConfig:
    """What Llama and its like have in common; `switches` are what a family adds.

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
        rope_parameters=_rotation(source),
        max_positions=positions if window is None else min(positions, window),
        norm="rms",
        norm_eps=source.rms_norm_eps,
        activation=source.hidden_act,
        dropout=0.0,
        initializer_range=source.initializer_range,
        tie_word_embeddings=source.tie_word_embeddings,
        **{"attention_bias": False, "attention_output_bias": False, "feed_forward_bias": False, **switches},
    )


def _rotation(source: PreTrainedConfig) -> dict[str, Any]:
    rope = source.rope_parameters
    if rope["rope_type"] not in ROPE_TYPES:
        raise FamilyError(
            f"`rope_type` of a {source.model_type} decoder must be one of {', '.join(ROPE_TYPES)}, but is "
            f"{rope['rope_type']!r}; take a model whose rotary angles are scaled in one of these ways, or not at all"
        )
    return rope


def _llama_configuration(source: PreTrainedConfig) -> DecoderConfig:
    bias = source.attention_bias
    return _llama_like_configuration(
        source, attention_bias=bias, attention_output_bias=bias, feed_forward_bias=source.mlp_bias
    )


def _qwen2_configuration(source: PreTrainedConfig) -> DecoderConfig:
    return _llama_like_configuration(source, attention_bias=True)


def _qwen3_configuration(source: PreTrainedConfig) -> DecoderConfig:
    bias = source.attention_bias
    return _llama_like_configuration(source, attention_bias=bias, attention_output_bias=bias, query_key_norm=True)


def _llama_weights(source: nn.Module) -> dict[str, Tensor]:
    weights = {
        "decoder.token_embedding.weight": source.model.embed_tokens.weight,
        "decoder.final_norm.weight": source.model.norm.weight,
        "lm_head.weight": source.lm_head.weight,
    }
    for i, layer in enumerate(source.model.layers):
        block = f"decoder.blocks.{i}"
        for name, part in _llama_parts(layer).items():
            weights |= linear(f"{block}.{name}", part.weight, getattr(part, "bias", None))
    return weights


def _llama_parts(layer: nn.Module) -> dict[str, nn.Module]:
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


BERT = Family(_bert_configuration, _bert_weights, _bert_cross_attention)

# Model type of transformers → how it is translated.
FAMILIES = {
    "bert": BERT,
    "gpt2": Family(_gpt2_configuration, _gpt2_weights, _gpt2_cross_attention),
    "llama": Family(_llama_configuration, _llama_weights),
    "mistral": Family(_llama_like_configuration, _llama_weights),
    "qwen2": Family(_qwen2_configuration, _llama_weights),
    "qwen3": Family(_qwen3_configuration, _llama_weights),
    "roberta": Family(_roberta_configuration, _roberta_weights, _bert_cross_attention),
}
