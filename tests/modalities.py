"""Tiny encoders of further modalities, a captioner that has them, and inputs for them."""

import numpy as np
import torch
from conftest import tiny_captioner

AST = {
    "model_type": "audio-spectrogram-transformer",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "patch_size": 4,
    "frequency_stride": 4,
    "time_stride": 4,
    "max_length": 16,
    "num_mel_bins": 8,
}
WHISPER = {
    "model_type": "whisper",
    "d_model": 24,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "vocab_size": 30,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8, 8],
    "conv_kernel": [4, 3],
    "conv_stride": [2, 2],
    "num_conv_pos_embeddings": 2,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "mask_time_prob": 0.0,
}
REGIONS = {"feature_size": 6, "max_length": 5, "positions": True}
ENCODERS = {"regions": REGIONS, "sound": AST, "speech": WHISPER}


def captioner(*mode, encoders=ENCODERS, **options):
    return tiny_captioner(*mode, encoders={name: dict(shape) for name, shape in encoders.items()}, **options)


def further(samples=3, seed=0):
    """Regions of 4, 0 and 2 places, and sounds of one size."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([[4], [0], [2]])[:samples]
    return {
        "regions_values": torch.randn(samples, 4, 6, generator=draw),
        "regions_mask": torch.arange(4) < lengths,
        "sound_values": torch.randn(samples, 16, 8, generator=draw),
        "speech_values": torch.randn(samples, 8, 20, generator=draw),
    }


def regions(length, seed=0):
    return np.random.default_rng(seed).normal(size=(length, 6)).astype(np.float32)
