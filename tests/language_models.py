"""Tiny pretrained language models of every family, saved as directories, and captioners made from them."""

import torch
from conftest import VIT
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from captioner import from_parts
from captioner.adopt.vocabulary import train_tokenizer

TEXTS = ["a small red dog left of the big blue cat", "two old boats under one bridge"]
TOKENS = 30
BERT_SHAPE = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
LLAMA_SHAPE = BERT_SHAPE | {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
SCALED = {  # type of rotary angles → what it takes; captions may be longer than those before scaling
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def scaled(kind):
    """The shape of a Llama whose rotary angles are scaled."""
    return LLAMA_SHAPE | {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **SCALED[kind]}}


DECODERS = {
    "gpt2": GPT2Config(vocab_size=TOKENS, n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=64),
    "bert": BertConfig(**BERT_SHAPE, is_decoder=True),
    "roberta": RobertaConfig(**BERT_SHAPE, is_decoder=True, pad_token_id=0),
    "llama": LlamaConfig(**LLAMA_SHAPE),
    "llama with one key per query": LlamaConfig(**LLAMA_SHAPE | {"num_key_value_heads": None}),
    "llama with one key for all queries": LlamaConfig(**LLAMA_SHAPE | {"num_key_value_heads": 1}),
    "llama with biased attention": LlamaConfig(**LLAMA_SHAPE, attention_bias=True),
    "llama with biased feed-forward": LlamaConfig(**LLAMA_SHAPE, mlp_bias=True),
    "llama with wide heads": LlamaConfig(**LLAMA_SHAPE, head_dim=12),
    **{f"llama with {kind} angles": LlamaConfig(**scaled(kind)) for kind in SCALED},
    "smollm2": LlamaConfig(**LLAMA_SHAPE, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "mistral": MistralConfig(**LLAMA_SHAPE, sliding_window=None),
    "mistral with narrow heads": MistralConfig(**LLAMA_SHAPE, sliding_window=None, head_dim=6),
    "mistral with a window": MistralConfig(**LLAMA_SHAPE, sliding_window=40),
    "qwen2": Qwen2Config(**LLAMA_SHAPE),
    "qwen2.5": Qwen2Config(**LLAMA_SHAPE, tie_word_embeddings=True),
    "qwen2.5 with yarn angles": Qwen2Config(**scaled("yarn")),
    "qwen3": Qwen3Config(**LLAMA_SHAPE, head_dim=16),
    "qwen3 with biased attention": Qwen3Config(**LLAMA_SHAPE, head_dim=8, attention_bias=True),
    "qwen3 tied": Qwen3Config(**LLAMA_SHAPE, head_dim=16, tie_word_embeddings=True),
}


def save(folder, model, seed=0):
    """A model with no weight at 0 or 1, and a tokenizer, as a directory."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1 if parameter.ndim == 1 else 0.0, 0.4)
    model.tie_weights()
    model.save_pretrained(folder)
    train_tokenizer(TEXTS, kind="word", vocab_size=TOKENS, min_frequency=1).save_pretrained(folder)
    return model.eval()


def language_model(folder, name):
    return save(folder, AutoModelForCausalLM.from_config(DECODERS[name]))


def gated(folder, **options):
    """A captioner with a new image encoder and gated cross-attention, and its processor."""
    torch.manual_seed(1)
    options = {"image_encoder": VIT, "conditioning": "separate", "fusion": "gated", "max_context_length": 12} | options
    captioner, processor = from_parts(decoder=str(folder), **options)
    return captioner, processor


def captions(processor, rows=3, tokens=6):
    ids = torch.randint(4, 20, (rows, tokens), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = processor.start_token_id
    return ids


def photos(rows=3):
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(3))
