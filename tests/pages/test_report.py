"""The pages: they hold every text and number they are given, escaped, need nothing beside them, and can be sorted."""

import base64
import io
import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import tiny_captioner
from PIL import Image
from typer.testing import CliRunner

from captioner import load
from captioner.adopt import train_tokenizer
from captioner.base import GenerationSettings
from captioner.cli.main import app
from captioner.evaluation import evaluate
from captioner.explain import Look, look
from captioner.model import CaptionerProcessor, ImageSettings
from captioner.pages.cards import Answer, Card, card_list, data_uri, word_maps
from captioner.pages.charts import ceiling_above, chart
from captioner.pages.curves import read_log, series
from captioner.pages.html import Column, Curve, Page, Row, Training, render
from captioner.scenes import Scenes

NASTY = "<script>alert('1')</script> & \"a\" $style http://elsewhere.example"
VOID = {"meta", "link", "img", "input"}
COLUMNS = [Column(f"level {level}", name, name == "exact") for level in (1, 2) for name in ("exact", "CIDEr-D")]
CHROMIUM = shutil.which("chromium")


def picture(side=8):
    return Image.fromarray(np.arange(side * 6 * 3, dtype=np.uint8).reshape(side, 6, 3))


def card(label="level 2", score=1.5, **changes):
    answers = [Answer("separate", given, f"caption {given} {NASTY}", given == "both") for given in ("both", "one")]
    parts = {"picture": picture(), "context": f"context {NASTY}", "references": [f"reference {NASTY}"]}
    return Card(label, score, **{**parts, "answers": answers, **changes})


def page(**changes):
    parts = {
        "title": f"title {NASTY}",
        "heading": f"{NASTY} *heading*",
        "intro": [f"intro {NASTY}"],
        "about": f"about {NASTY}",
        "columns": COLUMNS,
        "rows": [
            Row("concatenated", "image + context", [0.975, 9.876, 0.5, 4.321]),
            Row("separate", f"row {NASTY}", [0.004, 0.0, 1.0, 10.0]),
        ],
        "training": Training(
            f"live {NASTY}", [Curve("loss", [(25, 3.0), (50, 1.0)]), Curve("exact", [(50, 0.25)], share=True)]
        ),
        "samples": f"samples {NASTY}",
        "cards": [card(f"label {NASTY}")],
        "commands": [(f"what {NASTY}", f"command {NASTY}")],
    }
    return Page(**{**parts, **changes})


