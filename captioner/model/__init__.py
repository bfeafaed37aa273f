"""The captioner: memory, encoders, attention, decoder, configuration, processor and images.

Flat and self-contained, for `captioner convert --remote-code` copies this room alone: no file of it imports
anything else of this package. Knows nothing about files of data, searches or training.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "attention": (
            "Attention CROSS_BACKENDS Concatenated CrossAttention Gate Gated Hierarchical Joint MODES Parallel "
            "Separate Serial cached eager_attention silence"
        ),
        "attention_kinds": "Dense Softmax",
        "configuration": "CaptionerConfig DecoderConfig input_names",
        "decoder": "FeedForward",
        "encoders": "ImageEncoder build_backbone text_encoder_class",
        "further": "TransformersEncoder",
        "further_inputs": "FILES FeatureError FurtherInput",
        "grids": "Grid nearest_grid",
        "images": "ImageError ImageSettings open_image reason",
        "memory": "Memory SharedMemoryCache",
        "model": "Captioner",
        "model_card": "mode_name write_card",
        "positions": "Rotation rotate",
        "processor": "CaptionerProcessor IGNORED_LABEL PLAIN_TEXT",
        "selection": "largest",
        "self_attention": "SelfAttention",
        "several_images": "as_list each stack",
    },
)
