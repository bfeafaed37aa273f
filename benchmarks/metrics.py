"""CIDEr-D, BLEU, ROUGE-L and the tokenizer against pycocoevalcap, on one core: `python benchmarks/metrics.py`.

2,000 images with 5 synthetic references of 8 to 13 words and one caption each. Every time is the best of three;
both sides run in turn in one process. The Java row is left out where there is no Java.
"""

import contextlib
import io
import random
import shutil
import time
from collections.abc import Callable
from typing import Any

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from captioner.metrics import CiderD, bleu, rouge_l, score, tokenize

IMAGES = 2000
REFERENCES = 5
VOCABULARY = 4000
ROUNDS = 3


def captions_of(rng: random.Random) -> list[list[str]]:
    """Per image: six captions that share words, drawn so that few words are frequent and many are rare."""
    words = [f"w{rank}" for rank in range(VOCABULARY)]
    weights = [1 / (rank + 3) for rank in range(VOCABULARY)]
    images = []
    for _ in range(IMAGES):
        theme = rng.choices(words, weights, k=16)
        lengths = [rng.randint(8, 13) for _ in range(REFERENCES + 1)]
        images.append([" ".join(rng.choices(theme, k=length)) for length in lengths])
    return images


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of one call, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        result = call()
    return time.perf_counter() - start, result


def race(**calls: Callable[[], Any]) -> dict[str, tuple[float, Any]]:
    """Best time and result of each call, taken in turn."""
    rounds = [{name: timed(call) for name, call in calls.items()} for _ in range(ROUNDS)]
    return {name: min((each[name] for each in rounds), key=lambda pair: pair[0]) for name in calls}


def report(
    title: str, results: dict[str, tuple[float, Any]], captions: int, difference: float | None
) -> None:
    slowest = next(iter(results.values()))[0]
    print(f"\n{title}")
    for name, (seconds, _) in results.items():
        rate, ratio = captions / seconds, slowest / seconds
        print(f"  {name.replace('_', ' '):38} {rate:10,.0f} captions/s   x{ratio:6.2f}")
    if difference is not None:
        print(f"  largest difference of a score: {difference:.1e}")


def largest(first: Any, second: Any) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def compare_cider(captions: list[str], references: list[list[str]], theirs: tuple[dict, dict]) -> None:
    words = [caption.split() for caption in captions]
    prepared = CiderD(references)
    results = race(
        pycocoevalcap_preparing=lambda: Cider().compute_score(*theirs)[1],
        captioner_preparing=lambda: CiderD(references).score(captions),
        captioner_prepared_raw_captions=lambda: prepared.score(captions),
        captioner_prepared_word_lists=lambda: prepared.score(words),
    )
    difference = largest(results["pycocoevalcap_preparing"][1], results["captioner_preparing"][1])
    report("CIDEr-D", results, len(captions), difference)


def compare_others(captions: list[str], references: list[list[str]], theirs: tuple[dict, dict]) -> None:
    results = race(
        pycocoevalcap=lambda: Bleu(4).compute_score(*theirs)[0],
        captioner=lambda: list(bleu.bleu(captions, references)[0].values()),
    )
    difference = largest(results["pycocoevalcap"][1], results["captioner"][1])
    report("BLEU-1 to BLEU-4", results, len(captions), difference)
    results = race(
        pycocoevalcap=lambda: list(Rouge().compute_score(*theirs)[1]),
        captioner=lambda: rouge_l.rouge_l(captions, references)[1]["rouge_l"],
    )
    difference = largest(results["pycocoevalcap"][1], results["captioner"][1])
    report("ROUGE-L", results, len(captions), difference)


def compare_tokenizers(texts: list[str]) -> None:
    ours = race(captioner_warm=lambda: [tokenize(text) for text in texts])
    if shutil.which("java"):
        wrapped = {number: [{"caption": text}] for number, text in enumerate(texts)}
        java = {"pycocoevalcap_Java": timed(lambda: PTBTokenizer().tokenize(wrapped))}
        ours = {**java, **ours}
    report("Tokenizer", ours, len(texts), None)


def main() -> None:
    images = captions_of(random.Random(0))
    captions = [image[0] for image in images]
    references = [image[1:] for image in images]
    theirs = (dict(enumerate(references)), {number: [caption] for number, caption in enumerate(captions)})
    print(
        f"{IMAGES} images, {REFERENCES} references each, captions of 8 to 13 words, one core, best of {ROUNDS}"
    )
    compare_cider(captions, references, theirs)
    compare_others(captions, references, theirs)
    compare_tokenizers([caption for image in images for caption in image])
    report("All together", race(captioner=lambda: score(captions, references)), len(captions), None)


if __name__ == "__main__":
    main()
