"""Captioners as transformers saves them, on tiny random weights of each family, and as we load them."""

from string import ascii_lowercase

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    DeiTConfig,
    DeiTImageProcessor,
    GPT2Config,
    GPT2Tokenizer,
    RobertaConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from captioner import load

SIZE = 32
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photography", "of", "red", "dog", "##s", ".", "on"]
LETTERS = ["<|endoftext|>", "Ġ", *ascii_lowercase]
END = 0  # <|endoftext|>: the one special token of GPT-2, which the public ViT-GPT2 starts, ends and pads with


def vit(width=32, config=ViTConfig, **options):
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 44, "image_size": SIZE}
    return config(hidden_size=width, patch_size=8, **shape, **options)


def gpt2(**options):
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 30, "vocab_size": len(LETTERS)}
    return GPT2Config(**shape, bos_token_id=END, eos_token_id=END, **options)


def bert(config=BertConfig, **options):
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    return config(**shape, max_position_embeddings=30, vocab_size=len(WORDS), pad_token_id=0, **options)


def encoder_decoder(encoder, decoder, start, end, pad=0):
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = start, end, pad
    return VisionEncoderDecoderModel(config)


def blip(width=32, **options):
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    special = {"bos_token_id": len(WORDS), "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 2}
    text |= special | {"vocab_size": len(WORDS) + 2, "max_position_embeddings": 30}
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vit(width).to_dict(), **options))


def square(kind):
    return kind(size={"height": SIZE, "width": SIZE})


def deit_processor():
    return DeiTImageProcessor(size={"height": 36, "width": 36}, crop_size={"height": SIZE, "width": SIZE})


def gpt2_tokenizer():
    return GPT2Tokenizer(vocab={token: i for i, token in enumerate(LETTERS)}, merges=[])


def bert_tokenizer():
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})


# Family → its model, its image processor, its tokenizer.
CAPTIONERS = {
    "vit-gpt2": lambda: (encoder_decoder(vit(), gpt2(), END, END), square(ViTImageProcessor), gpt2_tokenizer()),
    "wide-vit-gpt2": lambda: (
        encoder_decoder(
            vit(48, qkv_bias=False, hidden_act="gelu_new"),
            gpt2(n_inner=40, tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True),
            END,
            END,
        ),
        square(ViTImageProcessor),
        gpt2_tokenizer(),
    ),
    "deit-gpt2": lambda: (
        encoder_decoder(vit(config=DeiTConfig), gpt2(scale_attn_weights=False), END, END),
        deit_processor(),
        gpt2_tokenizer(),
    ),
    "vit-bert": lambda: (encoder_decoder(vit(24), bert(), 2, 3), square(ViTImageProcessor), bert_tokenizer()),
    "deit-roberta": lambda: (
        encoder_decoder(vit(config=DeiTConfig), bert(RobertaConfig, tie_word_embeddings=False), 2, 3),
        deit_processor(),
        bert_tokenizer(),
    ),
    "blip": lambda: (blip(), square(BlipImageProcessor), bert_tokenizer()),
    "wide-blip": lambda: (blip(48), square(BlipImageProcessor), bert_tokenizer()),
    "narrow-blip": lambda: (blip(24), square(BlipImageProcessor), bert_tokenizer()),
}


def spread(model, seed=1):
    """Weights so large that captions differ, and nothing left at 0 or 1, so that a forgotten one shows."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.4)
        else:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def save(name, directory, **options):
    model, images, tokenizer = CAPTIONERS[name]()
    spread(model).save_pretrained(directory, **options)
    images.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return type(model).from_pretrained(directory, dtype=torch.float32)


class Adopted:
    """A captioner as transformers loads it from `directory`, and as we do."""

    def __init__(self, name, directory):
        self.directory = directory
        self.theirs = save(name, directory)
        self.ours, self.processor = load(directory)
        self.images = AutoImageProcessor.from_pretrained(directory)
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.pixels = self.processor(images=photos())["pixel_values"]

    def their_logits(self, ids):
        name = "input_ids" if "blip" in self.theirs.config.model_type else "decoder_input_ids"
        with torch.no_grad():
            return self.theirs(pixel_values=self.pixels, **{name: ids}).logits

    def our_logits(self, ids, **inputs):
        with torch.no_grad():
            return self.ours(pixel_values=self.pixels, decoder_input_ids=ids, **inputs).logits


def photos(count=4):
    shapes = [(41, 67, 3), (80, 33, 3), (32, 32, 3), (20, 25, 3)]
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes[:count]]


def token_ids(adopted, rows=4, length=9):
    ids = torch.randint(4, adopted.ours.config.decoder.vocab_size, (rows, length))
    ids[:, 0] = adopted.ours.config.decoder_start_token_id
    return ids
