"""Score a captioner of questions or translations on unseen scenes: the tables of questions.md and translation.md.

`python benchmarks/scene_tasks.py questions runs/vqa/best`, or `translation` and its captioner: share of right answers
by kind (or level), as it is, and with each modality blanked and taken from another sample.
"""

import sys
from collections import defaultdict

from captioner import load
from captioner.base import GenerationSettings
from captioner.evaluation import EvaluationOptions, evaluate, exact_match
from captioner.evaluation.ablation import CHANGES
from captioner.scenes.questions import SceneQuestions
from captioner.scenes.translations import SceneTranslations

COUNT = 1200
TASKS = {  # the samples, and what the columns of the table part them by
    "questions": (lambda split: SceneQuestions(split, [1, 2, 3], COUNT), "kind"),
    "translation": (lambda split: SceneTranslations(split, [1, 2], COUNT), "level"),
}

task, name = sys.argv[1:]
make, key = TASKS[task]
model, processor = load(name)
samples = make("test")
splits = {"as it is": samples} | {
    f"{modality} {kind}": change(samples, modality)
    for modality in model.config.modalities
    for kind, change in CHANGES.items()
}
for row, split in splits.items():
    greedy = GenerationSettings(num_beams=1, max_new_tokens=15)
    groups = defaultdict(list)
    for record in evaluate(model, processor, split, greedy, EvaluationOptions(batch_size=100, task=task)).records:
        right = exact_match([record["caption"]], [record["captions"]])
        groups["all"].append(right)
        groups[record[key]].append(right)
    if row == "as it is":
        print(f"| shown | {' | '.join(map(str, groups))} |")
    cells = (f"{sum(right) / len(right):.1%}" for right in groups.values())
    print(f"| {row} | {' | '.join(cells)} |", flush=True)
