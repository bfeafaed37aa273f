"""The captioner: memory, encoders, attention, decoder, configuration, processor and images.

Flat and self-contained, for `captioner convert --remote-code` copies this room alone: no file of it imports
anything else of this package. Knows nothing about files of data, searches or training.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "attention": "Attention CROSS_BACKENDS CrossAttention cached eager_attention zero_absent",
        "attention_kinds": "Dense KeyValue Softmax",
        "conditioning": "Mode",
        "configuration": "CaptionerConfig DecoderConfig ROPE_TYPES input_names",
        "context_encoder": "text_encoder_class",
        "decoder": "Decoder DecoderBlock FeedForward GatedFeedForward",
        "head_loss": "matrix_product",
        "image_encoder": "ImageEncoder build_backbone",
        "image_files": "MAX_PIXELS opened",
        "image_settings": "ImageSettings",
        "image_options": "local_folder",
        "images": "ImageError as_list each is_one open_image reason stack",
        "known_keys": "check_known",
        "layers": "PostNorm PreNorm",
        "memory": "Memory SharedMemoryCache",
        "model": "Captioner",
        "model_card": "mode_name write_card",
        "modality_encoders": "TransformersEncoder",
        "modality_inputs": "FILES FeatureError ModalityInput",
        "modes": "Gate MODES",
        "positions": "Rotation rotate",
        "processor": "CaptionerProcessor",
        "recorded": "Recorded Weights",
        "reduction": "Grid nearest_grid",
        "selection": "largest",
        "self_attention": "SelfAttention",
        "switching": "SwitchError changed_config rebuild_cross_attention switch_conditioning",
        "text_inputs": "IGNORED_LABEL PLAIN_TEXT",
        "unmodified": "is_plain is_unmodified",
    },
)
