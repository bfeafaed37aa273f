"""The app: what its studio does without a page, and the page in headless Chromium, offline and with two users."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from typer.testing import CliRunner

from captioner.cli.main import app
from captioner.pages.studio import AS_GIVEN, Studio, StudioError
from captioner.scenes import Scenes

CHROMIUM = shutil.which("chromium")
MODALITIES = ("image", "context")
GIVEN = dict.fromkeys(MODALITIES, AS_GIVEN)
SERVER = """
import json, sys
from captioner.pages import serve
address, wait = serve("scenes-separate")
print(json.dumps(address), flush=True)
wait()
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two scenes: (file, context) each."""
    folder, pairs = tmp_path_factory.mktemp("scenes"), []
    for i in range(2):
        sample = Scenes("test", [3], 2)[i]
        file = folder / f"{i}.png"
        Image.fromarray(sample["image"]).resize((256, 256)).save(file)
        pairs.append((str(file), sample["context"]))
    return pairs


@pytest.fixture(scope="module")
def studio():
    return Studio("scenes-separate")


def plain(studio, file, context, **options):
    """What `generate` says of the same."""
    batch = studio.processor(images=[file], context=[context])
    ids = studio.model.generate(**batch, max_new_tokens=studio.model.config.decoder.max_positions - 1, **options)
    return studio.processor.batch_decode(ids)


def test_greedy_captions_grow_word_by_word(studio, scenes):
    file, context = scenes[0]
    steps = list(studio.captions(studio.given(file, context, GIVEN), beams=1, count=1))
    final = plain(studio, file, context, num_beams=1)
    assert steps[-1] == final
    assert len(steps) > 3
    assert all(final[0].startswith(captions[0]) for captions in steps)


def test_beams_give_as_many_captions_as_asked_best_first(studio, scenes):
    file, context = scenes[0]
    *_, captions = studio.captions(studio.given(file, context, GIVEN), beams=3, count=5)
    assert captions == plain(studio, file, context, num_beams=3, num_return_sequences=3)


def test_a_modality_can_be_taken_away_or_shuffled(studio, scenes):
    file, context = scenes[0]
    taken = studio.given(file, context, {"image": AS_GIVEN, "context": "taken away"})
    assert taken["context"] is None
    *_, captions = studio.captions(taken, beams=3, count=1)
    assert captions == plain(studio, file, None, num_beams=3)
    mixed = studio.given(file, context, dict.fromkeys(MODALITIES, "shuffled"))
    assert mixed["context"] != context
    assert sorted(mixed["context"].split()) == sorted(context.split())
    with Image.open(file) as photo:
        assert mixed["image"].tobytes() != photo.convert("RGB").tobytes()
        assert sorted(mixed["image"].getcolors(1 << 16)) == sorted(photo.convert("RGB").getcolors(1 << 16))


def test_the_look_is_of_what_was_given(studio, scenes):
    file, context = scenes[0]
    given = studio.given(file, context, {"image": "taken away", "context": AS_GIVEN})
    seen = studio.look(given, "the red circle")
    assert seen.photo is None
    assert seen.found.caption == "the red circle"
    assert list(seen.found.shares()) == ["context"]


def test_what_cannot_be_captioned_is_explained_to_the_person_at_the_page(studio, tmp_path, scenes):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    with pytest.raises(StudioError, match="cannot be read: it is not in an image format that Pillow reads. Try a JPEG"):
        studio.given(str(bad), None, GIVEN)
    with pytest.raises(StudioError, match="nothing to caption: give one of: image, context"):
        studio.given(None, "  ", GIVEN)
    with pytest.raises(StudioError, match="nothing to caption"):
        studio.given(*scenes[0], dict.fromkeys(MODALITIES, "taken away"))
    with pytest.raises(StudioError, match="said nothing"):
        studio.look(studio.given(*scenes[0], GIVEN), "")


def test_without_gradio_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["app", "-m", "scenes-separate"])
    assert (result.exit_code, "pip install 'captioner[app]'" in " ".join(result.output.split())) == (2, True)


def test_the_command_serves_on_this_machine_and_waits(monkeypatch):
    calls = []
    served = pytest.importorskip("captioner.pages.app", reason="needs gradio", exc_type=ImportError)
    monkeypatch.setattr(
        served, "serve", lambda *given: calls.append(given) or ("address", lambda: calls.append("wait"))
    )
    result = CliRunner().invoke(app, ["app", "-m", "scenes-separate", "--port", "7999", "--no-open"])
    assert result.exit_code == 0, result.output
    assert calls == [("scenes-separate", 7999, False), "wait"]


def test_a_page_that_is_stopped_takes_its_examples_with_it(tmp_path):
    pytest.importorskip("gradio")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        json.loads(server.stdout.readline())
        assert len(list(tmp_path.glob("captioner-examples-*/*.png"))) == 3
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
    finally:
        server.kill()
    assert not list(tmp_path.glob("captioner-examples-*"))


def test_a_page_that_cannot_start_leaves_no_examples_behind(tmp_path, monkeypatch):
    served = pytest.importorskip("captioner.pages.app", reason="needs gradio", exc_type=ImportError)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fails(*given):
        raise OSError("no free port")

    monkeypatch.setattr(served, "_launched", fails)
    with pytest.raises(OSError, match="no free port"):
        served.serve("scenes-separate")
    assert not list(tmp_path.glob("captioner-examples-*"))


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        shown = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield shown
        shown.close()


@pytest.fixture(scope="module")
def address(browser):
    """A server of its own process, as a user starts it."""
    pytest.importorskip("gradio")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield json.loads(server.stdout.readline())
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture
def visit(browser, address):
    """Open the page as another user; → the page, whose `urls` are all that it asked for."""
    contexts = []

    def open_page():
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 1300}))
        page = contexts[-1].new_page()
        page.urls = []
        page.on("request", lambda request: page.urls.append(request.url))
        page.goto(address)
        page.wait_for_selector("#caption")
        return page

    yield open_page
    for context in contexts:
        context.close()


def caption(page, file, context):
    """Upload, type, press."""
    page.set_input_files("#photo input[type=file]", file)
    page.wait_for_selector("#photo img")
    page.fill("#context textarea", context)
    page.click("#caption")


def words(page):
    page.wait_for_selector("#maps figure", timeout=60_000)
    return " ".join(word.inner_text() for word in page.query_selector_all("#maps figcaption"))


def until(check, seconds=20):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.1)


def test_upload_caption_and_see_the_overlay_of_each_word(visit, scenes, studio):
    page = visit()
    file, context = scenes[0]
    caption(page, file, context)
    assert words(page) == plain(studio, file, context, num_beams=3)[0]
    assert words(page) in page.inner_text("#captions")
    page.wait_for_selector("#overlay img")
    first, second = words(page).split()[:2]
    assert f"“{first}”" in page.inner_text("#overlay")
    source = page.get_attribute("#overlay img", "src")
    page.fill("#word input[type=number]", "2")
    page.press("#word input[type=number]", "Enter")
    until(lambda: f"“{second}”" in page.inner_text("#overlay"))
    until(lambda: page.get_attribute("#overlay img", "src") != source)
    page.hover("#maps figure:nth-child(2) .map")
    assert "matrix(2.2" in page.eval_on_selector("#maps figure:nth-child(2) .map", "e => getComputedStyle(e).transform")


def test_the_page_asks_nobody_else_for_anything(visit, scenes, address):
    page = visit()
    caption(page, *scenes[0])
    words(page)
    assert address.startswith("http://127.0.0.1:")
    assert all(url.startswith((address, "data:", "blob:")) for url in page.urls), page.urls


def test_a_bad_file_is_explained_and_the_page_goes_on(visit, scenes, tmp_path, studio):
    page = visit()
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    page.set_input_files("#photo input[type=file]", str(bad))
    page.wait_for_selector("#photo img", state="attached")
    page.click("#caption")
    page.wait_for_selector("text=This file cannot be read: it is not in an image format that Pillow reads")
    page.click("#photo button[aria-label='Remove Image']")
    caption(page, *scenes[1])
    assert words(page) == plain(studio, *scenes[1], num_beams=3)[0]


def test_too_large_a_file_is_refused(visit, tmp_path):
    page = visit()
    large = tmp_path / "large.png"
    large.write_bytes(b"0" * 21_000_000)
    page.set_input_files("#photo input[type=file]", str(large))
    page.wait_for_selector("text=exceed the maximum allowed size of 20.0 Mb")


def test_two_users_at_once_each_get_their_own(visit, scenes, studio):
    pages = [visit(), visit()]
    for page, given in zip(pages, scenes, strict=True):
        caption(page, *given)
    for page, given in zip(pages, scenes, strict=True):
        assert words(page) == plain(studio, *given, num_beams=3)[0]
