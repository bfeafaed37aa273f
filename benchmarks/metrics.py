"""The metrics and the tokenizer against pycocoevalcap, side by side: `python benchmarks/metrics.py [FILE …]`.

Speed: 2,000 images with 5 synthetic references of 8 to 13 words and one caption each; every time is the best of
three and both sides take turns. Agreement: of the tokenizers on random strings and, where Parquet files with a
column `captions` are given, of tokenizers and scores on those, the last caption of an image against its others.
What needs Java is left out where there is none.
"""

import contextlib
import io
import random
import shutil
import string
import sys
import time
from collections.abc import Callable
from typing import Any

from pyarrow import parquet
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from captioner.metrics import CiderD, bleu, rouge_l, score, tokenize

IMAGES = 2000
REFERENCES = 5
VOCABULARY = 4000
ROUNDS = 3
NASTY = """
dog it s don n t 's ' ’ n't n’t - / . ... 5 12 1/2 $ % ( ) " a.m. u.s. mr. etc cannot gonna ’s “ ” – — 'll
d' o'clock : 5:30 pm 1,000 .5 é and & AT&T # @ www.a.com http://a.b/c a@b.com ! ? !! 😀 🐶 3D t-shirt x X A
'90s ` 10'' _ * <b> </b> &amp; ; :) No. jr. mother-in-law's 20-year-old (555) 123-4567 [ok] {x} it’s don’t
“so” ‘so’ $5.00 €5 50% ½ ° → ☺ café
"""
PIECES = NASTY.split()


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


def report(title: str, results: dict[str, tuple[float, Any]], captions: int, difference: float | None) -> None:
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


def java_tokens(texts: list[str]) -> list[str]:
    """What the Java tokenizer makes of each text, with a line between them so that none touches the next."""
    wrapped = {number: [{"caption": text}, {"caption": "x"}] for number, text in enumerate(texts)}
    return [captions[0] for captions in PTBTokenizer().tokenize(wrapped).values()]


def compare_tokenizers(texts: list[str]) -> None:
    ours = race(captioner=lambda: [tokenize(text) for text in texts])
    if shutil.which("java"):
        ours = {"pycocoevalcap_Java": timed(lambda: java_tokens(texts)), **ours}
    report("Tokenizer, words seen before", ours, len(texts), None)


def agreement(title: str, texts: list[str]) -> None:
    equal = sum(tokenize(text) == other for text, other in zip(texts, java_tokens(texts), strict=True))
    print(f"  {title:38} {equal:,} of {len(texts):,} texts equal ({equal / len(texts):.2%})")


def random_texts(rng: random.Random, pieces: list[str], number: int, longest: int) -> list[str]:
    return ["".join(rng.choices(pieces, k=rng.randint(1, longest))) for _ in range(number)]


def compare_tokens(captions: list[list[str]]) -> None:
    rng = random.Random(1)
    print("\nAgreement with the Java tokenizer")
    printable = [sign for sign in string.printable if sign not in string.whitespace] + [" "]
    agreement("random printable ASCII, 1-8 signs", random_texts(rng, printable, 20_000, 8))
    agreement("random pieces without spaces, 1-7", random_texts(rng, PIECES, 20_000, 7))
    spaced = [f"{piece} " for piece in PIECES] + [f"{piece}, " for piece in PIECES]
    agreement("random pieces with spaces, 1-9", random_texts(rng, spaced, 20_000, 9))
    if captions:
        agreement("captions of the files", [caption for image in captions for caption in image])


def compare_dataset(captions: list[list[str]]) -> None:
    """Scores of each image's last caption against its others, by both."""
    guesses, truths = [image[-1] for image in captions], [image[:-1] for image in captions]
    tokens = iter(java_tokens([caption for image in captions for caption in image]))
    tokenised = [[next(tokens) for _ in image] for image in captions]
    truth = {number: image[:-1] for number, image in enumerate(tokenised)}
    guess = {number: image[-1:] for number, image in enumerate(tokenised)}
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = [*Bleu(4).compute_score(truth, guess)[0]]
        theirs += [Rouge().compute_score(truth, guess)[0], Cider().compute_score(truth, guess)[0]]
    print("\nScores of the files")
    for (name, value), other in zip(score(guesses, truths).items(), theirs, strict=True):
        print(f"  {name:8} captioner {value:.16f}   pycocoevalcap {other:.16f}   difference {value - other:.1e}")


def read(paths: list[str]) -> list[list[str]]:
    return [image for path in paths for image in parquet.read_table(path)["captions"].to_pylist()]


def main() -> None:
    images = captions_of(random.Random(0))
    captions = [image[0] for image in images]
    references = [image[1:] for image in images]
    theirs = (dict(enumerate(references)), {number: [caption] for number, caption in enumerate(captions)})
    print(f"{IMAGES} images, {REFERENCES} references each, captions of 8 to 13 words, best of {ROUNDS}")
    compare_cider(captions, references, theirs)
    compare_others(captions, references, theirs)
    compare_tokenizers([caption for image in images for caption in image])
    report("All together", race(captioner=lambda: score(captions, references)), len(captions), None)
    if shutil.which("java"):
        files = read(sys.argv[1:])
        compare_tokens(files)
        if files:
            compare_dataset(files)


if __name__ == "__main__":
    main()
