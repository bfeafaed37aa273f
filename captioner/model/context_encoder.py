"""Reading: a transformers text encoder, built from its configuration, of texts that fit it or window by window.

Knows token ids; knows nothing about tokenizers, other modalities or captions. Letters: B, D as in every file; L
context tokens.
"""

from torch import Tensor, nn
from transformers import AutoModel, AutoModelForTextEncoding, PreTrainedConfig
from transformers import initialization as init

from .modality_encoders import tied_weights
from .windows import Windows


def text_encoder_class(config: PreTrainedConfig) -> type:
    """The auto class that builds only the encoder of a text model."""
    return AutoModelForTextEncoding if type(config) in AutoModelForTextEncoding._model_mapping else AutoModel


class ContextEncoder(nn.Module):
    """A transformers text encoder (of an encoder-decoder, its encoder); with `windows`, of texts of any length."""

    def __init__(self, config: PreTrainedConfig, windows: Windows | None = None):
        super().__init__()
        self.windows = windows
        self.model = text_encoder_class(config).from_config(config)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        self.width = config.hidden_size
        self.all_tied_weights_keys = tied_weights("model", self.model)
        if getattr(config, "embedding_std", None):
            for module in self.model.modules():
                if isinstance(module, nn.Embedding):
                    init.normal_(module.weight, std=config.embedding_std)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) ids and mask → (B, L, D_context); states of padding are 0, also where all of a row is padding."""
        if self.windows is not None and (attention_mask.sum(dim=1) > self.windows.length).any():
            return self.windows.encode(self._encode, input_ids, attention_mask)
        return self._encode(input_ids, attention_mask).masked_fill(~attention_mask.bool()[:, :, None], 0.0)

    def _encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state
