"""`metrics.jsonl` and TensorBoard: a line per logged step and per validation, without a gap after a restart.

TensorBoard also gets validation samples as pictures, with what was said about them beneath. Knows nothing about how
its numbers came about.
"""

import json
import time
from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..base import Settings, write_text
from ..data import Split
from ..model import ImageError, open_image

WIDTH, LINE, LETTERS = 320, 16, 50  # pixels, pixels, letters in a line


class RunLog:
    """The log of a run.

    Args:
        settings: of the run; saved beside the log.
        accelerator: writes to its trackers; only the first process writes.
        done: steps that a checkpoint holds; lines of later steps are dropped, since those will be taken again.
    """

    def __init__(self, settings: Settings, accelerator: Accelerator, done: int = 0):
        self.accelerator, self.every = accelerator, settings.training.logging_steps
        self.directory = Path(settings.training.output_dir)
        self.file = self.directory / "metrics.jsonl"
        self.losses: list[Tensor] = []
        self.skipped = 0
        kept = [line for line in _lines(self.file) if line["step"] <= done] if done else []
        self.began = time.monotonic() - 60 * max((line["minutes"] for line in kept), default=0.0)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self.directory.mkdir(parents=True, exist_ok=True)
            settings.save(self.directory / "settings.yaml")
            write_text(self.file, "".join(_line(line) for line in kept))
        accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": done + 1}})

    def step(self, step: int, loss: Tensor | None, rates: dict[str, float]) -> None:
        """Note a step's loss, None where the step was left out; every `logging_steps` their mean becomes a line.

        Args:
            rates: of the next step, by the names of their settings.
        """
        self.losses += [] if loss is None else [loss]
        self.skipped += loss is None
        if step % self.every == 0:
            values = {"loss": torch.stack(self.losses).mean().item()} if self.losses else {}
            values |= {"skipped_steps": self.skipped} if self.skipped else {}
            self.losses.clear()
            self.skipped = 0
            self.write(step, values | rates)

    def write(self, step: int, values: dict[str, float], **notes: str) -> None:
        """Write one line now; notes go to the file alone."""
        self.accelerator.log(values, step=step)
        if self.accelerator.is_main_process:
            line = {"step": step, "minutes": round((time.monotonic() - self.began) / 60, 3), **values, **notes}
            with self.file.open("a") as file:
                file.write(_line(line))

    def show(self, step: int, pictures: Iterable[tuple[str, np.ndarray]]) -> None:
        """Put pictures (H, W, 3), each with its name, into TensorBoard where it is installed."""
        if self.accelerator.is_main_process and self.accelerator.trackers:
            for name, picture in pictures:
                values = {f"validation/{name}": picture[None]}
                self.accelerator.get_tracker("tensorboard").log_images(values, step, dataformats="NHWC")

    def pending(self) -> list[float]:
        """The losses since the last line."""
        return [loss.item() for loss in self.losses]

    def restore(self, pending: list[float]) -> None:
        """Go on in the middle of a line."""
        self.losses = [torch.tensor(loss, device=self.accelerator.device) for loss in pending]


def _line(values: dict[str, Any]) -> str:
    """A line of the log; what JSON has no number for becomes null."""
    finite = {name: None if isinstance(v, float) and not isfinite(v) else v for name, v in values.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log; one that a kill cut short, or that is no line of a log, is left out."""
    for text in file.read_bytes().split(b"\n") if file.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and all(isinstance(line.get(key), int | float) for key in ("step", "minutes")):
            yield line


def captioned_pictures(records: list[dict[str, Any]], samples: Split) -> Iterator[tuple[str, np.ndarray]]:
    """Evaluated records and the split that their `index` counts → id and picture (H, W, 3) of each, as bytes.

    Beneath the image stand the context, the caption and the first reference. Samples without a readable image get
    the text alone.
    """
    for record in records:
        texts = {"context": record.get("context"), "said": record["caption"], "reference": record["captions"][0]}
        lines = [line for name, text in texts.items() if text for line in wrap(f"{name}: {text}", LETTERS)]
        yield record["id"], _picture(samples[record["index"]].get("image"), lines)


def _picture(source: Any, lines: list[str]) -> np.ndarray:
    try:
        image = None if source is None else open_image(source)
    except ImageError:
        image = None
    height = 0 if image is None else round(WIDTH * image.height / image.width)
    page = Image.new("RGB", (WIDTH, height + LINE * (len(lines) + 1)), "white")
    if image is not None:
        page.paste(image.resize((WIDTH, height)))
    draw = ImageDraw.Draw(page)
    for i, line in enumerate(lines):
        draw.text((LINE // 2, height + LINE * i + LINE // 2), line, "black", ImageFont.load_default(LINE * 0.75))
    return np.asarray(page)
