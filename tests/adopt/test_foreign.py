"""Captioners saved by transformers become ours: the same logits, captions, pixels, special tokens and files."""

import json

import pytest
import torch
from adopted import CAPTIONERS, END, LETTERS, SIZE, Adopted, photos, save, token_ids
from transformers import AutoImageProcessor, BlipProcessor
from typer.testing import CliRunner

from captioner import Captioner, CaptionerProcessor, load
from captioner.adopt import AdoptError
from captioner.adopt.foreign import image_settings
from captioner.cli.main import app
from captioner.search import SearchOptions, search


@pytest.fixture(scope="module", params=CAPTIONERS)
def adopted(request, tmp_path_factory):
    return Adopted(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def vit_gpt2(tmp_path_factory):
    return Adopted("vit-gpt2", tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def blip_captioner(tmp_path_factory):
    return Adopted("blip", tmp_path_factory.mktemp("one"))


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
    options = ["--max-new-tokens", "10", "--force-words", "dog"]  # random weights say what no word stands for
    result = CliRunner().invoke(
        app, ["caption", str(tmp_path / "photo.png"), "--model", str(blip_captioner.directory), *options]
    )
    assert result.exit_code == 0, result.output
    word = blip_captioner.tokenizer("dog", add_special_tokens=False)["input_ids"]
    found = search(
        blip_captioner.ours,
        blip_captioner.ours.encode(blip_captioner.pixels[:1]),
        SearchOptions(num_beams=3, max_new_tokens=10, force_words_ids=[word]),
    )
    said = blip_captioner.processor.decode(found[0][0].ids)
    assert "dog" in said
    assert said in result.stdout


def test_one_of_ours_without_its_processor_is_told_so(vit_gpt2, tmp_path):
    vit_gpt2.ours.save_pretrained(tmp_path)
    with pytest.raises(AdoptError, match="save both the model and its processor"):
        load(tmp_path)
