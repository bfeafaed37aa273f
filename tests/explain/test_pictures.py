"""The drawn caption: it shows the words, numbers and places that the attribution holds; and `captioner attend`."""

import sys

import numpy as np
import pytest
import torch
from conftest import tiny_captioner
from PIL import Image
from typer.testing import CliRunner

from captioner import load
from captioner.adopt import train_tokenizer
from captioner.cli.main import app
from captioner.explain import AttributionError, enlarged, look, overlay, picture, reduced, veil
from captioner.explain.overlays import DARK, DENSEST, LIGHT
from captioner.explain.photos import seen_part
from captioner.model import CaptionerProcessor, ImageSettings, open_image
from captioner.scenes import Scenes

pytest.importorskip("matplotlib")
from captioner.explain.pictures import LETTERS, PART_COLOURS

CONTEXT = "anna sees the red circle . otto is left of the blue square"


def slope(width, height):
    """A smooth photo that says everywhere where it is."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 0 * x + 128], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def seen():
    processor = CaptionerProcessor(ImageSettings(32, 32), train_tokenizer([CONTEXT], "word", min_frequency=1))
    return look(tiny_captioner("separate", "serial"), processor, slope(60, 40), CONTEXT, "the red square sees anna")


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (97, 256)])
@pytest.mark.parametrize("percent", [1.0, 0.8])
@pytest.mark.parametrize("mode", ["squash", "center", "border"])
def test_the_shown_part_of_a_photo_is_what_the_encoder_sees(mode, percent, size):
    settings = ImageSettings(64, 96, crop_mode=mode, crop_pct=percent)
    whole = ImageSettings(64, 96)
    shown = whole.fit(seen_part(slope(*size), settings)).int()
    fitted = settings.fit(slope(*size)).int()
    inside = (shown[2] > 120) & (fitted[2] > 120)  # beyond the borders of the photo one is black, the other grey
    inside &= ~((fitted == 128).all(0))
    assert inside.float().mean() > 0.2
    assert (shown - fitted).abs()[:, inside].float().mean() < 3


def test_the_veil_is_clear_where_the_weight_is_highest_and_densest_at_zero():
    heat = torch.tensor([[0.0, 0.1], [0.2, 0.4]])
    alpha = np.asarray(veil(slope(8, 8), heat))[..., 3]
    assert alpha.tolist() == [[round(255 * DENSEST * (1 - w)) for w in row] for row in ((0, 0.25), (0.5, 1))]
    for brightness, colour in ((30, LIGHT), (220, DARK)):
        photo = Image.new("RGB", (8, 8), (brightness,) * 3)
        assert veil(photo, heat).getpixel((0, 0))[:3] == colour
        assert overlay(photo, heat).getpixel((7, 7)) == photo.getpixel((7, 7))


def test_pictures_are_brought_to_size_in_their_shape():
    assert enlarged(slope(64, 48), 240).size == (320, 240)
    assert enlarged(slope(640, 480), 240).size == (640, 480)
    assert reduced(slope(4000, 3000), 480).size == (480, 360)
    assert reduced(slope(64, 48), 480).size == (64, 48)


def texts(artist):
    return [text.get_text() for text in artist.texts]


@pytest.mark.parametrize("choice", [{}, {"method": "rollout"}, {"method": "saliency"}, {"layer": 0, "head": 1}])
def test_the_picture_shows_every_word_with_its_map_bar_and_context(seen, choice):
    figure = picture(seen.found, seen.photo, **choice)
    words = [word.text for word in seen.found.words]
    assert [text for text in texts(figure) if text in words] == words
    assert seen.found.caption in texts(figure)
    maps = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(maps) == len(words)
    for drawn, heat in zip(maps, seen.found.heat(**choice), strict=True):
        expected = overlay(enlarged(reduced(seen.photo, 480), 240), heat)
        assert np.array_equal(drawn.get_array(), np.asarray(expected))
    balance = seen.found.balance(**choice)
    bars = [axes.patches for axes in figure.axes if len(axes.patches) == len(PART_COLOURS)]
    for i, bar in enumerate(bars[-len(words) :]):
        assert [part.get_width() for part in bar] == pytest.approx([float(own[i]) for own in balance.values()])
        assert sum(part.get_width() for part in bar) == pytest.approx(1, abs=1e-5)
    contexts = [" ".join(texts(axes)) for axes in figure.axes if CONTEXT.split()[0] in texts(axes)]
    assert contexts == [CONTEXT] * len(words)


def test_the_most_read_context_word_has_the_deepest_shade(seen):
    figure = picture(seen.found, seen.photo)
    areas = [axes for axes in figure.axes if "otto" in texts(axes)]
    for axes, weights in zip(areas, seen.found.reading(), strict=True):
        shades = [patch.get_alpha() for patch in axes.patches]
        assert shades.index(max(shades)) == int(weights.argmax())
        assert shades == pytest.approx((0.85 * weights / weights.max()).tolist(), abs=1e-5)


def test_a_caption_without_image_or_context_is_drawn_with_what_there_is(tmp_path):
    processor = CaptionerProcessor(ImageSettings(32, 32), train_tokenizer([CONTEXT], "word", min_frequency=1))
    model = tiny_captioner()
    read = look(model, processor, None, CONTEXT, "the circle")
    assert not any(axes.images for axes in picture(read.found, read.photo).axes)
    looked = look(model, processor, slope(40, 40), None, "the circle")
    figure = picture(looked.found, looked.photo)
    assert sum(bool(axes.images) for axes in figure.axes) == 2
    assert "otto" not in {text for axes in figure.axes for text in texts(axes)}


def test_a_long_context_and_a_long_word_stay_inside(tmp_path):
    processor = CaptionerProcessor(
        ImageSettings(32, 32), train_tokenizer([CONTEXT, "x" * 60], "word", min_frequency=1), max_context_length=300
    )
    bert = {"model_type": "bert", "vocab_size": 30, "hidden_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 400}  # fmt: skip
    seen = look(tiny_captioner(context_encoder=bert), processor, slope(40, 40), f"{CONTEXT} " * 12 + "x" * 60, "x" * 60)
    figure = picture(seen.found, seen.photo)
    area = next(axes for axes in figure.axes if "otto" in texts(axes))
    assert texts(area)[-1] == "…"
    assert all(text.get_position()[0] + len(text.get_text()) <= LETTERS for text in area.texts)


def test_a_captioner_that_only_looks_refuses_a_context():
    processor = CaptionerProcessor(ImageSettings(32, 32), train_tokenizer([CONTEXT], "word", min_frequency=1))
    with pytest.raises(AttributionError, match=r"no encoder for \['context'\]; it takes \['image'\]"):
        look(tiny_captioner(context_encoder=None), processor, slope(40, 40), "some", "the circle")


@pytest.fixture
def scene(tmp_path):
    sample = Scenes("test", [3], 1)[0]
    Image.fromarray(sample["image"]).save(tmp_path / "scene.png")
    return sample, str(tmp_path / "scene.png")


def run(*arguments):
    result = CliRunner().invoke(app, ["attend", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_attend_draws_the_captioners_own_caption(scene, tmp_path):
    sample, file = scene
    output = tmp_path / "attend.png"
    code, printed = run(file, "-m", "scenes-separate", "--context", sample["context"], "-o", output)
    assert code == 0, printed
    model, processor = load("scenes-separate")
    batch = processor(images=[file], context=[sample["context"]])
    caption = processor.decode(model.generate(**batch, num_beams=3, max_new_tokens=23)[0])
    assert all(word in printed for word in caption.split())
    assert open_image(output).width > 600


def test_attend_looks_into_a_given_caption_by_any_method(scene, tmp_path):
    sample, file = scene
    caption = sample["captions"][0]
    for method in ("rollout", "saliency"):
        output = tmp_path / f"{method}.svg"
        given = ["--context", sample["context"], "--caption", caption, "--method", method, "-o", output]
        code, printed = run(file, "-m", "scenes-concatenated", *given)
        assert code == 0, printed
        assert all(word in printed for word in caption.split())
        assert output.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "attend.jpx"], "`--output` must end in one of eps,"),
        (["--method", "eyes"], "`method` must be one of attention, rollout, saliency, but is 'eyes'"),
        (["--layer", 9], "`layer` must lie in 0…"),
        (["--layer", 0, "--method", "rollout"], "`method` is 'rollout', which goes through all of them; leave"),
        (["--head", 0, "--method", "saliency"], "`method` is 'saliency', which goes through all of them; leave"),
        (["--caption", "the ein Hund"], "the captioner's vocabulary cannot write ein, Hund; use other words"),
        (["--caption", "the red circle " * 9], "the caption has 27 tokens, but the decoder has 24 positions"),
        (["--caption", " "], "the caption has no words"),
    ],
)
def test_attend_explains_what_it_cannot_do(scene, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed = run(scene[1], "-m", "scenes-separate", *arguments)
    assert (code, message in printed) == (2, True), printed


def test_attend_explains_a_file_that_is_no_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jpg").write_text("not an image")
    code, printed = run("bad.jpg", "-m", "scenes-separate")
    assert (code, "cannot read the image 'bad.jpg'" in printed) == (2, True), printed


def test_attend_without_matplotlib_says_what_to_install(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "captioner.explain.pictures", None)
    code, printed = run(scene[1], "-m", "scenes-separate")
    assert (code, "pip install 'captioner[plots]'" in printed) == (2, True), printed
