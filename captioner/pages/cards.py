"""Samples on a page: picture, context, references, what was said, and the maps of what each word rests on.

Knows plain data and `Look`s; knows nothing about models. Every text is escaped here, so callers pass plain text.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import groupby
from typing import Any

from PIL import Image
from torch import Tensor

from ..explain import PART_NAMES, Look, Word, enlarged, reduced, veil

SMALL, LARGE = 160, 320  # pixels: shorter side of a small picture once enlarged, longer side of a large one
TOP_WORDS = 3  # of the context, beneath a map
ORDERS = {  # how the cards may be sorted: the control's name, its label
    "split": "order of the split",
    "worst": "lowest score first",
    "best": "highest score first",
}


@dataclass(frozen=True)
class Answer:
    """One caption of a sample.

    Args:
        right: whether it equals a true caption; None where that is not asked.
        look: what its words rest on, or None.
    """

    mode: str
    given: str
    caption: str
    right: bool | None = None
    look: Look | None = None


@dataclass(frozen=True)
class Card:
    """One sample; answers of a mode are adjacent.

    Args:
        label: what it is called.
        score: CIDEr-D, by which the cards can be sorted.
        picture: RGB, or None where there is none.
    """

    label: str
    score: float
    picture: Image.Image | None
    context: str | None
    references: Sequence[str]
    answers: Sequence[Answer]


def card_list(cards: Sequence[Card]) -> str:
    """The cards with their sorting: one radio button per order, which CSS alone obeys."""
    by_score = sorted(range(len(cards)), key=lambda i: cards[i].score)
    rank = {number: place for place, number in enumerate(by_score)}
    controls = "".join(
        f'<input type="radio" name="order" id="order-{name}"{" checked" if name == "split" else ""}>'
        f'<label for="order-{name}">{label}</label>'
        for name, label in ORDERS.items()
    )
    shown = "\n".join(card(one, rank[i]) for i, one in enumerate(cards))
    return f'<div class="sorted">{controls}<div class="cards">\n{shown}\n</div></div>'


def further_modalities(cards: Sequence[Card]) -> list[str]:
    """The modalities beyond image and context that bars of the cards may show."""
    looks = [answer.look for one in cards for answer in one.answers if answer.look is not None]
    return list(dict.fromkeys(name for look in looks for name in look.found.balance() if name not in PART_NAMES))


def card(sample: Card, rank: int = 0) -> str:
    """One sample; `rank` is its place when sorted from the lowest score."""
    references = "".join(f"<li>{escape(text)}</li>" for text in sample.references)
    context = f'<h3>context</h3><p class="context">{escape(sample.context)}</p>' if sample.context else ""
    answers = "".join(_answers(mode, list(group)) for mode, group in groupby(sample.answers, lambda a: a.mode))
    return f"""<article style="--rank: {rank}">
<div class="scene">{_picture(sample.picture)}
<div><p class="level">{escape(sample.label)}</p><p class="level">CIDEr-D {sample.score:.2f}</p>
{context}
<h3>true captions</h3><ul>{references}</ul></div></div>
{answers}
</article>"""


def _picture(picture: Image.Image | None) -> str:
    if picture is None:
        return ""
    return f'<img src="{data_uri(picture)}" alt="the picture of this sample">'


def _answers(mode: str, answers: Sequence[Answer]) -> str:
    """What one captioner said, then the maps of each caption that has some."""
    said = "".join(map(_answer, answers))
    maps = "".join(word_maps(answer.look) for answer in answers if answer.look is not None)
    return f'<div class="said"><h3>{escape(mode)}</h3><dl>{said}</dl>{maps}</div>'


def _answer(answer: Answer) -> str:
    said = escape(answer.caption) or "(nothing)"
    if answer.right is None:
        return f"<div><dt>{escape(answer.given)}</dt><dd><span>{said}</span></dd></div>"
    kind, mark = ("right", "✓") if answer.right else ("wrong", "✗")
    return (
        f'<div><dt>{escape(answer.given)}</dt><dd class="{kind}"><b title="{kind}" aria-label="{kind}:">{mark}</b>'
        f"<span>{said}</span></dd></div>"
    )


def word_maps(look: Look, **choice: Any) -> str:
    """A small map per word: the photo under its veil, the bar "looked / read", the context words read most.

    `choice` is `method`, `layer` and `head`, as in `Attribution.weights`.
    """
    found, photo = look.found, look.photo
    frame = f"--photo: url({data_uri(photo)}); --shape: {photo.width} / {photo.height}" if photo else ""
    veils = [""] * len(found.words) if photo is None else [_veiled(photo, heat) for heat in found.heat(**choice)]
    balance, readings = found.balance(**choice), found.reading(**choice).tolist()
    parts = [{name: float(own[i]) for name, own in balance.items()} for i in range(len(found.words))]
    read = [_most_read(found.context, weights) for weights in readings]
    figures = map(_figure, found.words, veils, parts, read)
    return f'<div class="maps" style="{frame}">{"".join(figures)}</div>'


def _figure(word: Word, veiled: str, parts: dict[str, float], read: str) -> str:
    """One word: its map, its bar cut into parts, and what it read."""
    parts = {name: share for name, share in parts.items() if share >= 0.005}
    title = ", ".join(f"{PART_NAMES.get(name, escape(name))} {share:.0%}" for name, share in parts.items())
    bar = "".join(f'<i class="{_kind(name)}" style="width: {share:.1%}"></i>' for name, share in parts.items())
    return (
        f'<figure title="{escape(word.text)}: {title}">{veiled}<figcaption>{escape(word.text)}</figcaption>'
        f'<div class="bar" role="img" aria-label="{title}">{bar}</div>{read}</figure>'
    )


def _veiled(photo: Image.Image, heat: Tensor) -> str:
    """The photo of the frame around it, under the veil of a heat map (height, width)."""
    return f'<div class="map" style="--veil: url({data_uri(veil(photo, heat), 1)})"></div>'


def _kind(part: str) -> str:
    """The class of a part of a bar; further modalities share one."""
    return f"is-{part if part in PART_NAMES else 'further'}"


def _most_read(context: Sequence[Word], weights: Sequence[float]) -> str:
    """The context words with the highest weights, in reading order, shaded over the highest."""
    if not weights or max(weights) <= 0:
        return ""
    most = sorted(sorted(range(len(weights)), key=lambda i: -weights[i])[:TOP_WORDS])
    shades = ((weights[i] / max(weights), context[i].text) for i in most)
    return "".join(f'<span class="read" style="--weight: {depth:.0%}">{escape(text)}</span>' for depth, text in shades)


def data_uri(picture: Image.Image, least: int = SMALL) -> str:
    """A picture inside an address: small ones as PNG of whole enlarged pixels, large ones as a reduced JPEG."""
    sink = BytesIO()
    if max(picture.size) <= LARGE:
        enlarged(picture, least).save(sink, format="PNG", optimize=True)
        return f"data:image/png;base64,{b64encode(sink.getvalue()).decode()}"
    reduced(picture, LARGE).save(sink, format="JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(sink.getvalue()).decode()}"
