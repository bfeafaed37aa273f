"""Everything that shapes a captioner: which encoders it looks and reads with, its decoder, and how the two meet.

Knows nothing about weights, data or runs; a `CaptionerConfig` is a transformers config and travels in `config.json`.
"""

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig

from .known_keys import check_known, is_saved
from .memory_options import attention_options, check_memory

if TYPE_CHECKING:
    from .conditioning import Mode

DECODER_CHOICES = {
    "norm": ("layer", "rms"),
    "norm_position": ("pre", "post"),
    "positions": ("learned", "rotary"),
    "feed_forward": ("plain", "gated"),
}
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")  # names of transformers
FIRST_INPUTS = {  # modality → names of its tensor and its mask in a batch
    "image": ("pixel_values", "image_mask"),
    "context": ("context_input_ids", "context_attention_mask"),
}
TAKEN = (*FIRST_INPUTS, "captions", "id", "index", "epoch", "decoder", "decoder_attention", "context_attention")


def input_names(modality: str) -> tuple[str, str]:
    """The names of a modality's tensor and of its mask in a batch."""
    return FIRST_INPUTS.get(modality) or (f"{modality}_values", f"{modality}_mask")


def _modes() -> "dict[tuple[str, str | None], type[Mode]]":
    """Asked for late: modes are layers made from a `DecoderConfig`, and who reads a configuration needs no layers."""
    from .modes import MODES

    return MODES


