"""Features in the place of pixels: pooled on the grid of the pictures they are of, and never confused with one."""

import pytest
import torch
from conftest import VIT, tiny_batch, tiny_captioner

from captioner.model import ImageEncoder

PORTRAIT = VIT | {"image_size": [64, 32]}


def pixels(height, width, samples=3):
    return torch.randn(samples, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(64, 32), (32, 64), (96, 32), (48, 80), (64, 64)])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("class_token", [True, False])
def test_features_are_pooled_as_the_pictures_are(height, width, size, class_token):
    encoder = VIT | {"image_size": [height, width], "class_token": class_token}
    model = tiny_captioner(image_encoder=encoder, memory={"image": {"pool": size}})
    given = pixels(height, width)
    with torch.no_grad():
        seen = model.encode(pixel_values=given).states["image"]
        stored = model.encode(pixel_values=model.encoder.image(given)).states["image"]
    assert torch.equal(stored, seen)


def test_features_of_pictures_of_another_size_are_pooled_by_that_size():
    model = tiny_captioner(image_encoder={"name": "test_resnet.r160_in1k"}, memory={"image": {"pool": 2}})
    given = pixels(192, 64)
    model.encoder.image.expect_features(192, 64)
    with torch.no_grad():
        seen = model.encode(pixel_values=given).states["image"]
        assert torch.equal(model.encode(pixel_values=model.encoder.image(given)).states["image"], seen)


@pytest.mark.parametrize("encoder", [VIT, PORTRAIT, VIT | {"embed_dim": 64, "image_size": 64}], ids=str)
def test_an_image_alone_is_no_batch_of_features_though_it_is_as_wide_as_the_encoder(encoder):
    model = tiny_captioner(image_encoder=encoder)
    height, width = model.encoder.image.picture
    says = rf"^`pixel_values` must be \(B, 3, {height}, {width}\), or stored features .*; one image goes in as"
    for shape in ((3, height, width), (3, 32, model.encoder.image.width), (3, 7, 9), (1, 5, 8)):
        with pytest.raises(ValueError, match=says):
            model.encode(pixel_values=torch.rand(shape))
        with pytest.raises(ValueError, match=says):
            model.generate(torch.rand(shape), max_new_tokens=2)
    assert model.encode(pixel_values=torch.rand(3, height, width)[None]).batch_size == 1


def test_what_could_be_either_is_refused_unless_features_are_expected():
    image = ImageEncoder(VIT | {"image_size": 32, "embed_dim": 32, "patch_size": 8, "class_token": False})
    image.picture, image._tokens = (16, 32), 16  # an encoder whose features have the shape of a picture
    with pytest.raises(ValueError, match="one image goes in as"):
        image(torch.rand(3, 16, 32))
    assert image(torch.rand(2, 16, 32)).shape == (2, 16, 32)
    image.expect_features(16, 32)
    assert image(torch.rand(3, 16, 32)).shape == (3, 16, 32)


def test_counting_the_tokens_of_an_encoder_changes_nothing_about_it():
    image = ImageEncoder({"name": "test_resnet.r160_in1k"}).train()
    image.backbone.layer1.eval()
    before = {name: own.clone() for name, own in image.state_dict().items()}
    modes = [module.training for module in image.modules()]
    features = image(torch.rand(2, 3, 160, 160))
    image.load_state_dict(before)
    assert image(features.detach()) is not None
    assert [module.training for module in image.modules()] == modes
    assert all(torch.equal(before[name], own) for name, own in image.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_take_the_precision_of_the_weights(dtype):
    encoders = {"sound": {"feature_size": 6}, "boxes": {"feature_size": 32, "max_length": 9, "positions": True}}
    model = tiny_captioner(encoders=encoders).to(dtype)
    inputs, ids = tiny_batch(samples=2)
    inputs |= {"sound_values": torch.rand(2, 3, 6), "boxes_values": torch.rand(2, 4, 32)}
    given = inputs | {name: own.to(dtype) for name, own in inputs.items() if own.is_floating_point()}
    with torch.no_grad():
        expected = model(**given, decoder_input_ids=ids).logits
        assert torch.equal(model(**inputs, decoder_input_ids=ids).logits, expected)
        features = model.encoder.image(inputs["pixel_values"])
        stored = model(**inputs | {"pixel_values": features.float()}, decoder_input_ids=ids).logits
    assert torch.equal(stored, expected)
    assert expected.dtype == dtype


def test_whole_numbers_are_never_taken_for_pixels():
    with pytest.raises(RuntimeError), torch.no_grad():
        tiny_captioner().encode(pixel_values=torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
