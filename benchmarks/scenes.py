"""Score the shipped captioners on unseen scenes: `python benchmarks/scenes.py` prints the table of scenes.md.

Every level, both modes, with both modalities and with each alone; test split and validation split.
"""

from captioner import load
from captioner.base import GenerationSettings
from captioner.evaluation import EvaluationOptions, evaluate
from captioner.scenes import Scenes

CONDITIONS = {"image + context": None, "image only": "context", "context only": "image"}
COUNT = 500

for name in ("scenes-concatenated", "scenes-separate"):
    model, processor = load(name)
    for split in ("test", "validation"):
        for shown, hidden in CONDITIONS.items():
            cells = []
            for level in (1, 2, 3):
                greedy = GenerationSettings(num_beams=1, max_new_tokens=20)
                scenes = Scenes(split, [level], COUNT)
                options = EvaluationOptions(batch_size=100)
                scores = evaluate(model, processor, scenes, greedy, options, hidden=hidden).scores
                cells.append(f"{scores['exact_match']:.1%} | {scores['cider_d']:.2f}")
            print(f"| {name} | {split} | {shown} | {' | '.join(cells)} |", flush=True)