class Reader(HTMLParser):
    """Collects tags, attributes that load something, and text; fails where tags do not close in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def seen():
    """A look into a caption of two words, one of them nasty."""
    texts = ["anna sees the <b>red</b> circle", "the < circle"]
    processor = CaptionerProcessor(ImageSettings(32, 32), train_tokenizer(texts, "word", min_frequency=1))
    return look(tiny_captioner("separate", "serial"), processor, picture(12), *texts)


def test_the_page_holds_every_text_escaped():
    html = render(page())
    starts = ["title", "intro", "about", "row", "live", "samples", "label", "context", "reference", "what", "command"]
    for start in [*starts, "caption both", "caption one"]:
        assert escape(f"{start} {NASTY}") in html
        assert f"{start} {NASTY}" in Reader(html).text
    assert "<script" not in html


def test_the_page_needs_nothing_beside_it(seen):
    html = render(page(cards=[card(answers=[Answer("separate", "both", "the circle", None, seen)])]))
    reader = Reader(html)
    assert all(source.startswith("data:") for source in reader.sources)
    assert not {"script", "iframe", "object", "embed"} & set(reader.tags)
    assert "http" not in html.replace("http://elsewhere.example", "")
    assert "@import" not in html
    assert set(re.findall(r"url\((.{5})", html)) == {"data:"}
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_what_a_page_does_not_have_leaves_no_empty_section():
    html = render(page(training=None, commands=()))
    assert "<h2>Training" not in html
    assert "What to type next" not in html
    Reader(html)


def test_the_table_holds_the_numbers():
    body = re.search(r"<table>.*</table>", render(page()), re.S).group()
    rows = [re.findall(r"<td[^>]*>([^<]+)</td>", row) for row in body.split("<tr>")]
    assert [row for row in rows if row] == [
        ["97.5 %", "9.88", "50.0 %", "4.32"],
        ["0.4 %", "0.00", "100.0 %", "10.00"],
    ]
    assert re.findall(r"--share:([\d.]+)%", body) == ["97.5", "50.0", "0.4", "100.0"]
    assert re.findall(r'<th colspan="(\d)" scope="colgroup">([^<]+)', body) == [("2", "level 1"), ("2", "level 2")]


def test_right_and_wrong_differ_in_more_than_colour():
    html = render(page())
    marks = re.findall(r'<dd class="(\w+)"><b title="(\w+)" aria-label="\w+:">(.)</b>', html)
    assert marks == [("right", "right", "✓"), ("wrong", "wrong", "✗")]


def test_a_caption_of_no_words_is_said_to_be_nothing():
    assert "(nothing)" in card_list([card(answers=[Answer("separate", "both", "", False)])])


def test_a_sample_without_image_or_context_has_neither_on_its_card():
    html = card_list([card(picture=None, context=None)])
    assert "<img" not in html
    assert "<h3>context" not in html


def decoded(address):
    return Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))


def test_a_small_picture_is_embedded_whole_with_enlarged_pixels():
    address = data_uri(picture())
    assert address.startswith("data:image/png;base64")
    enlarged = np.asarray(decoded(address))
    assert enlarged.shape == (27 * 8, 27 * 6, 3)
    assert np.array_equal(enlarged[::27, ::27], np.asarray(picture()))


def test_a_large_picture_is_embedded_reduced_in_its_shape():
    address = data_uri(Image.new("RGB", (1600, 900), "teal"))
    assert address.startswith("data:image/jpeg;base64")
    assert decoded(address).size == (320, 180)


def test_word_maps_show_every_words_share_and_most_read_words(seen):
    html = word_maps(seen)
    Reader(html)
    words = re.findall(r"<figcaption>([^<]+)</figcaption>", html)
    assert [unescape(word) for word in words] == [word.text for word in seen.found.words]
    covers = [decoded(address) for address in re.findall(r"--veil: url\(([^)]+)\)", html)]
    heats, readings = seen.found.heat(), seen.found.reading()
    for cover, heat in zip(covers, heats, strict=True):
        alpha = torch.from_numpy(np.asarray(cover)[..., 3].astype(np.float32))
        assert alpha.argmin() == heat.argmax()
        assert alpha.shape == heat.shape
    balance = seen.found.balance()
    for i, figure in enumerate(html.split("<figure")[1:]):
        widths = {name: float(width) for name, width in re.findall(r'class="is-(\w+)" style="width: ([\d.]+)%', figure)}
        for name, own in balance.items():
            assert widths.get(name, 0.0) == pytest.approx(100 * float(own[i]), abs=0.5)
        shades = re.findall(r'--weight: (\d+)%">([^<]+)<', figure)
        most = seen.found.context[int(readings[i].argmax())].text
        assert ("100", escape(most)) in shades


def test_word_maps_without_an_image_have_words_and_no_maps(seen):
    assert "--veil" not in word_maps(Look(seen.found, None))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(
    ("order", "expected"), [("split", ["b", "c", "a"]), ("worst", ["a", "b", "c"]), ("best", ["c", "b", "a"])]
)
def test_the_cards_are_sorted_by_score_without_a_script(tmp_path, order, expected):
    """The page as a browser lays it out: a probe script, which only this test adds, reads the places."""
    cards = [card(name, score, answers=()) for name, score in (("b", 1.0), ("c", 2.0), ("a", 0.5))]
    probe = """<script>
    document.getElementById("order-ORDER").checked = true;
    const place = card => { const box = card.getBoundingClientRect(); return 10000 * box.top + box.left; };
    const cards = [...document.querySelectorAll("article")].sort((a, b) => place(a) - place(b));
    document.title = cards.map(card => card.querySelector(".level").textContent).join();
    </script></body>""".replace("ORDER", order)
    file = tmp_path / "page.html"
    file.write_text(render(page(cards=cards)).replace("</body>", probe))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", "--dump-dom"]
    dom = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search("<title>(.*?)</title>", dom).group(1).split(",") == expected


@pytest.mark.parametrize("count", [1, 2, 60])
def test_a_curve_is_drawn_through_its_points(count):
    points = [(10 * (i + 1), (i + 1) / count) for i in range(count)]
    html = chart(points, "exact match", 1.0, "{:.0%}".format)
    Reader(html)
    assert html.count("<circle") == count
    assert html.count("<polyline") == (count > 1)
    assert f"step {10 * count}" in html
    x, y = map(float, re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', html)[-1])
    assert (x, y) == (348, 14)  # the last step is the right edge, 100 % the top
    assert "<title>step 10: " in html


@pytest.mark.parametrize("points", [[], [(10, float("nan")), (20, float("inf"))]])
def test_a_curve_without_points_says_so(points):
    assert "nothing was logged" in chart(points, "loss", ceiling_above(points), str)


@pytest.mark.parametrize(
    ("highest", "ceiling"), [(0.0, 1e-6), (0.3, 0.5), (1.0, 1.0), (1.01, 2.0), (3.4, 5.0), (7.0, 10.0), (10.0, 10.0)]
)
def test_the_ceiling_is_a_round_number_above_every_value(highest, ceiling):
    assert ceiling_above([(1, highest), (2, highest / 2)]) == pytest.approx(ceiling)


def test_a_log_gives_one_series_per_name(tmp_path):
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "cider_d": 0.5}, {"step": 3, "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert series(read_log(tmp_path / "metrics.jsonl"), "loss") == [(1, 3.0), (3, 1.0)]


@pytest.mark.parametrize(
    "broken",
    [
        '{"step": 2, "loss": 2.',  # a kill
        "",
        "null",
        "[1]",
        '{"loss": 1.0}',
        '{"step": "two", "loss": 1.0}',
        '{"step": 2, "loss": "high"}',
        '{"step": 2, "loss": null}',
        "\udcff",
    ],
)
def test_what_a_log_does_not_hold_whole_is_left_out_of_its_curve(tmp_path, broken):
    whole = ['{"step": 1, "loss": 3.0}', '{"step": 3, "loss": 1.0}']
    for place in range(3):
        text = "\n".join([*whole[:place], broken, *whole[place:]])
        (tmp_path / "metrics.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
        assert series(read_log(tmp_path / "metrics.jsonl"), "loss") == [(1, 3.0), (3, 1.0)]


def test_a_log_with_a_mark_of_its_encoding_and_with_numbers_that_are_none_is_drawn(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": NaN}\r\n{"step": 2, "loss": 1.0}', encoding="utf-8-sig"
    )
    points = series(read_log(tmp_path / "metrics.jsonl"), "loss")
    assert [step for step, _ in points] == [1, 2]
    assert chart(points, "loss", ceiling_above(points), str).count("<circle") == 1


def test_unescaping_the_page_gives_back_the_commands():
    code = re.search(r"<code>(.*?)</code>", render(page()), re.S).group(1)
    assert unescape(code) == f"command {NASTY}"


def run(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_evaluate_writes_a_page_with_the_scores_it_prints(tmp_path):
    """Both shipped captioners, one of them from a run's directory with a log."""
    folder = tmp_path / "run" / "best"
    model, processor = load("scenes-concatenated")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder.parent / "metrics.jsonl").write_text('{"step": 5, "loss": 2.5}\n{"step": 10, "cider_d": 0.75}\n')
    file, settings = tmp_path / "page.html", ["data.source=scenes", "data.limit=6", "generation.num_beams=1"]
    options = ["--compare", folder, "--split", "test", "--num-workers", 0, "--report", file]
    code, printed = run("-m", "scenes-separate", *settings, *options)
    assert code == 0, printed
    assert "split:test|samples:6" in printed
    html = file.read_text()
    Reader(html)
    samples, search = Scenes("test", [1, 2, 3], 6), GenerationSettings(num_beams=1)
    expected = []
    for name in ("scenes-separate", folder):
        for hidden in (None, "context", "image"):
            result = evaluate(*load(name), samples, search, hidden=hidden)
            scores = result.scores
            expected += [f"{100 * scores[key]:.1f} %" for key in ("bleu_4", "rouge_l", "exact_match")]
            expected.append(f"{scores['cider_d']:.2f}")
            assert all(escape(record["caption"]) in html for record in result.records)
    assert re.findall(r"<td[^>]*>([^<]+)</td>", html) == expected
    assert html.count("<article") == 6
    assert html.count('class="maps"') == 12
    assert "training loss, " in html
    assert "CIDEr-D in validation, " in html
    assert f"{evaluate(*load('scenes-separate'), samples, search).scores['cider_d']:.4f}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "scenes-separate"], "name the page with `--report`"),
        (["--report", "nowhere/page.html"], "`--report` is in nowhere, which is no folder"),
    ],
)
def test_a_page_that_cannot_be_made_is_refused_before_any_work(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed = run("-m", "scenes-separate", *arguments)
    assert (code, message in printed) == (2, True), printed
