"""The trip of `captioner demo`: shipped captioners on unseen scenes, a training to watch, a page to keep.

Offline and on the CPU. Says what is measured and in which order; how the page looks is the affair of `html.py`.
"""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, groupby
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.box import SIMPLE_HEAD
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from ..adopt import AdoptError, load, shipped_folder, shipped_names
from ..base import console, load_settings, progress, say, write_text
from ..evaluation import EvaluationOptions, evaluate, exact_match, score_records
from ..explain import look
from ..metrics import score_per_image
from ..model import Captioner, CaptionerProcessor
from ..scenes import Scenes
from .cards import Answer, Card
from .html import Column, Page, Row, millions, render
from .live_training import LIVE, SCENES_AT_ONCE, train_live

DEMO_CAPTIONERS = {"concatenated": "scenes-concatenated", "separate": "scenes-separate"}  # mode → captioner
SCENE, SIGNED = "captioner-demo-scene.png", "captioner demo"  # the picture beside the page, and its mark
SHOWN_ROWS = {"image + context": None, "image only": "context", "context only": "image"}  # row → what is hidden
SHOWN_LEVELS = [1, 2, 3]  # of the unseen scenes: those with a picture
SHOWN_SCENES = 12  # as cards
LEVEL_COLUMNS = [
    Column(f"level {level}", name, share)
    for level in SHOWN_LEVELS
    for name, share in (("exact match", True), ("CIDEr-D", False))
]


@dataclass(frozen=True)
class Trial:
    """All unseen scenes captioned once: a record per scene, in the order of the split."""

    mode: str
    given: str
    captioner: tuple[Captioner, CaptionerProcessor]
    records: list[dict[str, Any]]

    @property
    def row(self) -> Row:
        """Its scores, level by level."""
        values = []
        for level in SHOWN_LEVELS:
            scored = score_records([record for record in self.records if record["level"] == level])
            values += [scored["exact_match"], scored["cider_d"]]
        return Row(self.mode, self.given, values)

    def answer(self, index: int, sample: dict[str, Any]) -> Answer:
        """What was said of one scene, whether it equals a true caption, and what it rests on where all was given."""
        record = self.records[index]
        right = exact_match([record["caption"]], [record["captions"]]) == 1
        seen = None
        if SHOWN_ROWS[self.given] is None and record["caption"]:
            seen = look(*self.captioner, sample["image"], sample["context"], record["caption"])
        return Answer(self.mode, self.given, record["caption"], right, seen)

    def cider_d(self) -> list[float]:
        """The score of each scene."""
        captions, references = ([record[key] for record in self.records] for key in ("caption", "captions"))
        return score_per_image(captions, references, ["cider_d"])["cider_d"]


def run_demo(output: Path, scenes: int = 200, steps: int | None = None) -> None:
    """Run the whole demo and leave the page at `output`; a picture and the new captioner come to lie beside it.

    The captioner of an earlier demo stays: the new one gets a folder with a number.

    Args:
        output: the HTML file to write.
        scenes: unseen scenes of each level for each row of the table.
        steps: of the live training; None: as many as fit into two minutes here.

    Raises:
        AdoptError: the package lacks its captioners.
    """
    began = time.monotonic()
    disable_progress_bar()
    unseen = Scenes("test", SHOWN_LEVELS, scenes * len(SHOWN_LEVELS))
    say(f"1 of 3: the shipped captioners caption {len(unseen)} unseen scenes, with and without each modality")
    trials = list(caption_unseen(unseen))
    rows = [trial.row for trial in trials]
    console.print(rich_table(rows))
    directory = unused(output.with_name("captioner-demo-live"))
    live = train_live(directory, scenes, steps)
    say("3 of 3: the page")
    picture, sample = output.with_name(SCENE), unseen[len(SHOWN_LEVELS) - 1]
    signed = PngInfo()
    signed.add_text("Software", SIGNED)
    Image.fromarray(sample["image"]).save(picture, pnginfo=signed)
    commands = next_commands(picture, sample["context"], directory)
    page = Page(
        title="captioner demo",
        heading="Captions that look *and* read",
        intro=introduction(scenes, time.monotonic() - began),
        about="Exact match is the share of captions that equal a true one word for word; CIDEr-D runs from 0 to 10.",
        columns=LEVEL_COLUMNS,
        rows=rows,
        training=live,
        samples="The first scenes of the test split, none left out; their score is the mean of both modes' CIDEr-D.",
        cards=cards(unseen, trials),
        commands=commands,
    )
    write_text(output, render(page))
    farewell(output, commands)


