"""What the processor promises: pixels, ids, labels, texts, files and error messages."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, BertConfig, BertTokenizer, GPT2Tokenizer
from transformers.utils import hub

from captioner import CaptionerConfig, CaptionerProcessor
from captioner import images as module
from captioner.images import ImageError, ImageSettings, open_image, to_rgb
from captioner.vocabulary import KINDS, train_tokenizer

TEXTS = [
    "A red dog runs.",
    "a blue cat sleeps on a mat",
    "Two dogs and a cat, all red!",
    "Anna rides a horse",
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cat", ".", "##s"]
RED = (200, 10, 10)


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(TEXTS * 2, vocab_size=300)


@pytest.fixture(scope="module")
def bert():
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})


@pytest.fixture(scope="module")
def gpt2():
    vocab = {token: i for i, token in enumerate(["a", "b", "Ġ", "Ġa", "<|endoftext|>"])}
    return GPT2Tokenizer(vocab=vocab, merges=[("Ġ", "a")])


@pytest.fixture(scope="module")
def processor(bpe, bert):
    return CaptionerProcessor(ImageSettings(8, 12), bpe, bert, max_caption_length=9, max_context_length=6)


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photo(height: int = 37, width: int = 53) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


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


def test_every_failure_names_the_source_and_the_reason(tmp_path, monkeypatch):
    text = tmp_path / "note.jpg"
    text.write_text("not a photo")
    floats = "floats must lie in 0…1, but go from 0 to 255; rescale them"
    cases = [
        (str(tmp_path / "gone.jpg"), f"'{tmp_path}/gone.jpg': No such file or directory"),
        (tmp_path, f"'{tmp_path}': Is a directory"),
        (text, f"'{text}': it is not in an image format that Pillow reads"),
        ({"bytes": None, "path": str(text)}, f"'{text}': it is not in an image format that Pillow reads"),
        (b"", "in 0 bytes: it is not in an image format that Pillow reads"),
        (None, "given as NoneType: give a PIL image, a path, bytes, an array or a tensor"),
        (7, "given as int: give a PIL image, a path, bytes, an array or a tensor"),
        (np.array([[0.0, 255.0]]), f"given as ndarray of shape (1, 2): {floats}"),
        (
            np.array([[np.nan]]),
            "given as ndarray of shape (1, 1): floats must lie in 0…1, but go from nan to nan;",
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
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"in .* bytes: Image size .* exceeds limit of 200 pixels"):
        open_image(encode(photo()))


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


# Batches


def test_a_batch_has_the_names_and_shapes_of_the_model(processor):
    batch = processor([photo(), photo()], ["a dog", "a cat"], [["a dog", "a red dog"], ["a cat", "cats"]])
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    width = batch["labels"].shape[1]
    assert shapes == {
        "pixel_values": ((2, 3, 8, 12), torch.float32),
        "context_input_ids": ((2, 4), torch.int64),
        "context_attention_mask": ((2, 4), torch.bool),
        "decoder_input_ids": ((4, width), torch.int64),
        "decoder_attention_mask": ((4, width), torch.bool),
        "labels": ((4, width), torch.int64),
    }
    assert processor.batch_decode(batch["labels"]) == ["a dog", "a red dog", "a cat", "cats"]
    arrays = processor(photo(), "a dog", "a dog", return_tensors="np")
    assert arrays["context_attention_mask"].dtype == bool


def test_only_what_is_given_has_keys(processor):
    assert list(processor(images=photo())) == ["pixel_values"]
    assert list(processor(context="")) == ["context_input_ids", "context_attention_mask"]
    assert list(processor(captions="a")) == ["decoder_input_ids", "decoder_attention_mask", "labels"]


def test_single_items_lists_and_stacked_arrays_are_batches(processor):
    one = processor(images=photo())["pixel_values"]
    stacked = np.stack([np.asarray(photo())] * 2)
    for images in ([photo()] * 2, (photo(), photo()), stacked, torch.tensor(stacked)):
        assert torch.equal(processor(images=images)["pixel_values"], one.repeat(2, 1, 1, 1))
    grouped = processor(images=photo(), captions=[["a", "b", "c"]])
    assert len(grouped["labels"]) == 3


def test_absent_images_are_zeros_with_a_mask(processor):
    batch = processor(images=[None, photo(), None])
    assert batch["image_mask"].tolist() == [False, True, False]
    assert not batch["pixel_values"][[0, 2]].any()
    assert torch.equal(batch["pixel_values"][1:2], processor(images=photo())["pixel_values"])
    assert processor(images=[None])["image_mask"].tolist() == [False]


def test_blank_contexts_are_rows_that_are_false_throughout(processor):
    batch = processor(context=[None, "a red dog.", "", " \n\t", "\u200b\x00"])
    assert batch["context_attention_mask"].any(1).tolist() == [False, True, False, False, False]
    empty = processor(context=[None, ""])
    assert empty["context_attention_mask"].tolist() == [[False], [False]]
    assert empty["context_input_ids"].shape == (2, 1)


def test_contexts_keep_the_special_tokens_of_their_tokenizer_when_cut(processor, bpe):
    ids = {word: i for i, word in enumerate(WORDS)}
    batch = processor(context=["a dog", "a red dog . a cat . cat"])
    first = [ids[word] for word in ("[CLS]", "a", "dog", "[SEP]", "[PAD]", "[PAD]")]
    second = [ids[word] for word in ("[CLS]", "a", "red", "dog", ".", "[SEP]")]
    assert batch["context_input_ids"].tolist() == [first, second]
    assert batch["context_attention_mask"].sum(1).tolist() == [4, 6]
    shared = CaptionerProcessor(None, bpe, max_context_length=2)(context="a red dog runs")
    assert shared["context_input_ids"].tolist() == [bpe("a red dog runs")["input_ids"][:2]]
    tiny = CaptionerProcessor(None, bpe, processor.context_tokenizer, max_context_length=1)
    assert tiny(context="a dog")["context_input_ids"].shape == (1, 1)


def test_an_empty_batch_has_no_rows(processor):
    shapes = [tuple(value.shape) for value in processor(images=[], context=[], captions=[]).values()]
    assert shapes == [(0, 3, 8, 12), (0, 1), (0, 1), (0, 1), (0, 1), (0, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give images, context or captions, the same number of each, but there is nothing;"),
        ({"images": [None, None], "context": "a"}, "but there is 2 images, 1 context;"),
        (
            {"context": "a", "captions": ["a", "b"]},
            "2 captions; several captions of one image go in a list of their own",
        ),
        (
            {"captions": [["a"], ["a", "b"]]},
            "every image needs the same number of captions, at least 1, but they have",
        ),
        ({"captions": [[], []]}, "at least 1, but they have [0, 0]"),
        ({"captions": ["a", None]}, "captions must be text, but one is None; leave its sample out"),
        ({"captions": [["a", 7]]}, "captions must be text, but one is 7; leave its sample out"),
        ({"images": ["gone.jpg"]}, "cannot read the image 'gone.jpg': No such file or directory"),
    ],
)
def test_wrong_batches_are_explained(processor, arguments, message):
    with pytest.raises(ValueError) as caught:
        processor(**arguments)
    assert message in str(caught.value)


def test_a_processor_without_image_settings_takes_no_images(bpe):
    reader = CaptionerProcessor(None, bpe)
    with pytest.raises(ValueError, match="no `image_settings`, so it takes no images; leave them out"):
        reader(images=photo())
    assert "pixel_values" not in reader(images=[None], context=["a"])


# Captions


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_labels_are_the_inputs_shifted_with_eos_always_supervised(processor, captions):
    batch = processor(captions=captions)
    for inputs, mask, labels in zip(
        batch["decoder_input_ids"], batch["decoder_attention_mask"], batch["labels"], strict=True
    ):
        length = int(mask.sum())
        assert 1 <= length <= processor.max_caption_length
        assert mask[:length].all()
        assert inputs[0] == processor.start_token_id
        assert torch.equal(inputs[1:length], labels[: length - 1])
        assert labels[length - 1] == processor.eos_token_id
        assert (labels[length:] == -100).all()
        assert (inputs[length:] == processor.pad_token_id).all()


def test_eos_is_supervised_where_pad_and_eos_share_an_id(gpt2):
    processor = CaptionerProcessor(None, gpt2, max_caption_length=4)
    assert (processor.start_token_id, processor.eos_token_id, processor.pad_token_id) == (4, 4, 4)
    batch = processor(captions=["a", "abab", ""])
    assert batch["labels"].tolist() == [[0, 4, -100, -100], [0, 1, 0, 4], [4, -100, -100, -100]]
    assert batch["decoder_input_ids"].tolist() == [[4, 0, 4, 4], [4, 0, 1, 0], [4, 4, 4, 4]]
    assert batch["decoder_attention_mask"].sum(1).tolist() == [2, 4, 1]
    assert processor.batch_decode(batch["labels"]) == ["a", "aba", ""]
    assert processor.decode([4, 0, 3, 4, 1]) == "a a"
    assert processor.decode([4]) == processor.decode([]) == processor.decode([4, 4, 0]) == ""


def test_special_tokens_that_a_tokenizer_adds_itself_are_not_doubled(bert):
    processor = CaptionerProcessor(None, bert)
    batch = processor(captions="a red dogs.")
    assert batch["decoder_input_ids"].tolist() == [[2, 5, 6, 7, 10, 9]]
    assert batch["labels"].tolist() == [[5, 6, 7, 10, 9, 3]]
    assert processor.decode([2, 5, 6, 7, 10, 9, 3, 0, 0]) == "a red dogs."
    ours = train_tokenizer(TEXTS, kind="word", min_frequency=1)
    from tokenizers.processors import TemplateProcessing

    ours.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    inputs = CaptionerProcessor(None, ours)(captions="red")["decoder_input_ids"]
    assert inputs.tolist() == [[1, ours.convert_tokens_to_ids("red")]]


def test_given_ids_take_the_place_of_the_tokenizers(bert):
    processor = CaptionerProcessor(None, bert, start_token_id=30, eos_token_id=4, pad_token_id=1)
    batch = processor(captions=["a", "a dog"])
    assert batch["decoder_input_ids"].tolist() == [[30, 5, 1], [30, 5, 7]]
    assert batch["labels"].tolist() == [[5, 4, -100], [5, 7, 4]]
    assert processor.decode(torch.tensor([30, 5, 7, 4, 8])) == "a dog"


def test_a_processor_that_could_not_end_captions_is_refused(bert, bpe):
    endless = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    endless.sep_token = None
    with pytest.raises(ValueError, match=r"neither eos nor sep token; set `tokenizer.eos_token`"):
        CaptionerProcessor(None, endless)
    with pytest.raises(ValueError, match="`max_images` must be at least 1, but are 0, 64 and 1"):
        CaptionerProcessor(None, bpe, max_caption_length=0)
    only_eos = CaptionerProcessor(None, bpe, max_caption_length=1)(captions="a red dog")
    assert only_eos["labels"].tolist() == [[2]]


# Tokenizers


@given(st.text())
@example("<pad> a dog <eos>, <unk>")
def test_byte_level_tokenizers_spell_any_text(bpe, text):
    processor = CaptionerProcessor(None, bpe, max_caption_length=1000)
    normal = bpe.backend_tokenizer.normalizer.normalize_str(text)
    assert processor.batch_decode(processor(captions=text)["labels"]) == [normal.strip()]


@pytest.mark.parametrize("kind", KINDS)
def test_trained_tokenizers_have_the_ids_of_the_default_config(kind):
    tokenizer = train_tokenizer(iter(TEXTS), kind=kind, min_frequency=1, vocab_size=300)
    config = CaptionerConfig(image_encoder={"name": "resnet18"})
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<bos>", "<eos>", "<unk>"]) == [0, 1, 2, 3]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id) == (config.pad_token_id, config.bos_token_id)
    assert (tokenizer.eos_token_id, tokenizer.unk_token_id) == (config.eos_token_id, 3)
    assert not {0, 1, 2} & set(tokenizer("a red dog")["input_ids"])
    assert len(tokenizer) <= 300


def test_word_tokenizers_split_punctuation_and_decode_with_single_spaces():
    tokenizer = train_tokenizer(TEXTS * 2, kind="word")
    processor = CaptionerProcessor(None, tokenizer)
    assert processor.decode(tokenizer("A  red DOG,a cat!")["input_ids"]) == "a red dog , a cat !"
    assert tokenizer("zebra")["input_ids"] == [3]
    cased = train_tokenizer(TEXTS * 2, kind="word", lowercase=False)
    assert cased.decode(cased("Anna a")["input_ids"]) == "Anna a"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "char"}, "`kind` must be one of bpe, word, but is 'char'"),
        (
            {"vocab_size": 100},
            "`vocab_size` must be at least 260 to hold special tokens and all bytes, but is 100",
        ),
        (
            {"kind": "word", "vocab_size": 4},
            "`vocab_size` must be at least 5 to hold special tokens and a word, but is 4",
        ),
    ],
)
def test_wrong_tokenizer_settings_are_explained(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        train_tokenizer(TEXTS, **arguments)


# Files


def same(a: CaptionerProcessor, b: CaptionerProcessor) -> bool:
    batches = [p(photo(), "A red dog.", "A red dog.") for p in (a, b)]
    equal = all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])
    return equal and a.to_dict() == b.to_dict() and a.image_settings == b.image_settings


def test_a_saved_processor_comes_back_as_it_was(processor, bpe, gpt2, tmp_path):
    processor.save_pretrained(tmp_path / "both")
    loaded = CaptionerProcessor.from_pretrained(tmp_path / "both")
    assert same(processor, loaded)
    loaded.save_pretrained(tmp_path / "again")
    for name in ("processor_config.json", "tokenizer.json", "context_tokenizer/tokenizer.json"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    settings = ImageSettings(4, 6, (0.1, 0.2, 0.3), (1, 2, 3), "nearest", 0.7, "center")
    one = CaptionerProcessor(settings, gpt2, None, 7, 8, 1, 2, 3)
    one.save_pretrained(tmp_path / "both")  # over another one; its context tokenizer must not come back
    loaded = CaptionerProcessor.from_pretrained(str(tmp_path), subfolder="both")
    assert loaded.context_tokenizer is None
    assert same(one, loaded)
    CaptionerProcessor(None, bpe).save_pretrained(tmp_path / "text")
    assert CaptionerProcessor.from_pretrained(tmp_path / "text").image_settings is None
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == [
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_using_a_processor_does_not_change_what_it_saves(processor, tmp_path):
    processor.save_pretrained(tmp_path / "before")
    processor(photo(), "a red dog. a red dog. a red dog", "a red dog and a cat and a dog and a cat")
    processor.save_pretrained(tmp_path / "after")
    for name in ("tokenizer.json", "context_tokenizer/tokenizer.json"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_the_config_of_a_model_beside_it_does_not_matter(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    remote = {"model_type": "captioner", "auto_map": {"AutoConfig": "configuration.CaptionerConfig"}}
    for config in (remote, {"model_type": "unheard_of"}, {"model_type": "gpt2"}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert same(processor, CaptionerProcessor.from_pretrained(tmp_path))
    CaptionerConfig(image_encoder={"name": "resnet18"}).save_pretrained(tmp_path)
    assert same(processor, CaptionerProcessor.from_pretrained(tmp_path))
    assert same(processor, AutoProcessor.from_pretrained(tmp_path))
    assert AutoTokenizer.from_pretrained(tmp_path)("a dog")["input_ids"] == processor.tokenizer("a dog")["input_ids"]


def test_a_processor_loads_by_hub_id_from_the_cache(processor, tmp_path):
    repository = tmp_path / "models--someone--captioner"
    processor.save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    hub_kwargs = {"cache_dir": tmp_path, "local_files_only": True}
    assert same(processor, CaptionerProcessor.from_pretrained("someone/captioner", **hub_kwargs))
    with pytest.raises(OSError, match=r"^'someone/else' is neither a directory nor at hand on the Hub: We couldn't"):
        CaptionerProcessor.from_pretrained("someone/else", **hub_kwargs)


def test_pushing_uploads_every_file(processor, monkeypatch):
    uploaded = []

    class Api:
        def create_repo(self, repo_id, **_):
            return type("Repository", (), {"repo_id": repo_id})

        def create_commit(self, operations, **_):
            uploaded.extend(operation.path_in_repo for operation in operations)

    card = type("Card", (), {"save": lambda self, path: None})()
    monkeypatch.setattr(hub, "hf_api", Api)
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *_, **__: card)
    processor.push_to_hub("someone/captioner")
    tokenizer = ["tokenizer.json", "tokenizer_config.json"]
    assert sorted(uploaded) == sorted(
        ["processor_config.json", *tokenizer, *(f"context_tokenizer/{name}" for name in tokenizer)]
    )


def test_directories_without_a_processor_are_explained(tmp_path):
    with pytest.raises(OSError, match=r"has no processor_config.json; give a directory that"):
        CaptionerProcessor.from_pretrained(tmp_path)
    config = tmp_path / "processor_config.json"
    config.write_text('{"processor_class": "BlipProcessor"}')
    with pytest.raises(ValueError, match=r"is not of CaptionerProcessor; try `captioner.load`$"):
        CaptionerProcessor.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"processor_config.json is not valid JSON: .*; save the processor again$"):
        CaptionerProcessor.from_pretrained(tmp_path)


def test_a_processor_travels_to_worker_processes(processor):
    assert same(processor, pickle.loads(pickle.dumps(processor)))
    loader = torch.utils.data.DataLoader([photo()] * 4, batch_size=2, num_workers=1, collate_fn=processor)
    assert [len(batch["pixel_values"]) for batch in loader] == [2, 2]


def test_loading_and_using_a_processor_imports_no_timm(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    program = (
        "import sys; from captioner import CaptionerProcessor; "
        f"CaptionerProcessor.from_pretrained({str(tmp_path)!r})(context='a'); print('timm' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


# Fit with the model


def config(**changes) -> CaptionerConfig:
    given = {
        "image_encoder": {"name": "resnet18", "image_size": [8, 12]},
        "context_encoder": {"model_type": "bert", "vocab_size": 11, "max_position_embeddings": 6},
        "decoder": {"vocab_size": 300, "max_positions": 9},
    }
    return CaptionerConfig(**given | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"eos_token_id": [7, 2]},
        {"pad_token_id": None},
        {"image_encoder": {"name": "resnet18"}},
        {"image_encoder": {"name": "vit_tiny_patch16_224", "image_size": 64, "dynamic_img_size": True}},
        {"context_encoder": None},
        {"context_encoder": {"model_type": "t5", "vocab_size": 11}},
    ],
)
def test_a_model_that_fits_is_accepted(processor, changes):
    processor.check_model(config(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoder": {"vocab_size": 299, "max_positions": 9}},
            "`decoder.vocab_size` is 299, but the tokenizer needs 300;",
        ),
        (
            {"decoder": {"vocab_size": 300, "max_positions": 8}},
            "`decoder.max_positions` is 8, but `max_caption_length` n",
        ),
        (
            {"eos_token_id": [7]},
            "`eos_token_id` is [7] in the config but 2 in the processor; make them equal",
        ),
        ({"pad_token_id": 2}, "`pad_token_id` is 2 in the config but 0 in the processor; make them equal"),
        (
            {"decoder_start_token_id": 0},
            "`decoder_start_token_id` is 0 in the config but 1 in the processor; make",
        ),
        (
            {"image_encoder": None},
            "the model has no image encoder; set the processor's `image_settings` to None",
        ),
        (
            {"image_encoder": {"name": "resnet18", "image_size": 12}},
            "`image_encoder.image_size` is (12, 12), but `image_settings` are (8, 12); make them equal",
        ),
        (
            {"context_encoder": BertConfig(vocab_size=10, max_position_embeddings=6)},
            "`context_encoder.vocab_size` is 10, but the context tokenizer needs 11; raise the one or",
        ),
        (
            {"context_encoder": BertConfig(vocab_size=11, max_position_embeddings=5)},
            "`context_encoder.max_position_embeddings` is 5, but `max_context_length` needs 6;",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_explained(processor, changes, message):
    with pytest.raises(ValueError, match=r"^the processor does not fit the model: ") as caught:
        processor.check_model(config(**changes))
    assert message in str(caught.value)


def test_every_misfit_is_named_at_once(bpe):
    reader = CaptionerProcessor(None, bpe)
    with pytest.raises(ValueError) as caught:
        reader.check_model(config(pad_token_id=9))
    parts = str(caught.value).split("; ")
    assert "give `image_settings=ImageSettings.for_encoder(…)`" in parts
    assert sum(" is " in part for part in parts) == 4
