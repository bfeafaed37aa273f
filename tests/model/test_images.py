"""Any image that Pillow reads becomes upright RGB, and image settings make of it what timm and transformers make."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from samples import encode, photo

from captioner import CaptionerProcessor
from captioner.model import ImageError, ImageSettings, open_image
from captioner.model import image_settings as module
from captioner.model.images import to_rgb

RED = (200, 10, 10)


# Images


def test_every_plain_mode_becomes_rgb():
    for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = photo().convert("YCbCr" if mode == "LAB" else mode) if mode != "LAB" else Image.new("LAB", (53, 37))
        assert (to_rgb(image).mode, to_rgb(image).size) == ("RGB", (53, 37))
    assert to_rgb(Image.new("L", (1, 1), 7)).getpixel((0, 0)) == (7, 7, 7)
    assert to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)


def test_transparency_is_shown_on_white():
    clear, half = Image.new("RGBA", (1, 1), (*RED, 0)), Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    palette = Image.new("P", (1, 1), 3)
    palette.putpalette([9] * 768)
    for image in (clear, Image.new("LA", (1, 1), (0, 0)), clear.convert("PA"), clear.convert("RGBa")):
        assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(half).getpixel((0, 0)) == (127, 127, 127)
    for image, key in ((palette, 3), (Image.new("L", (1, 1), 7), 7), (Image.new("RGB", (1, 1), RED), RED)):
        assert open_image(encode(image, transparency=key)).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(palette).getpixel((0, 0)) == (9, 9, 9)


def test_deep_greys_are_scaled_and_not_clipped():
    sixteen = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert np.asarray(open_image(encode(sixteen)))[0, :, 0].tolist() == [0, 100, 255]
    cases = [
        ([0, 100, 255], np.int32, [0, 100, 255]),
        ([-5, 25700, 65535], np.int32, [0, 100, 255]),
        ([0, 500_000, 1_000_000], np.int32, [0, 128, 255]),
        ([0, 0.5, 1], np.float32, [0, 128, 255]),
        ([0, 100, 255], np.float32, [0, 100, 255]),
        ([np.nan, np.inf, 1], np.float32, [0, 0, 255]),
        ([0, 0, 0], np.float32, [0, 0, 0]),
    ]
    for values, kind, expected in cases:
        grey = np.asarray(to_rgb(Image.fromarray(np.array([values], dtype=kind))))
        assert grey[0].tolist() == [[value] * 3 for value in expected]
    for mode in ("I;16L", "I;16B"):
        assert to_rgb(Image.new(mode, (1, 1))).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF's number to the number of PIL's transposition
    upright = photo() if orientation == 1 else photo().transpose(Image.Transpose(turns[orientation]))
    once = open_image(encode(photo(), exif=exif))
    assert np.array_equal(once, upright)
    assert np.array_equal(to_rgb(once), upright)


def test_broken_exif_does_not_lose_the_photo():
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        assert open_image(encode(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")).size == (
            53,
            37,
        )


def test_only_an_upright_rgb_image_in_memory_is_returned_itself(tmp_path):
    plain = photo()
    assert to_rgb(plain) is plain
    plain.save(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as file:
        assert type(to_rgb(file)) is Image.Image


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:])
    red, green, blue = open_image(data).getpixel((0, 0))
    assert (red > 250, green < 5, blue < 5) == (True, True, True)


def test_paths_bytes_dicts_arrays_and_tensors_give_the_same_image(tmp_path):
    image, path = photo(), tmp_path / "photo.png"
    data = encode(image)
    path.write_bytes(data)
    array = np.asarray(image)
    tensor = torch.tensor(array)
    sources = [image, path, str(path), data, bytearray(data), array, array.transpose(2, 0, 1), array / 255]
    sources += [
        array[:, ::-1].copy()[:, ::-1],
        tensor,
        tensor.permute(2, 0, 1),
        tensor.permute(2, 0, 1) / 255,
    ]
    sources += [
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
        {"bytes": data, "path": "gone"},
    ]
    for source in sources:
        assert np.array_equal(open_image(source), image)
    grey = np.arange(30, dtype=np.uint8).reshape(5, 6)
    for source in (grey, grey[None], grey[..., None], torch.tensor(grey), torch.tensor(grey)[None]):
        assert np.array_equal(open_image(source), np.stack([grey] * 3, -1))
    assert open_image(np.zeros((2, 2, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(torch.ones(3, 2, 2, dtype=torch.bfloat16)).getpixel((0, 0)) == (255, 255, 255)


def test_where_both_ends_could_be_channels_arrays_end_and_tensors_start_with_them():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert open_image(pixels).size == (5, 3)
    assert open_image(torch.tensor(pixels)).size == (3, 5)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_truncated_file_is_an_image_error_wherever_it_is_cut(form):
    data = encode(photo(), form)
    for length in (0, 1, 20, len(data) // 4, len(data) // 2):
        with pytest.raises(ImageError, match=f"^cannot read the image in {length} bytes: .+") as caught:
            open_image(data[:length])
        assert "\n" not in str(caught.value)


def test_every_failure_names_the_source_and_the_reason(tmp_path):
    text = tmp_path / "note.jpg"
    text.write_text("not a photo")
    floats = "floats must lie in 0…1, but go from 0 to 255; rescale them"
    cases = [
        (str(tmp_path / "gone.jpg"), f"'{tmp_path}/gone.jpg': No such file or directory"),
        (tmp_path, f"'{tmp_path}': it is a folder"),
        (text, f"'{text}': it is not in an image format that Pillow reads"),
        ({"bytes": None, "path": str(text)}, f"'{text}': it is not in an image format that Pillow reads"),
        (b"", "in 0 bytes: the file is empty (0 bytes); copy it again"),
        (None, "given as NoneType: give a PIL image, a path, bytes, an array or a tensor"),
        (7, "given as int: give a PIL image, a path, bytes, an array or a tensor"),
        (np.array([[0.0, 255.0]]), f"given as ndarray of shape (1, 2): {floats}"),
        (
            np.array([[np.nan]]),
            "given as ndarray of shape (1, 1): floats must lie in 0…1, but some are NaN or infinite;",
        ),
        (
            np.zeros((2, 2), np.int64),
            "given as ndarray of shape (2, 2): numbers must be uint8 or floats in 0…1, but ",
        ),
        (torch.zeros(2), "given as Tensor of shape (2,): an image has two or three dimensions"),
        (torch.zeros(5, 6, 7), "(5, 6, 7): the first or the last dimension must be 1, 3 or 4 channels"),
    ]
    for source, message in cases:
        with pytest.raises(ImageError) as caught:
            open_image(source)
        assert str(caught.value).startswith("cannot read the image ")
        assert message in str(caught.value)
    with pytest.raises(ImageError, match=r"in .* bytes: it has 53 × 37 = 1,961 pixels, and at most 200 are read;"):
        open_image(encode(photo()), most=200)


# Image settings


@pytest.mark.parametrize(("interpolation", "resample"), [("bilinear", 2), ("bicubic", 3)])
@pytest.mark.parametrize("size", [(37, 53), (300, 200), (32, 32)])
def test_pixel_values_equal_those_of_transformers_bit_for_bit(bpe, interpolation, resample, size):
    from transformers import ViTImageProcessor

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    theirs = ViTImageProcessor(
        size={"height": 32, "width": 32}, resample=resample, image_mean=list(mean), image_std=list(std)
    )
    ours = CaptionerProcessor(ImageSettings(32, 32, mean, std, interpolation), bpe)
    image = photo(*size)
    expected = theirs(image, return_tensors="pt")["pixel_values"]
    pixels = ours(images=image)["pixel_values"]
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert (pixels - expected).abs().max().item() == 0.0


def test_squash_and_border_keep_the_whole_photo_and_center_cuts_the_longer_side():
    stripes = Image.fromarray(np.repeat(np.array([[0] * 8 + [128] * 16 + [255] * 8], np.uint8), 16, 0)).convert("RGB")
    shown = {mode: ImageSettings(16, 16, crop_mode=mode).fit(stripes)[0] for mode in module.CROPS}
    assert all(pixels.shape == (16, 16) for pixels in shown.values())
    assert (shown["squash"].min(), shown["squash"].max()) == (0, 255)
    assert (shown["center"] == 128).all()
    assert (shown["border"][:4] == 128).all()  # the mean colour, 0.5
    assert (shown["border"][6].min(), shown["border"][6].max()) == (0, 255)
    cut = ImageSettings(16, 16, crop_pct=0.5).fit(stripes)[0]
    assert (cut[8, 0], cut[8, 15]) == (128, 128)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1)])
@pytest.mark.parametrize("mode", ["squash", "center", "border"])
def test_extreme_shapes_survive_every_crop_mode(mode, size):
    assert ImageSettings(16, 24, crop_mode=mode, crop_pct=0.9).fit(photo(*size)).shape == (3, 16, 24)


def test_settings_for_an_encoder_follow_timm_by_name():
    from timm.data import create_transform

    settings = ImageSettings.for_encoder({"name": "vit_tiny_patch16_224", "image_size": 64})
    assert settings == ImageSettings(64, 64)
    assert ImageSettings.for_encoder({"name": "resnet18"}).mean == (0.485, 0.456, 0.406)
    assert ImageSettings.for_encoder({"name": "vit_tiny_patch16_384"}).height == 384
    own = {
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "interpolation": "bilinear",
        "crop_pct": 0.8,
        "crop_mode": "border",
    }
    expected = ImageSettings(32, 48, (0, 0, 0), (1, 1, 1), "bilinear", 0.8, "border")
    assert ImageSettings.for_encoder({"name": "resnet18", "image_size": [32, 48], **own}) == expected
    with pytest.raises(ValueError, match=r"^timm has no model 'vit_huge_typo'; timm.list_models\(\) names them$"):
        ImageSettings.for_encoder({"name": "vit_huge_typo"})
    smooth = photo(6, 9).resize((90, 60), Image.Resampling.BICUBIC)
    for mode in module.CROPS:
        ours = ImageSettings(32, 32, crop_pct=0.9, crop_mode=mode)
        theirs = create_transform(
            32, mean=ours.mean, std=ours.std, interpolation="bicubic", crop_pct=0.9, crop_mode=mode
        )
        assert (ours.normalize(ours.fit(smooth)) - theirs(smooth)).abs().max() < 0.03  # PIL's rounding


def test_settings_of_a_saved_timm_folder_come_from_its_config(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"pretrained_cfg": {"input_size": [3, 40, 40], "mean": [0, 0, 0]}})
    )
    settings = ImageSettings.for_encoder({"name": f"local-dir:{tmp_path}"})
    assert (settings.height, settings.mean, settings.crop_mode) == (40, (0, 0, 0), "squash")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop_mode": "zoom"}, "`crop_mode` must be one of squash, center, border, but is 'zoom'"),
        (
            {"interpolation": "box"},
            "`interpolation` must be one of nearest, bilinear, bicubic, lanczos, but is 'box'",
        ),
        ({"crop_pct": 0}, "`crop_pct` must lie above 0 and up to 1, but is 0; 1.0 keeps all"),
        ({"height": 0}, "height and width must be at least 1, but are 0 and 8"),
        (
            {"std": [1, 0, 1]},
            r"`mean` and `std` need 3 numbers, no std 0, but are \(0.5, 0.5, 0.5\) and \(1, 0, 1\)",
        ),
    ],
)
def test_wrong_image_settings_are_explained(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ImageSettings(**{"height": 8, "width": 8, **wrong})
