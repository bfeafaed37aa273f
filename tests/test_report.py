"""The page: it holds every text and number it is given, escaped, and needs nothing beside it."""

import base64
import io
import re
from html import escape, unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from captioner.report import Answer, Card, Live, Page, Row, ceiling_above, chart, data_uri, render

NASTY = "<script>alert('1')</script> & \"a\" $style http://elsewhere.example"
VOID = {"meta", "link", "img"}


def picture():
    return np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)


def page(**changes):
    answers = [Answer("separate", given, f"caption {given} {NASTY}", given == "both") for given in ("both", "one")]
    parts = {
        "intro": [f"intro {NASTY}"],
        "rows": [
            Row("concatenated", "image + context", {1: (0.975, 9.876), 2: (0.5, 4.321)}),
            Row("separate", f"row {NASTY}", {1: (0.004, 0.0), 2: (1.0, 10.0)}),
        ],
        "live": Live([(25, 3.0), (50, 1.0)], [(50, 0.25)], f"live {NASTY}"),
        "cards": [Card(2, picture(), f"context {NASTY}", [f"reference {NASTY}"], answers)],
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


def test_the_page_holds_every_text_escaped():
    html = render(page())
    for start in ("intro", "row", "live", "context", "reference", "caption both", "caption one", "what", "command"):
        assert escape(f"{start} {NASTY}") in html
        assert f"{start} {NASTY}" in Reader(html).text
    assert "<script" not in html


def test_the_page_needs_nothing_beside_it():
    html = render(page())
    reader = Reader(html)
    assert all(source.startswith("data:") for source in reader.sources)
    assert not {"script", "iframe", "object", "embed"} & set(reader.tags)
    assert "http" not in html.replace("http://elsewhere.example", "")
    assert not re.search(r"url\(|@import", html)
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_the_table_holds_the_numbers():
    body = re.search(r"<table>.*</table>", render(page()), re.S).group()
    rows = [re.findall(r"<td[^>]*>([^<]+)</td>", row) for row in body.split("<tr>")]
    assert [row for row in rows if row] == [
        ["97.5 %", "9.88", "50.0 %", "4.32"],
        ["0.4 %", "0.00", "100.0 %", "10.00"],
    ]
    assert re.findall(r"--share:([\d.]+)%", body) == ["97.5", "50.0", "0.4", "100.0"]


def test_right_and_wrong_differ_in_more_than_colour():
    html = render(page())
    marks = re.findall(r'<dd class="(\w+)"><b title="(\w+)" aria-label="\w+:">(.)</b>', html)
    assert marks == [("right", "right", "✓"), ("wrong", "wrong", "✗")]


def test_a_caption_of_no_words_is_said_to_be_nothing():
    card = Card(1, picture(), "", ["a"], [Answer("separate", "both", "", False)])
    assert "(nothing)" in render(page(cards=[card]))


def test_a_picture_is_embedded_whole_with_enlarged_pixels():
    kind, data = data_uri(picture()).split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert np.array_equal(np.asarray(image)[::3, ::3], picture())
        assert image.size == (18, 24)


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


def test_unescaping_the_page_gives_back_the_commands():
    code = re.search(r"<code>(.*?)</code>", render(page()), re.S).group(1)
    assert unescape(code) == f"command {NASTY}"
