"""Further modalities where people look: `captioner attend`, the pages and the app."""

import numpy as np
import pytest
import torch
from modalities import REGIONS, captioner, regions
from PIL import Image
from typer.testing import CliRunner

from captioner.adopt import train_tokenizer
from captioner.cli.main import app
from captioner.explain import look
from captioner.model import CaptionerProcessor, ImageSettings, ModalityInput
from captioner.pages.cards import Answer, Card, further_modalities, word_maps
from captioner.pages.studio import Studio, StudioError

TEXTS = ["the red circle anna hums", "a blue star"]
CAPTION = "the red circle"


@pytest.fixture(scope="module")
def parts():
    tokenizer = train_tokenizer(TEXTS, kind="word", min_frequency=1)
    further = {"regions": ModalityInput(6, 5)}
    processor = CaptionerProcessor(ImageSettings(32, 32), tokenizer, None, 20, 14, further=further)
    decoder = {"vocab_size": len(processor.tokenizer)}
    return captioner("separate", "serial", encoders={"regions": REGIONS}, decoder=decoder), processor


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    """A saved captioner beside a photo and regions."""
    folder = tmp_path_factory.mktemp("looks")
    for part in parts:
        part.save_pretrained(folder / "captioner")
    Image.new("RGB", (40, 40), "red").save(folder / "photo.png")
    np.save(folder / "regions.npy", regions(3))
    np.save(folder / "wide.npy", np.zeros((2, 7), np.float32))
    return folder


def attend(folder, *arguments):
    given = [*arguments, "-m", folder / "captioner", "-o", folder / "attend.png"]
    result = CliRunner().invoke(app, ["attend", *map(str, given)])
    return result.exit_code, " ".join(result.output.split())


def test_attend_takes_a_further_modality_from_a_file(folder):
    given = ["--further", f"regions={folder / 'regions.npy'}", "--caption", CAPTION]
    code, printed = attend(folder, folder / "photo.png", "--context", "anna hums", *given)
    assert code == 0, printed
    assert all(word in printed for word in ("looked", "read", "regions"))
    code, printed = attend(folder, *given)
    assert code == 0, printed
    assert "looked" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to caption: give an IMAGE, `--context` or `--further NAME=FILE`"),
        (["--further", "regions.npy"], "`--further` must be NAME=FILE, such as sound=dog.npy, but is 'regions.npy'"),
        (["--further", "sound=dog.npy"], "this captioner has no encoder for ['sound']"),
        (["--further", "regions=nowhere.npy"], "cannot read `regions` 'nowhere.npy'"),
    ],
)
def test_attend_explains_what_it_cannot_take(folder, arguments, message):
    code, printed = attend(folder, *arguments)
    assert (code, message in printed) == (2, True), printed


def test_the_bar_of_a_page_shows_what_came_from_it(parts):
    seen = look(*parts, None, None, CAPTION, {"regions": regions(3)})
    shown = word_maps(seen)
    assert shown.count('class="is-further" style="width: 100.0%"') == 3
    assert "regions 100%" in shown
    card = Card("1", 0.0, None, None, [CAPTION], [Answer("separate", "regions", CAPTION, True, seen)])
    assert further_modalities([card]) == ["regions"]


@pytest.fixture(scope="module")
def studio(folder):
    return Studio(str(folder / "captioner"))


def test_the_app_takes_it_away_or_shuffles_it(studio, folder):
    photo, file = str(folder / "photo.png"), str(folder / "regions.npy")
    given = studio.given(photo, "anna hums", {}, {"regions": file})
    torch.testing.assert_close(given["further"]["regions"], torch.from_numpy(regions(3)))
    seen = studio.look(given, CAPTION)
    assert list(seen.found.shares()) == ["image", "context", "regions"]
    taken = studio.given(photo, None, {"regions": "taken away"}, {"regions": file})
    assert list(studio.look(taken, CAPTION).found.shares()) == ["image"]
    mixed = studio.given(None, None, {"regions": "shuffled"}, {"regions": file})["further"]["regions"]
    assert sorted(mixed.tolist()) == sorted(regions(3).tolist())
    assert mixed.tolist() != regions(3).tolist()
    *_, captions = studio.captions(given, beams=2, count=2)
    assert len(captions) == 2


def test_the_app_explains_a_file_that_does_not_fit(studio, folder):
    with pytest.raises(StudioError, match=r"This file cannot be read: `regions` .* must be \(S, 6\), but is \(2, 7\)"):
        studio.given(None, None, {}, {"regions": str(folder / "wide.npy")})
    with pytest.raises(StudioError, match="nothing to caption: give one of: image, context, regions"):
        studio.given(None, None, {}, {"regions": None})


def test_the_page_has_a_place_for_the_file(folder):
    pages = pytest.importorskip("captioner.pages.app", reason="needs gradio", exc_type=ImportError)
    page = pages.build(str(folder / "captioner"))
    labels = {getattr(block, "label", None) for block in page.blocks.values()}
    assert {"regions (.npy, .safetensors)", "The regions is"} <= labels
    listeners = pages.Listeners(Studio(str(folder / "captioner")))
    treated = ["as given"] * 3
    file = str(folder / "regions.npy")
    *_, last = listeners.caption(None, "anna hums", file, *treated, 2, 1, "attention", pages.MEAN)
    assert list(last[1][1].found.shares()) == ["context", "regions"]