def unused(path: Path) -> Path:
    """A path that nothing lies at: this one, or the first with a number behind it."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(one for one in chain([path], numbered) if not one.exists() and not one.is_symlink())


def caption_unseen(unseen: Scenes) -> Iterator[Trial]:
    """Every shipped captioner, given both modalities and each alone."""
    missing = sorted(set(DEMO_CAPTIONERS.values()) - set(shipped_names()))
    if missing:
        raise AdoptError(
            f"this installation lacks the shipped captioners {missing}; install the package anew, or train them "
            "with configs/scenes.yaml and put each run's `best` into captioner/shipped under its name"
        )
    generation = load_settings(LIVE).generation
    options = EvaluationOptions(batch_size=SCENES_AT_ONCE, accelerator=Accelerator(cpu=True))
    for mode, name in DEMO_CAPTIONERS.items():
        model, processor = load(shipped_folder(name))
        for given, hidden in SHOWN_ROWS.items():
            watch = partial(progress, description=f"{mode}, {given}")
            records = evaluate(model, processor, unseen, generation, options, hidden=hidden, watch=watch).records
            yield Trial(mode, given, (model, processor), records)


def rich_table(rows: list[Row]) -> Table:
    """The table for the terminal; fits 80 columns."""
    shown = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
    shown.add_column("mode")
    shown.add_column("given")
    for level in SHOWN_LEVELS:
        shown.add_column(f"level {level}\nexact", justify="right")
        shown.add_column("\nCIDEr-D", justify="right")
    for mode, group in groupby(rows, lambda row: row.mode):
        for i, row in enumerate(group):
            cells = [column.write(value) for column, value in zip(LEVEL_COLUMNS, row.values, strict=True)]
            shown.add_row("" if i else mode, row.given, *cells)
        shown.add_section()
    return shown


def cards(unseen: Scenes, trials: list[Trial]) -> list[Card]:
    """The first scenes of the split, whatever was said of them; levels take turns there."""
    whole = [trial.cider_d() for trial in trials if SHOWN_ROWS[trial.given] is None]
    samples = [unseen[i] for i in range(min(SHOWN_SCENES, len(unseen)))]
    return [
        Card(
            label=f"level {sample['level']}",
            score=sum(scores[i] for scores in whole) / len(whole),
            picture=Image.fromarray(sample["image"]),
            context=sample["context"],
            references=sample["captions"],
            answers=[trial.answer(i, sample) for trial in trials],
        )
        for i, sample in enumerate(samples)
    ]


def introduction(scenes: int, seconds: float) -> list[str]:
    """What the page shows, in words."""
    size = millions(load(shipped_folder(DEMO_CAPTIONERS["concatenated"]))[0].num_parameters())
    return [
        f"Two captioners of {size} million parameters ship with the package. A vision transformer looks at the "
        "picture, a text encoder reads the context, and one decoder attends to both: through one shared memory "
        "(concatenated), or through a cross-attention for each modality (separate).",
        "Only the context knows names, and it may name things that are not there; only the picture knows what is "
        "there, how large and where. So a true caption needs both.",
        f"Measured on {scenes} unseen scenes per level, among them four pairs of colour and shape that no training "
        f"scene has. The demo took {seconds / 60:.1f} minutes on the CPU, offline.",
    ]


def next_commands(picture: Path, context: str, directory: Path) -> list[tuple[str, str]]:
    """Pairs of what to do next and the command that does it here."""
    see, read = f"captioner caption {shlex.quote(str(picture))}", f"--context {shlex.quote(context)}"
    best, own = (shlex.quote(str(directory / name)) for name in ("best", "settings.yaml"))
    here = Path("configs/demo.yaml")
    config = here if here.exists() and here.samefile(LIVE) else LIVE
    return [
        ("Caption the scene of the third card", f"{see} --model {DEMO_CAPTIONERS['separate']} {read}"),
        ("The same without the context", f"{see} --model {DEMO_CAPTIONERS['separate']}"),
        ("Score the captioner that was just trained", f"captioner evaluate --model {best} --config {own}"),
        ("Train the other mode", f"captioner train {shlex.quote(str(config))} model.conditioning=concatenated"),
    ]


def farewell(output: Path, commands: list[tuple[str, str]]) -> None:
    """Where the page is, and what to type next; commands stay whole, so that they can be copied."""
    plain = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    plain(f"\nThe page: {output}\n\nWhat to type next:")
    for what, command in commands:
        plain(f"  # {what}\n  {command}")
