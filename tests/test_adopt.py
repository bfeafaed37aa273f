"""Captioners saved by transformers become ours: parity with what they were, on tiny random weights of each family."""

import json
from string import ascii_lowercase

import numpy as np
import pytest
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
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    DeiTConfig,
    DeiTImageProcessor,
    GPT2Config,
    GPT2Tokenizer,
    RobertaConfig,
    SwinConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)
from typer.testing import CliRunner

from captioner import Captioner, CaptionerProcessor, load
from captioner.adopt import DEFAULT_MODEL, AdoptError, shipped_names
from captioner.cli import app
from captioner.families import FamilyError
from captioner.foreign import ForeignError, image_settings

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


@pytest.fixture(scope="module", params=CAPTIONERS)
def adopted(request, tmp_path_factory):
    return Adopted(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def vit_gpt2(tmp_path_factory):
    return Adopted("vit-gpt2", tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def blip_captioner(tmp_path_factory):
    return Adopted("blip", tmp_path_factory.mktemp("one"))


def photos(count=4):
    shapes = [(41, 67, 3), (80, 33, 3), (32, 32, 3), (20, 25, 3)]
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes[:count]]


def token_ids(adopted, rows=4, length=9):
    ids = torch.randint(4, adopted.ours.config.decoder.vocab_size, (rows, length))
    ids[:, 0] = adopted.ours.config.decoder_start_token_id
    return ids


def test_logits_stay_what_they_were(adopted):
    ids = token_ids(adopted)
    theirs = adopted.their_logits(ids)
    assert theirs.std() > 0.5
    torch.testing.assert_close(adopted.our_logits(ids), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("beams", [1, 5])
def test_searches_find_the_same_captions(adopted, beams):
    options = {"num_beams": beams, "max_new_tokens": 12, "do_sample": False}
    if adopted.processor.pad_token_id != adopted.processor.eos_token_id:  # trained decoders never say padding;
        options["suppress_tokens"] = [adopted.processor.pad_token_id]  # RoBERTa's does not count it as a position
    theirs = adopted.theirs.generate(pixel_values=adopted.pixels, **options)
    ours = adopted.ours.generate(adopted.pixels, **options)
    assert torch.equal(ours, theirs)
    assert len({tuple(row) for row in ours.tolist()}) > 1
    texts = adopted.tokenizer.batch_decode(theirs, skip_special_tokens=True)
    assert adopted.processor.batch_decode(ours) == [text.strip() for text in texts]


def test_photos_become_the_same_pixels(adopted):
    for photo, pixels in zip(photos(), adopted.pixels, strict=True):
        assert torch.equal(adopted.images(photo, return_tensors="pt")["pixel_values"][0], pixels)


def test_it_is_one_of_ours_when_saved(adopted, tmp_path):
    adopted.ours.save_pretrained(tmp_path)
    adopted.processor.save_pretrained(tmp_path)
    model, processor = load(tmp_path)
    assert isinstance(model, Captioner)
    assert isinstance(processor, CaptionerProcessor)
    ids = token_ids(adopted)
    with torch.no_grad():
        again = model(processor(images=photos())["pixel_values"], decoder_input_ids=ids).logits
    assert torch.equal(again, adopted.our_logits(ids))
    assert model.generation_config.to_diff_dict() == adopted.ours.generation_config.to_diff_dict()


# Where transformers ignores masks


def test_a_missing_image_is_not_attended_to_though_transformers_does(vit_gpt2):
    ids, there = token_ids(vit_gpt2), torch.tensor([False, True, True, True])
    seen, masked = vit_gpt2.our_logits(ids), vit_gpt2.our_logits(ids, image_mask=there)
    with torch.no_grad():
        looked = vit_gpt2.theirs.encoder(vit_gpt2.pixels)
        mask = there[:, None].expand(looked.last_hidden_state.shape[:2])
        theirs = vit_gpt2.theirs(encoder_outputs=looked, attention_mask=mask, decoder_input_ids=ids).logits
        blind = vit_gpt2.ours.decode(ids[:1], None).logits
    torch.testing.assert_close(theirs, seen, atol=1e-4, rtol=0)
    torch.testing.assert_close(masked[1:], seen[1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(masked[:1], blind, atol=1e-5, rtol=0)
    assert (masked[0] - seen[0]).abs().max() > 0.1


# Special tokens


def test_blip_starts_with_bos_and_ends_with_sep(blip_captioner):
    text, ours = blip_captioner.theirs.config.text_config, blip_captioner.ours.config
    assert ours.decoder_start_token_id == text.bos_token_id
    assert ours.eos_token_id == text.sep_token_id != text.eos_token_id
    batch = blip_captioner.processor(captions=["a red dog"])
    assert batch["decoder_input_ids"].tolist() == [[text.bos_token_id, 5, 8, 9]]
    assert batch["labels"].tolist() == [[5, 8, 9, text.sep_token_id]]


@pytest.mark.parametrize("beams", [1, 5])
def test_a_prompt_is_continued_as_blip_continues_it(blip_captioner, beams):
    prompt, options = "a photography of", {"num_beams": beams, "max_new_tokens": 8}
    blip_processor = BlipProcessor(blip_captioner.images, blip_captioner.tokenizer)
    theirs = blip_captioner.theirs.generate(
        **blip_processor(images=photos(), text=[prompt] * 4, return_tensors="pt"), **options
    )
    ours = blip_captioner.ours.generate(**blip_captioner.processor(images=photos(), prompt=prompt), **options)
    assert torch.equal(ours, theirs)
    texts = blip_captioner.processor.batch_decode(ours)
    assert texts == blip_processor.batch_decode(theirs, skip_special_tokens=True)
    assert all(text.startswith(prompt) for text in texts)


def test_a_prompt_beside_captions_is_refused(blip_captioner):
    with pytest.raises(ValueError, match="not both"):
        blip_captioner.processor(images=photos(1), captions=["a dog"], prompt="a")


def test_one_token_may_start_end_and_pad(vit_gpt2):
    batch = vit_gpt2.processor(images=photos(2), captions=["a red dog", "a"])
    assert {vit_gpt2.processor.start_token_id, vit_gpt2.processor.eos_token_id} == {END}
    assert vit_gpt2.processor.pad_token_id == vit_gpt2.ours.config.pad_token_id == END
    assert batch["labels"][1].tolist() == [LETTERS.index("a"), END, *[-100] * 8]
    assert batch["decoder_attention_mask"].sum(dim=1).tolist() == [10, 2]
    with torch.no_grad():
        ours, theirs = vit_gpt2.ours(**batch).loss, vit_gpt2.theirs(**batch).loss
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_tokenizer_names_special_tokens_that_the_model_does_not(tmp_path):
    model, images, tokenizer = CAPTIONERS["vit-bert"]()
    for config in (model.config, model.generation_config, model.config.decoder):
        config.decoder_start_token_id = config.bos_token_id = config.eos_token_id = None
    for part in (model, images, tokenizer):
        part.save_pretrained(tmp_path)
    ours, processor = load(tmp_path)
    assert (processor.start_token_id, processor.eos_token_id) == (2, 3)
    assert (ours.config.decoder_start_token_id, ours.generation_config.eos_token_id) == (2, 3)


def test_the_published_search_is_kept(tmp_path):
    theirs = save("vit-gpt2", tmp_path)
    theirs.generation_config.update(num_beams=4, max_length=9, no_repeat_ngram_size=2)
    theirs.save_pretrained(tmp_path)
    ours, processor = load(tmp_path)
    pixels = processor(images=photos())["pixel_values"]
    assert torch.equal(ours.generate(pixels), theirs.generate(pixels))
    assert ours.generation_config.num_beams == 4


# Files


def test_shards_are_read(vit_gpt2, tmp_path):
    save("vit-gpt2", tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids = token_ids(vit_gpt2)
    with torch.no_grad():
        logits = load(tmp_path)[0](vit_gpt2.pixels, decoder_input_ids=ids).logits
    assert torch.equal(logits, vit_gpt2.our_logits(ids))


def test_a_processor_and_a_half_precision_model_saved_as_blip_publishes_them(blip_captioner, tmp_path):
    blip_captioner.theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    blip_captioner.theirs.to(torch.float32)
    BlipProcessor(blip_captioner.images, blip_captioner.tokenizer).save_pretrained(tmp_path)
    model, processor = load(tmp_path, attn_implementation="eager")
    assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, "eager")
    assert load(tmp_path, dtype=torch.float32)[0].dtype == torch.float32
    assert processor.image_settings == blip_captioner.processor.image_settings


@pytest.mark.parametrize("kind", ["feature_extractor_type", "image_processor_type"])
def test_image_processors_of_old_are_read(kind, tmp_path):
    name = {"feature_extractor_type": "ViTFeatureExtractor", "image_processor_type": "BlipImageProcessor"}[kind]
    old = {kind: name, "size": SIZE, "do_resize": True, "do_normalize": True, "resample": 3}
    old |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    settings = image_settings(theirs)
    for photo in photos():
        pixels = settings.normalize(settings.fit(photo))
        assert torch.equal(theirs(photo, return_tensors="pt")["pixel_values"][0], pixels)


def test_the_command_captions_with_an_adopted_model(blip_captioner, tmp_path):
    photos(1)[0].save(tmp_path / "photo.png")
    result = CliRunner().invoke(
        app,
        ["caption", str(tmp_path / "photo.png"), "--model", str(blip_captioner.directory), "--max-new-tokens", "10"],
    )
    assert result.exit_code == 0, result.output
    said = blip_captioner.ours.generate(blip_captioner.pixels[:1], num_beams=3, max_new_tokens=10)
    assert blip_captioner.processor.decode(said[0]) in result.stdout


# What is refused


def test_without_a_model_and_without_a_network_the_error_names_what_works():
    with pytest.raises(AdoptError) as error:
        load()
    for name in (DEFAULT_MODEL, "directory", *shipped_names(), "captioner demo"):
        assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [{"model_type": "git"}, {"model_type": "nonsense"}, {"architecture": "resnet50"}])
def test_an_unsupported_architecture_is_told_what_is_supported(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdoptError) as error:
        load(tmp_path)
    for name in ("VisionEncoderDecoderModel", "BlipForConditionalGeneration", "deit or vit", "bert or gpt2"):
        assert name in str(error.value)


def test_an_unsupported_encoder_is_told_what_is_supported(tmp_path):
    VisionEncoderDecoderConfig.from_encoder_decoder_configs(SwinConfig(), gpt2()).save_pretrained(tmp_path)
    with pytest.raises(ForeignError, match="pairs 'swin' with 'gpt2'.*deit or vit"):
        load(tmp_path)


def test_another_head_of_blip_is_refused(tmp_path):
    BlipForQuestionAnswering(blip().config).save_pretrained(tmp_path)
    with pytest.raises(ForeignError, match="BlipForQuestionAnswering; .*BlipForConditionalGeneration"):
        load(tmp_path)


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_part_is_named(missing, tmp_path):
    parts = CAPTIONERS["vit-gpt2"]()
    parts[0].config.save_pretrained(tmp_path)
    for part in parts[:missing] + parts[missing + 1 :]:
        part.save_pretrained(tmp_path)
    with pytest.raises((AdoptError, ForeignError), match=("the model", "no image processor", "no tokenizer")[missing]):
        load(tmp_path)


def test_one_of_ours_without_its_processor_is_told_so(vit_gpt2, tmp_path):
    vit_gpt2.ours.save_pretrained(tmp_path)
    with pytest.raises(AdoptError, match="save both the model and its processor"):
        load(tmp_path)


def test_decoders_that_ours_cannot_express_are_refused(tmp_path):
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit(), bert(RobertaConfig, hidden_act="relu"))
    for part in (VisionEncoderDecoderModel(config), *CAPTIONERS["deit-roberta"]()[1:]):
        part.save_pretrained(tmp_path)
    with pytest.raises(FamilyError, match="'gelu', as in its head, but is 'relu'"):
        load(tmp_path)


def test_image_encoders_that_ours_cannot_express_are_refused(tmp_path):
    model = encoder_decoder(vit(hidden_act="gelu_10"), gpt2(), END, END)
    for part in (model, *CAPTIONERS["vit-gpt2"]()[1:]):
        part.save_pretrained(tmp_path)
    with pytest.raises(ForeignError, match="`hidden_act` of the image encoder .* but is 'gelu_10'"):
        load(tmp_path)


def test_an_image_processor_that_ours_cannot_follow_is_refused():
    with pytest.raises(ForeignError, match="shortest_edge"):
        image_settings(CLIPImageProcessor())
    with pytest.raises(ForeignError, match="'rescale_factor': 1.0"):
        image_settings(ViTImageProcessor(rescale_factor=1.0))
