"""Tiny captioners, batches, tokenizers and a processor that every test file may use; nothing here needs a network."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("COLUMNS", None)  # of whoever runs the tests
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import torch
from hypothesis import settings
from samples import TEXTS, WORDS
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from transformers import BertTokenizer, GPT2Tokenizer, masking_utils
from transformers.integrations.flex_attention import WrappedFlexAttention

import captioner.base.screen  # noqa: F401  # consoles take the width of the terminal once: before a test sets another
from captioner import Captioner, CaptionerConfig, CaptionerProcessor
from captioner.adopt.vocabulary import train_tokenizer
from captioner.model import MODES, Gate, ImageSettings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
NORMS = ("pre", "post")
MODES_AND_NORMS = [(*mode, norm) for mode in MODES for norm in NORMS]
every_mode = pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
VIT = {"name": "vit_tiny_patch16_224", "image_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}
BERT = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
DECODER = {
    "vocab_size": 20,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 32,
    "max_positions": 24,
    "embedding_std": 0.5,
    "initializer_range": 0.2,
    "dropout": 0.0,
}


def tiny_config(conditioning="concatenated", fusion=None, norm_position="pre", decoder=None, **options):
    """A configuration of both encoders (widths 32 and 24) and a decoder of width 32."""
    options = {"image_encoder": dict(VIT), "context_encoder": dict(BERT)} | options
    decoder = DECODER | {"norm_position": norm_position} | (decoder or {})
    return CaptionerConfig(conditioning=conditioning, fusion=fusion, decoder=decoder, **options)


def stir(module, gates=0.5):
    """Give numbers to what starts at 0 or 1, so that a forgotten bias, norm or gate shows; returns the module."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.LayerNorm) and part.bias is not None:
            nn.init.normal_(part.bias, std=0.2)
        if isinstance(part, nn.LayerNorm):
            nn.init.normal_(part.weight, mean=1.0, std=0.2)
        if isinstance(part, Gate):
            nn.init.constant_(part.opening, gates)
    return module


def tiny_captioner(*mode, seed=0, gates=0.5, **options):
    """A `Captioner` of `tiny_config` in evaluation mode, with open gates and no bias at 0."""
    torch.manual_seed(seed)
    model = Captioner(tiny_config(*mode, **options))
    stir(model.decoder, gates)
    return model.eval()


def tiny_batch(samples=3, captions=1, tokens=5, context=6, seed=0):
    """Encoder inputs of B samples, with contexts of several lengths, and caption ids (B·G, T)."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.arange(samples) % context + 1
    inputs = {
        "pixel_values": torch.randn(samples, 3, 32, 32, generator=draw),
        "context_input_ids": torch.randint(3, 30, (samples, context), generator=draw),
        "context_attention_mask": (torch.arange(context) < lengths[:, None]).long(),
    }
    ids = torch.randint(3, 20, (samples * captions, tokens), generator=draw)
    ids[:, 0] = 1
    return inputs, ids


@pytest.fixture
def uncompiled_flex(monkeypatch):
    """Flex attention as plain operations: what torch 2.14 compiles of it for a CPU writes past its buffers."""
    monkeypatch.setattr(WrappedFlexAttention, "__init__", lambda self, training: None)
    monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda self: flex_attention)
    create = masking_utils.create_block_mask
    monkeypatch.setattr(masking_utils, "create_block_mask", lambda **options: create(**options | {"_compile": False}))


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """An empty cache of data sets, so that nothing read before is taken for what a test writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(TEXTS * 2, vocab_size=300)


@pytest.fixture(scope="module")
def bert():
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})


@pytest.fixture(scope="module")
def gpt2():
    vocab = {token: i for i, token in enumerate(["a", "b", "Ġ", "Ġa", "<|endoftext|>"])}
    return GPT2Tokenizer(vocab=vocab, merges=[("Ġ", "a")])


@pytest.fixture(scope="module")
def processor(bpe, bert):
    return CaptionerProcessor(ImageSettings(8, 12), bpe, bert, max_caption_length=9, max_context_length=6)
