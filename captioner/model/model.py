"""`Captioner`: `encode` makes the memory, `decode` makes logits, `forward` is one after the other.

A transformers model: saved, loaded and generated with as users know it. Knows nothing about text or files.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import Seq2SeqLMOutput

from .configuration import CaptionerConfig
from .decoder import Decoder
from .encoders import Encoders
from .head_loss import head_cross_entropy
from .memory import Memory, SharedMemoryCache
from .model_card import replace_generic_card
from .modes import Gate
from .positions import positions_under
from .switching import switch_conditioning


class Captioner(PreTrainedModel, GenerationMixin):
    """An image captioner that looks and reads."""

    config_class = CaptionerConfig
    base_model_prefix = "captioner"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _no_split_modules = ("DecoderBlock",)
    _tied_weights_keys = {"lm_head.weight": "decoder.token_embedding.weight"}  # noqa: RUF012

    def __init__(self, config: CaptionerConfig):
        super().__init__(config)
        config.decoder._attn_implementation = config._attn_implementation
        config.share_memory()
        self.encoder = Encoders(config)
        self.decoder = Decoder(config, self.encoder.widths)
        self.lm_head = nn.Linear(config.decoder.hidden_size, config.decoder.vocab_size, bias=config.decoder.head_bias)
        if self.encoder.image is not None:
            for parameter in self.encoder.image.parameters():
                parameter._is_hf_initialized = True
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what is ours; timm and transformers parts have initialised themselves."""
        decoder = self.config.decoder
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=decoder.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=decoder.embedding_std)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, Gate):
            init.zeros_(module.opening)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The encoders, as `generate` asks for them."""
        return self.encoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding of the decoder."""
        return self.decoder.token_embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embedding of the decoder."""
        self.decoder.token_embedding = value

    def get_output_embeddings(self) -> nn.Linear:
        """The vocabulary head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the vocabulary head."""
        self.lm_head = value

    @property
    def encoder_inputs(self) -> tuple[str, ...]:
        """What of a batch is for the encoders; image and context also where this captioner lacks them."""
        return tuple(name for pair in self.config.inputs.values() for name in pair)

    def encode(
        self,
        pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        **further: Tensor | None,
    ) -> Memory:
        """Look, read and more: pixels (B, 3, H, W) or (B, I, 3, H, W), context ids (B, L), … → `Memory` of B rows.

        `image_mask` (B,) or (B, I) and `context_attention_mask` (B, L) say what is there. A further modality has
        `NAME_values` (B, S, …) and `NAME_mask` (B, S).

        Raises:
            TypeError: a keyword that no encoder takes.
        """
        self._check_inputs(further)
        return self.encoder(pixel_values, image_mask, context_input_ids, context_attention_mask, **further)

    def _check_inputs(self, further: Iterable[str]) -> None:
        """Refuse names that are no encoder's, whether the encoders run or not: what is misspelt does nothing."""
        unknown = sorted(set(further) - set(self.encoder_inputs)) if further else []
        if unknown:
            raise TypeError(f"the encoders take {', '.join(self.encoder_inputs)}, but not {', '.join(unknown)}")

    def decode(
        self,
        decoder_input_ids: Tensor,
        memory: Memory | None,
        decoder_attention_mask: Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
        positions: Tensor | None = None,
    ) -> Seq2SeqLMOutput:
        """Token ids (N, T) and a memory of B rows, N = B·G → logits (N, T, V); the last `logits_to_keep` if not 0.

        `positions` (N, T) say where each token stands; None: after cached ones, as the mask shows what is padding.
        """
        if use_cache and cache is None:
            cache = SharedMemoryCache.around()
        states = self.decoder(decoder_input_ids, memory, decoder_attention_mask, cache, logits_to_keep, positions)
        return Seq2SeqLMOutput(logits=self.lm_head(states), cache=cache)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        encoder_outputs: Memory | None = None,
        cache: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        loss_only: bool = False,
        label_smoothing: float = 0.0,
        return_dict: bool | None = None,
        decoder_position_ids: Tensor | None = None,
        **further: Tensor | None,
    ) -> Seq2SeqLMOutput | tuple:
        """Encode, then decode; with labels (N, T), the mean cross-entropy over the supervised tokens.

        Args:
            decoder_input_ids: (N, T), N = B·G, the G captions of an image adjacent; made from `labels` if missing.
            labels: (N, T), the token that should follow each input token, −100 where nothing is supervised.
            encoder_outputs: a ready `Memory`; the encoders are then not run. Where they should learn from `labels`,
                it must have been encoded while gradients were recorded: a warning says where it was not.
            loss_only: the loss is summed, not averaged, and no logits are returned: for training.
            label_smoothing: of `loss_only`, the share of each target that is spread over the vocabulary.
            decoder_position_ids: (N, T), as `positions` of `decode`.
            further: tensors and masks of further modalities, as of `encode`.

        Raises:
            TypeError: a keyword that no encoder takes, also where they are not run.
        """
        memory = encoder_outputs
        if memory is None:
            memory = self.encode(pixel_values, image_mask, context_input_ids, context_attention_mask, **further)
        else:
            self._check_inputs(further)
            if labels is not None:
                self._warn_of_lost_gradients(memory)
        if decoder_input_ids is None:
            decoder_input_ids = self._shift_right(labels)
        if loss_only:
            states = self.decoder(decoder_input_ids, memory, decoder_attention_mask, positions=decoder_position_ids)
            there = labels != -100
            return Seq2SeqLMOutput(loss=head_cross_entropy(self.lm_head, states[there], labels[there], label_smoothing))
        options = (cache, bool(use_cache), logits_to_keep, decoder_position_ids)
        output = self.decode(decoder_input_ids, memory, decoder_attention_mask, *options)
        loss = None if labels is None else F.cross_entropy(output.logits.flatten(0, 1).float(), labels.flatten())
        output = Seq2SeqLMOutput(  # in the order of its fields, so that a tuple starts with the loss
            loss=loss,
            logits=output.logits,
            cache=output.cache,
            encoder_last_hidden_state=memory.last_hidden_state,
        )
        return output.to_tuple() if return_dict is False else output

    def _warn_of_lost_gradients(self, memory: Memory) -> None:
        """A loss through a memory that was encoded without gradients teaches no encoder, whichever should learn."""
        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.encoder.parameters())
        if learns and not any(states.requires_grad for states in memory.states.values()):
            warnings.warn(
                "`encoder_outputs` was encoded without gradients, so that the encoders learn nothing from this loss; "
                "encode it while gradients are recorded, or freeze `model.encoder`",
                stacklevel=3,
            )

    def _shift_right(self, labels: Tensor | None) -> Tensor:
        """Labels (N, T) → the inputs that predict them: the start token, then the labels without the last."""
        if labels is None:
            raise ValueError("give `decoder_input_ids`, `labels` or both")
        inputs = labels.roll(1, dims=1)
        inputs[:, 0] = self.config.decoder_start_token_id
        pad = self.config.pad_token_id
        return inputs.masked_fill(inputs == -100, self.config.decoder_start_token_id if pad is None else pad)

    def switch_conditioning(self, conditioning: str, fusion: str | None = None) -> None:
        """Change the conditioning mode in place and keep what was learnt; see `switching.switch_conditioning`."""
        switch_conditioning(self, conditioning, fusion)

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        """Upload what `push_to_hub` has written, with a card of ours where the repository has none."""
        replace_generic_card(working_dir, self.config)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """Caption images, contexts or both with any option of transformers' `generate`; → ids (N, T).

        The encoders run once per sample before the search starts, so that a captioner can also read without looking.
        """
        given = {name: kwargs.pop(name, None) for name in self.encoder_inputs}
        if inputs is not None:
            given["pixel_values"] = inputs
        if kwargs.get("encoder_outputs") is None:
            kwargs["encoder_outputs"] = self.encode(**given)
        return super().generate(**kwargs)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As transformers does it, with positions where it puts a mask (N, 1, T, S) in the place of (N, S)."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        mask = kwargs.get("decoder_attention_mask")
        if mask is not None and inputs.get("decoder_attention_mask") is not mask:
            ids = inputs["decoder_input_ids"]
            inputs.setdefault("decoder_position_ids", positions_under(mask, ids.shape[1]).to(ids.device))
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Repeat the decoder's rows per beam or sample; the memory keeps its B rows."""
        memory = model_kwargs.pop("encoder_outputs")
        input_ids, model_kwargs = super()._expand_inputs_for_generation(expand_size, False, input_ids, **model_kwargs)
        return input_ids, {**model_kwargs, "encoder_outputs": memory}

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Let `generate` build the cache that it wants, then share the memory's part of it between beams."""
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get("cache")
        if isinstance(cache, EncoderDecoderCache) and not isinstance(cache, SharedMemoryCache):
            model_kwargs["cache"] = SharedMemoryCache.around(cache.self_attention_cache)


AutoConfig.register(CaptionerConfig.model_type, CaptionerConfig, exist_ok=True)
AutoModel.register(CaptionerConfig, Captioner, exist_ok=True)