def _choose(name: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        allowed = ", ".join("null" if choice is None else repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {allowed}, but is {value!r}")


class DecoderConfig(PreTrainedConfig):
    """Shape of the text decoder.

    Args:
        vocab_size: V, rows of the token embedding.
        hidden_size: D, the width of the stream.
        num_layers: blocks, each self-attention, cross-attention, feed-forward.
        num_heads: H, heads of the queries.
        num_key_value_heads: heads of self-attention's keys and values, each shared by H / this many; None means H.
        head_dim: d, the width of a head; None means D / H.
        query_key_norm: a norm of each head's queries and keys in self-attention, before any rotation (Qwen3).
        attention_bias: biases of queries, keys and values in self-attention.
        attention_output_bias: a bias after it.
        feed_forward: "plain" (widen, activate, narrow) or "gated" (one widened half opens the other).
        feed_forward_bias: biases in it.
        intermediate_size: width inside it; None means 4·D.
        positions: "learned" (vectors added to the tokens) or "rotary" (queries and keys turned by the position).
        rope_theta: base of the rotary angles.
        rope_parameters: how rotary angles are scaled for longer texts, as transformers writes it: `{"rope_type":
            "llama3", "factor": 8.0, …}`; the type is one of `ROPE_TYPES`. None, or type "default": not at all.
        max_positions: the longest caption in tokens (start token included), so how many positions are learned.
        norm: "layer" or "rms" (no mean, no bias).
        norm_position: "pre" (norm before each sub-layer, one more at the end) or "post" (after each sum).
        activation: a name of transformers' activations.
        embedding_norm: a norm after the embeddings (BERT, BLIP).
        head_transform: dense, activation and norm before the vocabulary head (BERT, BLIP).
        head_bias: a bias per token in the vocabulary head.
        dropout: after the embeddings and after each sub-layer.
        initializer_range: standard deviation of new linear weights.
        embedding_std: standard deviation of new token and position embeddings; a small captioner trained from
            scratch learns to look names up in its context far sooner at 0.5 than at 0.02.
        ungated_modalities: with fusion "gated", the modalities that have no gate (those trained without one).
        memory_attention: modality → kind and options of its cross-attention; `CaptionerConfig` fills it from `memory`.
    """

    model_type = "captioner_decoder"
    attribute_map = {  # noqa: RUF012
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "max_position_embeddings": "max_positions",
    }

    vocab_size: int = 8000
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    query_key_norm: bool = False
    attention_bias: bool = True
    attention_output_bias: bool = True
    feed_forward: str = "plain"
    feed_forward_bias: bool = True
    intermediate_size: int | None = None
    positions: str = "learned"
    rope_theta: float | int = 10_000.0
    rope_parameters: dict | None = None
    max_positions: int = 128
    norm: str = "layer"
    norm_position: str = "pre"
    norm_eps: float = 1e-5
    activation: str = "gelu"
    embedding_norm: bool = False
    head_transform: bool = False
    head_bias: bool = False
    dropout: float | int = 0.1
    initializer_range: float = 0.02
    embedding_std: float = 0.02
    ungated_modalities: list | tuple = ()
    memory_attention: dict | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any):
        if not is_saved(kwargs):
            check_known("decoder", type(self), kwargs)
        for name, choices in DECODER_CHOICES.items():
            _choose(f"decoder.{name}", getattr(self, name), choices)
        self._fill_heads()
        self.ungated_modalities = list(self.ungated_modalities)
        self.memory_attention = dict(self.memory_attention or {})
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        self.rope_parameters = dict(self.rope_parameters or {})
        super().__post_init__(**kwargs)
        self._check_rotation()

    def _fill_heads(self) -> None:
        if self.head_dim is None:
            if self.hidden_size % self.num_heads:
                raise ValueError(
                    f"`decoder.hidden_size` must be a multiple of `decoder.num_heads`, but is {self.hidden_size} "
                    f"with {self.num_heads} heads"
                )
            self.head_dim = self.hidden_size // self.num_heads
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_heads
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"`decoder.num_heads` must be a multiple of `decoder.num_key_value_heads`, but is {self.num_heads} "
                f"with {self.num_key_value_heads}"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions turn pairs: `decoder.head_dim` must be even, but is {self.head_dim}")

    def _check_rotation(self) -> None:
        """Check `rope_parameters` as transformers filled it; where angles are not scaled, `rope_theta` says all."""
        rope = self.rope_parameters
        _choose("decoder.rope_parameters.rope_type", rope["rope_type"], ROPE_TYPES)
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise ValueError(
                "`decoder.rope_parameters.partial_rotary_factor` must be 1.0, since whole heads are turned, but is "
                f"{rope['partial_rotary_factor']}; take a decoder that turns whole heads"
            )
        try:
            self.validate_rope()
        except KeyError as error:
            raise ValueError(f"`decoder.rope_parameters` {rope} cannot be used: {error.args[0]}") from error
        self.rope_theta = rope["rope_theta"]
        if rope["rope_type"] == "default":
            self.rope_parameters = None


class CaptionerConfig(PreTrainedConfig):
    """Shape of a whole captioner.

    Args:
        image_encoder: `{"name": timm model, "image_size": pixels, …}`; further keys shape timm's model, if they stand
            in the list of `image_options.py`, except `stem` (see `image_encoder.STEMS`), `norm_eps` (of a ViT's norms)
            and the processor's `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`. None: a captioner that only
            reads.
        context_encoder: a transformers config (or its dict with `model_type`). None: a captioner that only looks.
        encoders: further modalities by name, each the dict of a transformers config (with `model_type`), or
            `{"feature_size": D, …}` for features that are made already; see `modality_encoders.py`.
        max_images: the most images of one sample; with more than one, images learn which place they have.
        context_window: `{"length": tokens, "overlap": tokens, …}`: longer contexts are read window by window; see
            `windows.py`. None: a context is read at once.
        memory: modality → how a long memory is made short, or attended to at less cost: `pool` (p: patches of an image
            averaged p × p), `resampler` (`{"latents": R, "layers": n, "heads": h}`: R learned queries read it),
            `attention` ("softmax", "linear", or "topk" with `block_size` and `blocks`); see `memory_options.py`.
        decoder: a `DecoderConfig` or its dict.
        conditioning: "concatenated" (one memory made of every modality) or "separate" (one cross-attention each).
        fusion: for "separate": "serial", "parallel", "hierarchical", "gated" or "joint".
        memory_width: D_m, of the encoders' states as the decoder attends to them; None: the decoder's width. Encoders
            of another width are projected.
        modality_order: the order in which modalities are attended to (serial, gated) or stacked (the others); further
            ones that it leaves out come last.
        bos_token_id, eos_token_id, pad_token_id, decoder_start_token_id: ids of the caption tokenizer; the start
            token falls back to `bos_token_id`.

    Raises:
        ValueError: an unknown mode, no encoder at all, or a modality without a place in `modality_order`.
    """

    model_type = "captioner"
    sub_configs = {"context_encoder": AutoConfig, "decoder": DecoderConfig}  # noqa: RUF012

    image_encoder: dict | None = None
    context_encoder: dict | PreTrainedConfig | None = None
    encoders: dict | None = None
    max_images: int = 1
    context_window: dict | None = None
    memory: dict | None = None
    decoder: dict | PreTrainedConfig | None = None
    conditioning: str = "concatenated"
    fusion: str | None = None
    memory_width: int | None = None
    modality_order: list | tuple = ("image", "context")
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 0
    decoder_start_token_id: int | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.context_encoder, dict):
            self.context_encoder = AutoConfig.for_model(**self.context_encoder)
        if not isinstance(self.decoder, DecoderConfig):
            self.decoder = DecoderConfig(**(self.decoder or {}))
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.bos_token_id
        self.encoders = dict(self.encoders or {})
        self.modality_order = [*self.modality_order, *(n for n in self.encoders if n not in self.modality_order)]
        self.tie_word_embeddings = self.decoder.tie_word_embeddings
        self._check_mode()
        self._check()
        self.share_memory()
        super().__post_init__(**kwargs)

    def _check_mode(self) -> None:
        """The mode is one of `MODES`; without a fusion, the first of its conditioning."""
        _choose("conditioning", self.conditioning, tuple(dict.fromkeys(conditioning for conditioning, _ in _modes())))
        fusions = tuple(fusion for conditioning, fusion in _modes() if conditioning == self.conditioning)
        self.fusion = fusions[0] if self.fusion is None else self.fusion
        _choose(f"fusion (with conditioning={self.conditioning!r})", self.fusion, fusions)

    def _check(self) -> None:
        given = self.shapes
        if not any(value is not None for value in given.values()):
            raise ValueError("a captioner needs one of `image_encoder`, `context_encoder` and `encoders`, but has none")
        if self.image_encoder is not None and "name" not in self.image_encoder:
            raise ValueError(
                f"`image_encoder` must have the key 'name' (a timm model), but has {sorted(self.image_encoder)}"
            )
        self._check_encoders()
        if sorted(self.modality_order) != sorted(given):
            raise ValueError(f"`modality_order` must list each of {sorted(given)} once, but is {self.modality_order}")
        unknown = sorted(set(self.decoder.ungated_modalities) - set(given))
        if unknown:
            raise ValueError(f"`decoder.ungated_modalities` must be among {sorted(given)}, but has {unknown}")

    def share_memory(self) -> None:
        """Check `memory` and tell the decoder which attention it asks for; each model that is built does it again.

        Raises:
            ValueError: options that cannot be built, or that do not go together with the conditioning mode.
        """
        self.memory = dict(self.memory or {})
        check_memory(self.memory, self.modalities, self.fusion or self.conditioning, self.mode.one_softmax)
        self.decoder.memory_attention = {name: attention_options(own) for name, own in self.memory.items()}

    def _check_encoders(self) -> None:
        for name, shape in self.encoders.items():
            if not name.isidentifier() or name in TAKEN:
                raise ValueError(
                    f"`encoders` may have names like 'sound' (none of {', '.join(TAKEN)}), but has {name!r}"
                )
            if not isinstance(shape, dict) or len({"model_type", "feature_size"} & set(shape)) != 1:
                raise ValueError(
                    f"`encoders.{name}` must be a dict with 'model_type' (a transformers encoder) or 'feature_size' "
                    f"(features that are made already), but is {shape!r}"
                )
        if self.max_images < 1:
            raise ValueError(f"`max_images` must be at least 1, but is {self.max_images}")

    @property
    def mode(self) -> "type[Mode]":
        """The class of the cross-attention in every block."""
        return _modes()[self.conditioning, self.fusion]

    @property
    def shapes(self) -> dict[str, Any]:
        """Modality → what its encoder looks like, None where there is none."""
        return {"image": self.image_encoder, "context": self.context_encoder, **self.encoders}

    @property
    def modalities(self) -> list[str]:
        """The modalities that this captioner has an encoder for, in `modality_order`."""
        shapes = self.shapes
        return [name for name in self.modality_order if shapes[name] is not None]

    @property
    def inputs(self) -> dict[str, tuple[str, str]]:
        """Modality → the names of its tensor and of its mask in a batch, also of image and context that it lacks."""
        return {name: input_names(name) for name in self.shapes}
