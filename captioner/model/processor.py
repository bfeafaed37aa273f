"""From photos, contexts and captions to tensors, and from token ids back to text.

Knows batches and special tokens; knows nothing about weights, datasets or runs.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, BatchFeature
from transformers import PreTrainedTokenizerBase as AnyTokenizer
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import PushToHubMixin

from .configuration import CaptionerConfig, input_names
from .fitting import misfits
from .image_files import MAX_PIXELS
from .image_settings import ImageSettings
from .images import as_batch, as_list, each, open_image, stack
from .modality_inputs import ModalityInput, as_samples
from .processor_files import CONTEXT_FOLDER, read_parts, write_state
from .text_inputs import decode_caption, encode_captions, encode_contexts, encode_prompt, first_given


class CaptionerProcessor(PushToHubMixin):
    """Images, contexts and captions to the inputs of `Captioner.forward`, and ids back to text.

    Args:
        image_settings: None for a captioner that only reads.
        tokenizer: of captions. They get one start token and one EOS from here, nothing that it adds itself;
            names of special tokens in their text are spelt like any other word.
        context_tokenizer: of contexts, which get the special tokens that it adds itself; None: `tokenizer`.
        max_caption_length: T at most, EOS included; longer captions are cut before it.
        max_context_length: L at most, special tokens included; longer ones are cut before the closing ones.
        start_token_id: None: the tokenizer's bos, else cls, else eos.
        eos_token_id: None: the tokenizer's eos, else sep.
        pad_token_id: None: the tokenizer's pad, else eos.
        max_images: the most images of a sample; further ones are left out.
        further: further modalities by name.

    Attributes:
        max_pixels: that a photo may have; more are refused before they are decoded. Not saved.

    Raises:
        ValueError: a tokenizer without an end token, or a length below 1.
    """

    _auto_class: str | None = None
    max_pixels: int = MAX_PIXELS

    def __init__(
        self,
        image_settings: ImageSettings | None,
        tokenizer: AnyTokenizer,
        context_tokenizer: AnyTokenizer | None = None,
        max_caption_length: int = 40,
        max_context_length: int = 64,
        start_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        max_images: int = 1,
        further: Mapping[str, ModalityInput] | None = None,
    ) -> None:
        if min(max_caption_length, max_context_length, max_images) < 1:
            raise ValueError(
                "`max_caption_length`, `max_context_length` and `max_images` must be at least 1, "
                f"but are {max_caption_length}, {max_context_length} and {max_images}"
            )
        self.image_settings = image_settings
        self.tokenizer = tokenizer
        self.context_tokenizer = context_tokenizer
        self.max_caption_length = max_caption_length
        self.max_context_length = max_context_length
        self.max_images = max_images
        self.further = dict(further or {})
        self._warned: set[str] = set()
        eos = self.eos_token_id = first_given(eos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id)
        if eos is None:
            raise ValueError("the caption tokenizer has neither eos nor sep token; set `tokenizer.eos_token`")
        self.start_token_id = first_given(start_token_id, tokenizer.bos_token_id, tokenizer.cls_token_id, eos)
        self.pad_token_id = first_given(pad_token_id, tokenizer.pad_token_id, eos)

    def __call__(
        self,
        images: Any = None,
        context: str | Sequence[str | None] | None = None,
        captions: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        prompt: str | None = None,
        return_tensors: str | None = "pt",
        **further: Any,
    ) -> BatchFeature:
        """Make a batch; what is not given has no key.

        Args:
            images: one or B of what `open_image` reads; None in a list is an absent image. A sample with several
                images is a list in the list.
            context: one or B texts; None in a list, or blank text, is an absent context.
            captions: one caption, B, or B lists of G each.
            prompt: how the caption of every sample starts, for `generate`; not together with `captions`.
            return_tensors: as in transformers.
            further: further modalities by name, one or a list of B of what `ModalityInput.read` reads, None where a
                sample lacks it.

        Returns:
            `pixel_values` (B, 3, H, W) float32, zero where absent; `image_mask` (B,), only if one is absent; (B, I,
            3, H, W) and (B, I) where a sample has several images;
            `context_input_ids`, `context_attention_mask` (B, L), the mask False throughout where absent;
            `NAME_values` (B, S, …) and `NAME_mask` (B, S) of further modalities;
            `decoder_input_ids`, `decoder_attention_mask`, `labels` (N, T); of a prompt, only the first, (B, T).
            Masks are bool, True where real.

        Raises:
            ImageError, FeatureError: an image or features that cannot be read.
            ValueError: nothing given, a modality that this processor does not know, batch sizes that differ, an
                unequal number of captions per image, or captions beside a prompt.
        """
        given = {"images": images, "context": context, "captions": captions}
        given = {name: as_batch(value) for name, value in given.items() if value is not None}
        given |= {name: as_samples(value) for name, value in further.items() if value is not None}
        if len({len(values) for values in given.values()}) != 1:
            found = ", ".join(f"{len(values)} {name}" for name, values in given.items()) or "nothing"
            raise ValueError(
                f"give images, context or captions, the same number of each, but there is {found}; "
                "several captions of one image go in a list of their own"
            )
        makers = {"images": self._images, "context": self._contexts, "captions": self._captions}
        makers |= {name: partial(self._modality, name) for name in self.further}
        unknown = sorted(set(given) - set(makers))
        if unknown:
            raise ValueError(f"this processor makes no {', '.join(unknown)}; it takes {', '.join(makers)}")
        tensors = {key: value for name, values in given.items() for key, value in makers[name](values).items()}
        if prompt is not None:
            if "captions" in given:
                raise ValueError("give `captions` to train on or a `prompt` to continue, not both")
            ids = encode_prompt(self.tokenizer, prompt, self.start_token_id)
            tensors["decoder_input_ids"] = ids.expand(len(next(iter(given.values()))), -1)
        return BatchFeature(tensors, tensor_type=return_tensors)

    def _images(self, images: list[Any]) -> dict[str, Tensor]:
        settings = self.image_settings
        if settings is None:
            if any(image is not None for image in images):
                raise ValueError("this processor has no `image_settings`, so it takes no images; leave them out")
            return {}
        fitted = [each(settings.fit, self.open_images(image)) for image in images]
        pixels, mask = stack(fitted, torch.zeros(3, settings.height, settings.width, dtype=torch.uint8))
        pixels = settings.normalize(pixels)
        if mask.all():
            return {"pixel_values": pixels}
        return {"pixel_values": pixels * mask[..., None, None, None], "image_mask": mask}

    def open_images(self, image: Any) -> Any:
        """The image or images of a sample as RGB, as many as it may have; None stays None.

        Raises:
            ImageError: one that cannot be read, or that has more than `max_pixels`.
        """
        return each(partial(open_image, most=self.max_pixels), self.cut_images(image))

    def cut_images(self, image: Any) -> Any:
        """The image or images of a sample without those beyond `max_images`."""
        images = as_list(image)
        if len(images) <= self.max_images:
            return image
        self._warn_of_cut(f"a sample has {len(images)} images", "max_images", self.max_images)
        return images[: self.max_images]

    def _warn_of_cut(self, found: str, limit: str, most: int) -> None:
        """Warn that something was cut; once for each limit, since data sets are long."""
        if limit not in self._warned:
            self._warned.add(limit)
            text = f"{found}, but only the first {most} are read (`{limit}`); raise it if the rest matters"
            warnings.warn(f"{text}. This is said once.", stacklevel=3)

    def _modality(self, name: str, values: list[Any]) -> dict[str, Tensor]:
        own = self.further[name]
        rows = [None if value is None else own.read(value, name) for value in values]
        most = own.max_length
        longest = max((len(row) for row in rows if row is not None), default=0)
        if most is not None and longest > most:
            self._warn_of_cut(f"a sample has `{name}` of length {longest}", f"encoders.{name}.max_length", most)
            rows = [None if row is None else row[:most] for row in rows]
        batch = own.batch(rows)
        return {} if batch is None else dict(zip(input_names(name), batch, strict=True))

    def _contexts(self, contexts: list[str | None]) -> dict[str, Tensor]:
        most = self.max_context_length
        tensors, cut = encode_contexts(self.context_tokenizer or self.tokenizer, contexts, most)
        if cut is not None:
            self._warn_of_cut(f"a context has {cut} tokens", "max_context_length", most)
        return tensors

    def _captions(self, captions: list[str | Sequence[str]]) -> dict[str, Tensor]:
        ids = (self.start_token_id, self.eos_token_id, self.pad_token_id)
        return encode_captions(self.tokenizer, [as_batch(row) for row in captions], self.max_caption_length, *ids)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Ids (T,) to text: what stands between start token and first EOS, without special tokens."""
        return decode_caption(self.tokenizer, ids, self.start_token_id, self.eos_token_id)

    def batch_decode(self, ids: Sequence[Sequence[int]] | Tensor) -> list[str]:
        """Ids (N, T) to N texts, each as `decode` gives it; labels are read as well as generated ids."""
        return [self.decode(row) for row in ids]

    @property
    def silent_ids(self) -> list[int]:
        """Ids that leave no trace in a caption's text, the one that ends it apart: unknown, padding, start, …"""
        return sorted({*self.tokenizer.all_special_ids, self.start_token_id, self.pad_token_id} - {self.eos_token_id})

    def save_pretrained(self, directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write the settings, the caption tokenizer and, in a folder of its own, the context tokenizer.

        `kwargs` are those that `push_to_hub` hands to every class; none matters here.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(directory)
        if self.context_tokenizer is not None:
            self.context_tokenizer.save_pretrained(directory / CONTEXT_FOLDER)
        for name, own in self.further.items():
            if own.extractor is not None:
                own.extractor.save_pretrained(directory / name)
        state = self.to_dict()
        if self._auto_class is not None:
            custom_object_save(self, directory, config=state)
        write_state(directory, state)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """From now on, saving also writes the code of this class, as transformers does; see `remote_code.py`."""
        cls._auto_class = auto_class

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tokenizers, as it stands in `processor_config.json`."""
        return {
            "processor_class": type(self).__name__,
            "image_settings": None if self.image_settings is None else asdict(self.image_settings),
            "context_tokenizer": None if self.context_tokenizer is None else CONTEXT_FOLDER,
            "max_caption_length": self.max_caption_length,
            "max_context_length": self.max_context_length,
            "start_token_id": self.start_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "max_images": self.max_images,
            "further": {name: own.to_dict(name) for name, own in self.further.items()},
        }

    @classmethod
    def from_pretrained(
        cls, directory_or_hub_id: str | os.PathLike, subfolder: str = "", **hub_kwargs: Any
    ) -> "CaptionerProcessor":
        """Read back what `save_pretrained` or `push_to_hub` wrote.

        Args:
            directory_or_hub_id: a directory, or a repository on the Hub.
            subfolder: where in it.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, … as in transformers.

        Raises:
            OSError: no such directory or repository, or no `processor_config.json` in it.
            ValueError: a `processor_config.json` of another class, or one that cannot be read.
        """
        return cls(**read_parts(str(directory_or_hub_id), subfolder, hub_kwargs, cls.__name__))

    def check_model(self, config: CaptionerConfig) -> None:
        """Make sure that a model of this shape can be fed by this processor.

        Raises:
            ValueError: everything that does not fit, and what to change.
        """
        problems = misfits(self, config)
        if problems:
            raise ValueError(f"the processor does not fit the model: {'; '.join(problems)}")


AutoProcessor.register(CaptionerConfig, CaptionerProcessor, exist_ok=True)
