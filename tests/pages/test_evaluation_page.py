"""The page of an evaluation: each modality alone, each sample by its place in the split, whatever cannot be read."""

import re

import numpy as np
import pytest
from modalities import REGIONS, captioner, regions
from PIL import Image

from captioner import load
from captioner.adopt import train_tokenizer
from captioner.base import GenerationSettings
from captioner.evaluation import evaluate
from captioner.model import CaptionerProcessor, ImageSettings, ModalityInput
from captioner.pages.evaluation_page import SHOWN_SAMPLES, Subject, report
from captioner.training import save_captioner

GREEDY = GenerationSettings(num_beams=1, max_new_tokens=6)
COLOURS = ["red", "blue", "green", "yellow"]


@pytest.fixture(scope="module")
def looks_reads_and_takes(tmp_path_factory):
    """A saved captioner of image, context and regions that takes two images of a sample."""
    words = train_tokenizer(["a red blue green yellow circle anna hums"], kind="word", min_frequency=1)
    further = {"regions": ModalityInput(6, 5)}
    processor = CaptionerProcessor(ImageSettings(32, 32), words, None, 20, 14, max_images=2, further=further)
    shape = {"encoders": {"regions": REGIONS}, "decoder": {"vocab_size": len(words)}, "max_images": 2}
    folder = tmp_path_factory.mktemp("three") / "captioner"
    save_captioner(captioner("separate", "serial", **shape), processor, folder)
    return str(folder)


@pytest.fixture(scope="module")
def only_reads(tmp_path_factory):
    words = train_tokenizer(["a red blue green yellow circle anna hums"], kind="word", min_frequency=1)
    shape = {"encoders": {}, "decoder": {"vocab_size": len(words)}, "image_encoder": None}
    folder = tmp_path_factory.mktemp("reads") / "captioner"
    save_captioner(captioner(**shape), CaptionerProcessor(None, words, None, 20, 14), folder)
    return str(folder)


def samples(folder, count, broken=()):
    """Photos of several colours with contexts and regions; some photos are no images."""
    made = []
    for i in range(count):
        file = folder / f"{i}.png"
        Image.new("RGB", (40, 32), COLOURS[i % 4]).save(file)
        if i in broken:
            file.write_bytes(b"no image")
        made.append(
            {
                "id": f"sample-{i}",
                "image": str(file),
                "captions": [f"a {COLOURS[i % 4]} circle"],
                "context": "anna hums",
                "regions": regions(3, seed=i),
            }
        )
    return made


def test_each_row_hides_all_other_modalities(looks_reads_and_takes):
    given = Subject("name", *load(looks_reads_and_takes)).given
    assert given == {
        "image + context + regions": [],
        "image only": ["context", "regions"],
        "context only": ["image", "regions"],
        "regions only": ["image", "context"],
    }


def test_one_modality_has_one_row(only_reads):
    assert Subject("name", *load(only_reads)).given == {"context": []}


def test_alone_means_that_no_sample_has_another(looks_reads_and_takes, tmp_path):
    parts, split = load(looks_reads_and_takes), samples(tmp_path, 4)
    for name in ("image", "context", "regions"):
        others = [other for other in ("image", "context", "regions") if other != name]
        hidden = evaluate(*parts, split, GREEDY, hidden=others).records
        absent = evaluate(*parts, [sample | dict.fromkeys(others) for sample in split], GREEDY).records
        assert [record["caption"] for record in hidden] == [record["caption"] for record in absent]


def test_hiding_what_no_sample_has_changes_nothing(looks_reads_and_takes, tmp_path):
    parts = load(looks_reads_and_takes)
    split = [sample | {"regions": None} for sample in samples(tmp_path, 3)]
    plain, hidden = evaluate(*parts, split, GREEDY), evaluate(*parts, split, GREEDY, hidden=["regions"])
    assert [record["caption"] for record in plain.records] == [record["caption"] for record in hidden.records]


def cards(page):
    """Label → the card's HTML, in the order of the page."""
    found = re.findall(r"<article.*?</article>", page, re.S)
    return {re.search(r'<p class="level">(.*?)</p>', own).group(1): own for own in found}


def test_unreadable_images_cost_their_own_cards_and_nothing_else(looks_reads_and_takes, tmp_path):
    split = samples(tmp_path, 7, broken=(0, 3))
    result = report([looks_reads_and_takes], split, GREEDY, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = cards(page)
    assert list(shown) == [f"sample-{i}" for i in (1, 2, 4, 5, 6)]
    said = {record["id"]: record["caption"] for record in result.records}
    for label, own in shown.items():
        assert (said[label] or "(nothing)") in own
        assert f"a {COLOURS[int(label[-1]) % 4]} circle" in own  # its own reference
    assert "The first 5 samples of the split, 2 that" in page
    assert "could not caption left out" in page


def test_more_samples_than_cards_are_not_shown(only_reads, tmp_path):
    split = samples(tmp_path, SHOWN_SAMPLES + 3)
    report([only_reads], split, GREEDY, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(cards(page)) == SHOWN_SAMPLES
    assert f"The first {SHOWN_SAMPLES} samples of the split, none left out" in page


def test_captioners_that_cannot_read_the_same_samples_stand_on_one_page(looks_reads_and_takes, only_reads, tmp_path):
    split = samples(tmp_path, 4, broken=(1,))
    report([only_reads, looks_reads_and_takes], split, GREEDY, tmp_path / "page.html")
    shown = cards((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert list(shown) == [f"sample-{i}" for i in range(4)]
    assert [own.count('<div class="said">') for own in shown.values()] == [2, 1, 2, 2]
    assert [own.count("<img src") for own in shown.values()] == [1, 0, 1, 1]


def test_samples_of_several_images_and_of_none_have_cards(looks_reads_and_takes, tmp_path):
    split = samples(tmp_path, 4)
    split[0]["image"] = [split[1]["image"], split[2]["image"], split[3]["image"]]  # one more than is read
    split[1]["image"] = [split[1]["image"]]
    split[2]["image"] = None
    with pytest.warns(UserWarning, match="a sample has 3 images"):
        report([looks_reads_and_takes], split, GREEDY, tmp_path / "page.html")
    shown = cards((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [own.count('alt="the picture of this sample"') for own in shown.values()] == [1, 1, 0, 1]


def test_samples_without_anything_have_cards_without_maps(looks_reads_and_takes, tmp_path):
    split = samples(tmp_path, 2)
    split[0] |= {"image": None, "context": None, "regions": None}
    split[1]["regions"] = np.zeros((0, 6), np.float32)
    report([looks_reads_and_takes], split, GREEDY, tmp_path / "page.html")
    first, _ = cards((tmp_path / "page.html").read_text(encoding="utf-8")).values()
    assert 'class="maps"' not in first
