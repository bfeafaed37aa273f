"""The reader of VQA's files: questions and annotations as JSON, and a folder of images, to one row per question.

The format is that of visualqa.org/download; image files are found by the number at the end of their names. Knows
nothing about scores of answers.
"""

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..base import SUFFIXES, DataSettings, some
from .annotations import expect, named_file, read_json, root_of
from .faults import DataError
from .places import folders
from .rows import Cells, Rows, file_rows
from .split_names import names_of


def read_vqa(settings: DataSettings, split: str) -> Rows:
    """`path`: the image folder; `questions` and `annotations`: a JSON file each, or one per split.

    The question is the context, the answers of all annotators are the captions; one file serves every split.

    Raises:
        DataError: files that are missing, not of this form, or without answers or an image for a question.
    """
    questions, answers = (named_file(settings, split, {".json"}, key) for key in ("questions", "annotations"))
    with expect("VQA's questions", questions):
        asked = read_json(questions)["questions"]
        cells = {entry["question_id"]: (entry["question"], entry["image_id"]) for entry in asked}
    with expect("VQA's annotations", answers):
        said = {entry["question_id"]: _answers(entry) for entry in read_json(answers)["annotations"]}
    missing = [str(name) for name in cells if name not in said]
    if missing:
        raise DataError(
            f"{answers} has no answers to {len(missing)} of {len(cells)} questions in {questions}: {some(missing, 3)}; "
            "set `data.annotations` and `data.questions` to files of the same split"
        )
    contexts, images = ([own[place] for own in cells.values()] for place in (0, 1))
    root = root_of(settings)
    names = _files_of(images, root, split)
    return file_rows([root], names, Cells([said[name] for name in cells], contexts, list(cells)), questions, split)


def _answers(entry: dict[str, Any]) -> list[str]:
    return [own["answer"] for own in entry["answers"]]


def _files_of(numbers: list[int], root: Path, split: str) -> list[str]:
    """The image file of each number: COCO_val2014_000000262148.jpg is number 262148."""
    found: dict[int, list[Path]] = defaultdict(list)
    for folder in folders(root, 1):
        for entry in os.scandir(folder):
            number = re.search(r"(\d+)\.\w+$", entry.name)
            if number and Path(entry.name).suffix.lower() in SUFFIXES and not entry.name.startswith("."):
                found[int(number[1])].append(Path(entry.path).relative_to(root))
    missing = [str(number) for number in dict.fromkeys(numbers) if int(number) not in found]
    if missing:
        raise DataError(
            f"{root} has no image for {len(missing)} numbers in `data.questions`: {some(missing, 3)}; set `data.path` "
            "to the folder of files whose names end in them, such as COCO_val2014_000000262148.jpg"
        )
    return [str(_only(int(number), found[int(number)], split)) for number in numbers]


def _only(number: int, files: list[Path], split: str) -> Path:
    """The one file of a number, or the one that is named after the split or lies in its folder."""
    own = [file for file in files if any(name in file.as_posix() for name in names_of(split))]
    own = own if len(files) > 1 and own else files
    if len(own) > 1:
        raise DataError(f"image {number} may be {some(own, 3)}; set `data.path` to the folder of the right ones")
    return own[0]
