"""`captioner evaluate --report`: captioners on one split, with and without each modality, as a page.

Says what is measured and in which order; how the page looks is the affair of `html.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..adopt import load
from ..base import GenerationSettings, is_first_process, write_text
from ..evaluation import Evaluation, EvaluationOptions, evaluate, exact_match
from ..explain import AttributionError, Look, look
from ..metrics import score_per_image
from ..model import Captioner, CaptionerProcessor, FeatureError, ImageError, as_list, each, open_image
from .cards import Answer, Card
from .curves import read_log, series
from .html import Column, Curve, Page, Row, Training, render

SHOWN_SAMPLES = 24
SCORE_COLUMNS = {  # of the table, by the name of the score; a task has some of them
    "vqa_accuracy": Column("scores", "VQA accuracy", share=True),
    "bleu_4": Column("scores", "BLEU-4", share=True),
    "rouge_l": Column("scores", "ROUGE-L", share=True),
    "exact_match": Column("scores", "exact match", share=True),
    "meteor": Column("scores", "METEOR", share=True),
    "spice": Column("scores", "SPICE", share=True),
    "clip_score": Column("scores", "CLIPScore", share=False),
    "ref_clip_score": Column("scores", "RefCLIPScore", share=False),
    "cider_d": Column("scores", "CIDEr-D", share=False),
}
CURVES = {
    "loss": "training loss",
    "cider_d": "CIDEr-D in validation",
    "vqa_accuracy": "VQA accuracy in validation",
}


@dataclass
class Subject:
    """One captioner and what it did: rows of the table by what was given, everything first."""

    name: str
    model: Captioner
    processor: CaptionerProcessor
    results: dict[str, Evaluation] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """Its name and how it conditions."""
        config = self.model.config
        return f"{self.name} · {' · '.join(part for part in (config.conditioning, config.fusion) if part)}"

    @property
    def given(self) -> dict[str, list[str]]:
        """Rows of the table → the modalities that are hidden: none, then all but one."""
        names = self.model.config.modalities
        alone = {f"{name} only": [other for other in names if other != name] for name in names if len(names) > 1}
        return {" + ".join(names): [], **alone}

    @property
    def whole(self) -> Evaluation:
        """What it did with everything."""
        return next(iter(self.results.values()))

    def answers(self, index: int, sample: dict[str, Any], images: Any) -> list[Answer]:
        """Its captions of one sample of the split; what the one with everything rests on.

        Args:
            images: of the sample, opened.
        """
        listed = []
        for given, result in self.results.items():
            record = next((record for record in result.records if record["index"] == index), None)
            if record is None:  # this captioner could not read the sample
                continue
            right = exact_match([record["caption"]], [record["captions"]]) == 1 or None
            seen = self._look(record["caption"], sample, images) if result is self.whole else None
            listed.append(Answer(self.mode, given, record["caption"], right, seen))
        return listed

    def _look(self, caption: str, sample: dict[str, Any], images: Any) -> Look | None:
        """What a caption rests on; None where it has no words, or more tokens than can be looked into."""
        given = {"image": images, "context": sample["context"] or None}
        own = {name: value for name, value in given.items() if name in self.model.config.modalities}
        further = {name: sample[name] for name in self.processor.further if sample.get(name) is not None}
        if not caption.strip() or not (further or any(value is not None for value in own.values())):
            return None
        try:
            return look(self.model, self.processor, **own, caption=caption, further=further)
        except (AttributionError, FeatureError, ImageError):
            return None


def report(
    names: Sequence[str],
    samples: Any,
    generation: GenerationSettings,
    page: Path,
    options: EvaluationOptions | None = None,
    watch: Callable[[Iterable, str], Iterable] = lambda batches, what: batches,
) -> Evaluation:
    """Evaluate captioners on a split, with everything and with each modality alone, and write the page.

    Args:
        names: what `load` takes; the first one's scores order the cards.
        samples: a split in the data schema.
        page: the HTML file.
        options: of every evaluation; None: the usual ones.
        watch: wraps batches, given what they are for.

    Returns:
        The first captioner's evaluation with everything.
    """
    subjects = [Subject(name, *load(name)) for name in names]
    for subject in subjects:
        for given, hidden in subject.given.items():
            what, captioner = f"{subject.name}, {given}", (subject.model, subject.processor)
            subject.results[given] = evaluate(
                *captioner,
                samples,
                generation,
                options,
                hidden=hidden,
                watch=lambda batches, what=what: watch(batches, what),
            )
    if is_first_process():
        write_text(page, render(_page(subjects, samples)))
    return subjects[0].whole


def _page(subjects: Sequence[Subject], samples: Any) -> Page:
    scored = [name for name in SCORE_COLUMNS if name in subjects[0].whole.scores]
    cards = _cards(subjects, samples)
    return Page(
        title="captioner evaluation",
        heading=f"{len(samples)} samples, *{len(subjects)} captioner{'s' if len(subjects) > 1 else ''}*",
        intro=["What each captioner says with everything it can be given, and with each modality alone."],
        about="Scores are fractions, but CIDEr-D runs from 0 to 10 and CLIPScore from 0 to 2.5. Exact match is the "
        "share of captions that equal one of their references.",
        columns=[SCORE_COLUMNS[name] for name in scored],
        rows=[
            Row(subject.mode, given, [result.scores[name] for name in scored])
            for subject in subjects
            for given, result in subject.results.items()
        ],
        training=_training([subject.name for subject in subjects]),
        samples=_shown(len(cards), len(samples) - len(subjects[0].whole.records), subjects[0].name),
        cards=cards,
    )


def _shown(cards: int, lacking: int, name: str) -> str:
    """What the cards are, in words."""
    left_out = f"{lacking} that {name} could not caption left out" if lacking else "none left out"
    return f"The first {cards} samples of the split, {left_out}; the score is of {name}."


def _cards(subjects: Sequence[Subject], samples: Any) -> list[Card]:
    """The first samples that the first captioner captioned, each by its place in the split."""
    records = subjects[0].whole.records
    captions, references = ([record[key] for record in records] for key in ("caption", "captions"))
    scores = score_per_image(captions, references, ["cider_d"])["cider_d"]
    cards, most = [], max(subject.processor.max_pixels for subject in subjects)
    for record, score in zip(records[:SHOWN_SAMPLES], scores, strict=False):
        sample = samples[record["index"]]
        images = _opened(sample.get("image"), most)
        answers = [answer for subject in subjects for answer in subject.answers(record["index"], sample, images)]
        picture = next(iter(as_list(images)), None)
        cards.append(Card(sample["id"], score, picture, sample["context"], sample["captions"], answers))
    return cards


def _opened(image: Any, most: int) -> Any:
    """A sample's image or images; None where one cannot be read or has more than `most` pixels."""
    try:
        return each(partial(open_image, most=most), image)
    except ImageError:
        return None


def _training(names: Sequence[str]) -> Training | None:
    """The curves of the captioners whose run's log lies beside them."""
    curves = []
    for name in names:
        log = Path(name).parent / "metrics.jsonl"
        logged = read_log(log) if Path(name).is_dir() and log.is_file() else []
        for key, what in CURVES.items():
            points = series(logged, key)
            curves += [Curve(f"{what}, {name}", points)] if points else []
    return Training("As the runs logged it.", curves) if curves else None
