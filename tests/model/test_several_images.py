"""Samples of several images: order, masks, limits, and that one image in a list is one image."""

import json

import pytest
import torch
from conftest import VIT, tiny_captioner
from PIL import Image

from captioner.adopt.vocabulary import train_tokenizer
from captioner.base import DataSettings
from captioner.data import CaptionDataset, Collator, load_split
from captioner.explain import AttributionError, attribute
from captioner.model import MODES, Captioner, CaptionerProcessor, ImageSettings

SIZE = VIT["image_size"]
WORDS = "the red circle is left of a blue star anna sees one and then another"


@pytest.fixture(scope="module")
def processor():
    return CaptionerProcessor(ImageSettings(SIZE, SIZE), train_tokenizer([WORDS] * 2, kind="word"), max_images=3)


def photo(colour="red"):
    return Image.new("RGB", (SIZE, SIZE), colour)


def several(samples=2, images=3, seed=0):
    return torch.randn(samples, images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def captioner(*mode, **options):
    return tiny_captioner(*mode, max_images=3, **options)


def test_one_image_in_a_list_is_the_plain_image(processor):
    plain = processor(images=[photo(), photo("blue")])
    listed = processor(images=[[photo()], [photo("blue")]])
    assert plain.keys() == listed.keys()
    torch.testing.assert_close(plain["pixel_values"], listed["pixel_values"], rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_one_place_is_one_image(mode):
    model, pixels = captioner(*mode), several(images=1)
    ids = torch.tensor([[1, 4, 5]] * 2)
    plain = model(pixel_values=pixels[:, 0], decoder_input_ids=ids).logits
    placed = model(pixel_values=pixels, decoder_input_ids=ids).logits
    torch.testing.assert_close(plain, placed, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_company_and_padding_never_change_a_sample(mode):
    model, pixels, ids = captioner(*mode), several(), torch.tensor([[1, 4, 5]] * 2)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    together = model(pixel_values=pixels, image_mask=mask, decoder_input_ids=ids).logits
    first = model(pixel_values=pixels[:1], decoder_input_ids=ids[:1]).logits
    second = model(pixel_values=pixels[1:, 0], decoder_input_ids=ids[:1]).logits
    torch.testing.assert_close(together, torch.cat([first, second]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_images_counts(mode):
    model, pixels, ids = captioner(*mode), several(1), torch.tensor([[1, 4, 5]])
    torch.nn.init.normal_(model.encoder.image_places.weight)
    forward = model(pixel_values=pixels, decoder_input_ids=ids).logits
    backward = model(pixel_values=pixels.flip(1), decoder_input_ids=ids).logits
    assert (forward - backward).abs().max() > 1e-3


def test_states_of_images_come_one_after_the_other_each_with_its_place():
    model, pixels = captioner(), several()
    states = model.encode(pixel_values=pixels).states["image"].unflatten(1, (3, -1))
    plain = tiny_captioner()
    plain.load_state_dict(model.state_dict(), strict=False)
    for place in range(3):
        alone = plain.encode(pixel_values=pixels[:, place]).states["image"]
        expected = alone + model.encoder.image_places.weight[place]
        torch.testing.assert_close(states[:, place], expected, rtol=1e-4, atol=1e-5)


def test_batches_mix_numbers_of_images_and_lack_some(processor):
    batch = processor(images=[[photo(), photo("blue")], photo("green"), None, [None, photo()]])
    assert batch["pixel_values"].shape == (4, 2, 3, SIZE, SIZE)
    assert batch["image_mask"].tolist() == [[True, True], [True, False], [False, False], [False, True]]


def test_images_beyond_the_limit_are_left_out_with_one_warning(processor):
    own = CaptionerProcessor(processor.image_settings, processor.tokenizer, max_images=2)
    message = r"a sample has 4 images, but only the first 2 are read \(`max_images`\)"
    with pytest.warns(UserWarning, match=message) as seen:
        batch = own(images=[[photo(), photo("blue"), photo("green"), photo("green")]] * 3)
    assert len(seen) == 1
    expected = own(images=[[photo(), photo("blue")]] * 3)["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected, rtol=0, atol=0)


def test_more_images_than_places_say_what_to_change():
    with pytest.raises(ValueError, match="a sample has 3 images, but `max_images` is 1; raise it or leave some out"):
        tiny_captioner().encode(pixel_values=several())


def test_a_captioner_of_several_images_is_saved_and_generates(processor, tmp_path):
    model = captioner(context_encoder=None, decoder={"vocab_size": len(processor.tokenizer)})
    model.config.eos_token_id = processor.eos_token_id
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reader = Captioner.from_pretrained(tmp_path).eval(), CaptionerProcessor.from_pretrained(tmp_path)
    assert reader.to_dict() == processor.to_dict()
    batch = reader(images=[[photo(), photo("blue")], photo()])
    options = {"num_beams": 2, "max_new_tokens": 4}
    assert torch.equal(model.generate(**batch, **options), again.generate(**batch, **options))


def test_gradients_reach_the_places(processor):
    model = captioner(context_encoder=None)
    labels = torch.tensor([[4, 5, 2]] * 2)
    model(pixel_values=several(), labels=labels).loss.backward()
    assert model.encoder.image_places.weight.grad.abs().sum(dim=1).min() > 0


def test_a_table_gives_lists_of_images(processor, tmp_path):
    for name in ("a", "b"):
        photo().save(tmp_path / f"{name}.png")
    rows = [{"images": ["a.png", "b.png"], "captions": ["one"]}, {"images": ["b.png"], "captions": ["another"]}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = load_split(DataSettings(source="table", path=str(tmp_path)), "train")
    batch = Collator(processor, modalities=["image"])(list(map(CaptionDataset(samples).__getitem__, range(2))))
    assert batch["pixel_values"].shape == (2, 2, 3, SIZE, SIZE)
    assert batch["image_mask"].tolist() == [[True, True], [True, False]]


def test_augmented_images_keep_their_places(processor):
    samples = [{"image": [photo(), photo("blue")], "captions": ["one"], "id": "0", "index": 0, "epoch": 0}]
    plain = Collator(processor, modalities=["image"])(samples)
    augmented = Collator(processor, augment={"hflip": 1.0}, modalities=["image"])(samples)
    torch.testing.assert_close(plain["pixel_values"], augmented["pixel_values"], atol=0.02, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_every_image_has_its_own_map_and_together_they_are_the_images_share(mode, processor):
    model = captioner(*mode, context_encoder=None, decoder={"vocab_size": len(processor.tokenizer)})
    found = attribute(model, processor, "the red circle", [photo(), photo("blue")])
    maps = torch.stack([found.heat(image) for image in range(2)])
    assert maps.shape == (2, 3, 2, 2)
    balance = found.balance()
    torch.testing.assert_close(maps.sum(dim=(0, 2, 3)), balance["patches"])
    torch.testing.assert_close(balance["patches"] + balance["prefix"], found.shares()["image"])
    with pytest.raises(AttributionError, match=r"`image` must lie in 0…1, but is 2"):
        found.heat(2)


def test_the_caption_command_reads_lists_of_images(processor, tmp_path):
    from captioner.bulk import caption

    model = captioner(context_encoder=None, decoder={"vocab_size": len(processor.tokenizer)})
    for name, colour in (("a", "red"), ("b", "blue")):
        photo(colour).save(tmp_path / f"{name}.png")
    rows = [{"images": ["a.png", "b.png"]}, {"images": ["b.png"]}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(caption(str(tmp_path / "list.jsonl"), (model, processor), beams=1, max_new_tokens=4))
    batch = processor(images=[[photo(), photo("blue")], photo("blue")])
    expected = processor.batch_decode(model.generate(**batch, max_new_tokens=4))
    assert [record["image"] for record in found] == ["a.png, b.png", "b.png"]
    assert [record["caption"] for record in found] == expected
