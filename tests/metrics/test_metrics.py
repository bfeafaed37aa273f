import math
import random
import socket
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioner.metrics import (
    ANSWER_METRICS,
    METRICS,
    CiderD,
    DocumentFrequencies,
    bleu,
    cider_d,
    path,
    rouge_l,
    score,
    score_per_image,
)

NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"]
PHRASE = "red blue big dog cat ball runs sits on under near two three house tree"
WORDS = PHRASE.split()


def synthetic(seed, images=40, longest=12, shortest=0):
    """Captions and references from few words, so that n-grams repeat and lengths tie; some are empty."""
    rng = random.Random(seed)

    def caption():
        return " ".join(rng.choices(WORDS, k=rng.randint(shortest, longest)))

    predictions = [caption() for _ in range(images)]
    return predictions, [[caption() for _ in range(rng.randint(1, 5))] for _ in range(images)]


def reference_scores(predictions, references):
    """What pycocoevalcap says of tokenised captions: corpus scores and scores per image."""
    truth = dict(enumerate(references))
    guess = {image: [caption] for image, caption in enumerate(predictions)}
    corpus, each = {}, {}
    bleus, bleus_each = Bleu(4).compute_score(truth, guess, verbose=0)
    for n in range(4):
        corpus[f"bleu_{n + 1}"], each[f"bleu_{n + 1}"] = bleus[n], bleus_each[n]
    corpus["rouge_l"], each["rouge_l"] = Rouge().compute_score(truth, guess)
    corpus["cider_d"], each["cider_d"] = Cider().compute_score(truth, guess)
    return corpus, {name: list(values) for name, values in each.items()}


def assert_parity(predictions, references):
    corpus, each = reference_scores(predictions, references)
    for metric in METRICS.values():
        ours, ours_each = metric(predictions, references)
        for name, value in ours.items():
            assert value == pytest.approx(corpus[name], rel=1e-12, abs=1e-14), name
            assert ours_each[name] == pytest.approx(each[name], rel=1e-12, abs=1e-14), name


@pytest.mark.parametrize("seed", range(8))
def test_corpus_and_image_scores_equal_pycocoevalcap(seed):
    assert_parity(*synthetic(seed))


@pytest.mark.parametrize("longest", [1, 2, 4, 30])
def test_short_and_long_captions_equal_pycocoevalcap(longest):
    assert_parity(*synthetic(1, longest=longest))


EDGES = {
    "repeated words": (["a a a a a", "the the"], [["a a b", "a"], ["the cat the dog"]]),
    "ties of reference length": (["a b c d", "x y"], [["a b c", "a b c d e"], ["x", "x y z"]]),
    "an empty prediction": (["", "a dog"], [["a cat", "cat"], ["a dog"]]),
    "an empty reference": (["a dog", "a cat"], [["", "a dog"], [""]]),
    "all empty": (["", ""], [[""], [""]]),
    "one word": (["dog", "cat"], [["dog"], ["dog", "cat"]]),
    "nothing in common": (["a b c d e", "f g h"], [["u v w x y"], ["z"]]),
    "equal references everywhere": (["a b", "a b"], [["a b"], ["a b"]]),
    "far apart lengths": (["a", "b c " * 40 + "b"], [["a b c d e f g h i j k l m n"], ["b c"]]),
    "a no-break space": (["1\xa01/2 cups", "a cup"], [["1 1/2 cups", "1\xa01/2"], ["a cup"]]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("predictions", "references"), EDGES.values(), ids=EDGES)
def test_edge_cases_equal_pycocoevalcap(predictions, references):
    if any(caption for captions in references for caption in captions):
        assert_parity(predictions, references)
    assert all(map(math.isfinite, score(predictions, references).values()))


captions = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
corpora = st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=4)), min_size=2, max_size=6).map(
    lambda pairs: ([caption for caption, _ in pairs], [references for _, references in pairs])
)
hypothesis_settings = settings(max_examples=40, deadline=None)


@hypothesis_settings
@given(corpora)
def test_scores_stay_within_their_range(corpus):
    scores = score_per_image(*corpus)
    assert list(scores) == NAMES
    assert all(0 <= value <= 1 + 1e-9 for name in NAMES[:5] for value in scores[name])
    assert all(0 <= value <= 10 + 1e-9 for value in scores["cider_d"])


@hypothesis_settings
@given(corpora, st.randoms())
def test_the_order_of_references_does_not_matter(corpus, rng):
    predictions, references = corpus
    shuffled = [rng.sample(image, len(image)) for image in references]
    assert score(predictions, shuffled) == pytest.approx(score(predictions, references), rel=1e-12)


@hypothesis_settings
@given(corpora, st.randoms())
def test_permuting_images_permutes_image_scores_and_keeps_the_corpus_scores(corpus, rng):
    predictions, references = corpus
    order = rng.sample(range(len(predictions)), len(predictions))
    shuffled = [predictions[image] for image in order], [references[image] for image in order]
    assert score(*shuffled) == score(predictions, references)
    before, after = score_per_image(predictions, references), score_per_image(*shuffled)
    assert after == {name: [values[image] for image in order] for name, values in before.items()}


@hypothesis_settings
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=4, max_size=9).map(" ".join), min_size=2, unique=True))
def test_a_caption_equal_to_its_only_reference_has_the_highest_fractions(texts):
    scores = score(texts, [[text] for text in texts])
    assert [scores[name] for name in NAMES[:5]] == pytest.approx([1.0] * 5, abs=1e-8)


def test_a_caption_equal_to_its_only_reference_scores_ten():
    texts = ["a red dog runs fast", "two blue cats sit still"]
    assert CiderD([[text] for text in texts]).score(texts) == pytest.approx([10.0, 10.0])


def test_score_takes_raw_captions():
    raw = score(["A man's dog, running!", "It isn't here."], [["a man 's dog running"], ["it is n't here", "x"]])
    tokenised = score(["a man 's dog running", "it is n't here"], [["A MAN's dog: running"], ["It isn't here", "X"]])
    assert list(raw) == NAMES
    assert raw == pytest.approx(tokenised)


def test_means_of_image_scores_are_the_corpus_scores_except_for_bleu():
    predictions, references = synthetic(3)
    corpus, each = score(predictions, references), score_per_image(predictions, references)
    for name in ("rouge_l", "cider_d"):
        assert corpus[name] == pytest.approx(sum(each[name]) / len(each[name]))


def test_only_the_metrics_asked_for_are_computed():
    assert list(score(["a", "b"], [["a"], ["b"]], metrics=["cider_d", "rouge_l"])) == ["cider_d", "rouge_l"]


def test_common_subsequence_may_have_gaps():
    assert rouge_l.common_subsequence("abcde", "xacyea") == 3
    assert rouge_l.common_subsequence("aab", "aba") == 2


def test_several_captions_of_an_image_score_as_each_alone():
    predictions, references = synthetic(4, images=10, shortest=1)
    scorer = CiderD(references)
    indices = [image for image in range(10) for _ in range(3)]
    samples = [predictions[(image + turn) % 10] for image in range(10) for turn in range(3)]
    alone = [scorer.score([sample], [image])[0] for sample, image in zip(samples, indices, strict=True)]
    assert scorer.score(samples, indices) == alone
    assert scorer.score(predictions) == cider_d.cider_d(predictions, references)[1]["cider_d"]
    assert len(scorer) == 10


def test_word_lists_score_as_they_are_so_an_end_token_counts():
    predictions, references = synthetic(5, shortest=1)
    ended = [[*caption.split(), "</s>"] for caption in predictions]
    ended_references = [[[*caption.split(), "</s>"] for caption in image] for image in references]
    _, each = reference_scores(list(map(" ".join, ended)), [list(map(" ".join, i)) for i in ended_references])
    assert CiderD(ended_references).score(ended) == pytest.approx(each["cider_d"], rel=1e-12)


def test_raw_captions_are_tokenised_by_the_scorer():
    scorer = CiderD([["A dog's ball."], ["Two cats!"]])
    assert scorer.score(["a dog 's ball", "TWO cats."]) == scorer.score([["a", "dog", "'s", "ball"], ["two", "cats"]])


def test_frequencies_of_the_training_set_make_a_few_images_score_as_among_all():
    predictions, references = synthetic(6)
    whole = CiderD(references)
    few = CiderD(references[:2], document_frequencies=whole.document_frequencies)
    assert few.score(predictions[:2]) == whole.score(predictions)[:2]


def test_one_image_scores_zero_with_a_warning_that_says_why():
    with pytest.warns(UserWarning, match="CIDEr-D is 0 .* has 1 image.*`document_frequencies`"):
        scores = score(["a dog"], [["a dog"]])
    assert scores["cider_d"] == 0.0
    assert scores["rouge_l"] == 1.0


@pytest.mark.filterwarnings("error")
def test_one_image_with_frequencies_scores_without_a_warning():
    frequencies = CiderD([["a red dog runs"], ["a cat"]]).document_frequencies
    assert CiderD([["a red dog runs"]], frequencies).score(["a red dog runs"])[0] == pytest.approx(10.0)


TWO = [["a dog"], ["a cat"]]
INPUT_ERRORS = {
    "no images": ([], [], r"`predictions` must hold at least one entry, but is empty; leave out images without"),
    "unequal lengths": (["a"], TWO, r"must have one entry per image, but have 1 and 2; pass one caption and one list"),
    "no references": (["a", "b"], [["a"], []], r"`references\[1\]` must hold at least one entry, but is empty; leave"),
    "a text for captions": ("a dog", TWO, r"`predictions` must be a list of captions, but is the str 'a dog'; put it"),
    "flat references": (["a"], ["b"], r"`references\[0\]` must be a list of captions, but is the str 'b'; put it in"),
    "a missing caption": (["a", None], TWO, r"`predictions\[1\]` must be a str, but is the NoneType None; .* write ''"),
    "token ids": (
        ["a", "b"],
        [["a"], [[1, 2]]],
        r"`references\[1\]\[0\]` must be a str, but is the list \[1, 2\]; dec",
    ),
    "a generator": ((c for c in "ab"), TWO, r"`predictions` must be a list of captions, but is the generator"),
}


@pytest.mark.parametrize(("predictions", "references", "message"), INPUT_ERRORS.values(), ids=INPUT_ERRORS)
def test_wrong_input_is_refused_with_value_limit_and_remedy(predictions, references, message):
    with pytest.raises(ValueError, match=message) as caught:
        score(predictions, references)
    assert "\n" not in str(caught.value)


SCORER_ERRORS = {
    "too few images": ((["a", "b", "c"], [0, 1]), r"but 3 captions meet 2 images; pass as many `indices` as captions"),
    "too few captions": ((["a"],), r"but 1 captions meet 2 images; pass as many `indices`"),
    "an index beyond": ((["a"], [2]), r"an index must be from 0 to 1, but is 2; count images from 0"),
    "a negative index": ((["a"], [-1]), r"an index must be from 0 to 1, but is -1"),
    "a text for captions": (("ab",), r"`predictions` must be a list of captions, but is the str 'ab'"),
    "no caption": (([None], [0]), r"a caption must be a str or a list of words, but is the NoneType None; decode"),
}


@pytest.mark.parametrize(("arguments", "message"), SCORER_ERRORS.values(), ids=SCORER_ERRORS)
def test_scorer_refuses_wrong_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        CiderD(TWO).score(*arguments)


def test_scorer_refuses_images_without_references_and_impossible_frequencies():
    with pytest.raises(ValueError, match=r"`references` must hold at least one entry, but is empty"):
        CiderD([])
    with pytest.raises(ValueError, match=r"`references\[1\]` must hold at least one entry, but is empty"):
        CiderD([["a"], []])
    with pytest.raises(ValueError, match=r"at most its 2 images, but counts 3 for one n-gram; count each n-gram once"):
        CiderD(TWO, DocumentFrequencies({("a",): 3}, 2))


def test_unknown_metrics_are_refused_with_the_list():
    for call in (lambda: path("meteor"), lambda: score(["a"], [["a"]], metrics=["meteor"])):
        with pytest.raises(ValueError, match="must be one of bleu, rouge_l, cider_d, vqa_accuracy, but is 'meteor'"):
            call()


def test_importing_the_metrics_loads_no_heavy_library():
    heavy = {"torch", "transformers", "evaluate", "datasets", "numpy"}
    code = f"import sys; from captioner.metrics import *; score(['a'], [['a']]); print({heavy} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise OSError("this test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("metric", METRICS | ANSWER_METRICS)
def test_evaluate_loads_each_metric_offline_with_equal_scores(metric, tmp_path):
    import evaluate

    predictions, references = synthetic(7, images=5)
    module = evaluate.load(path(metric), cache_dir=str(tmp_path))
    assert module.name == metric
    assert module.description
    assert module.compute(predictions=predictions, references=references) == score(
        predictions, references, metrics=[metric]
    )


@pytest.mark.usefixtures("no_network")
def test_evaluate_modules_refuse_an_empty_call_and_work_afterwards(tmp_path):
    import evaluate

    module = evaluate.load(path("cider_d"), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="`predictions` must hold at least one entry, but is empty"):
        module.compute(predictions=[], references=[])
    module.add_batch(predictions=["a dog"], references=[["a dog", "dogs"]])
    module.add(prediction="a cat", reference=["the cat"])
    expected = score(["a dog", "a cat"], [["a dog", "dogs"], ["the cat"]])
    assert module.compute() == {"cider_d": expected["cider_d"]}


def test_bleu_of_one_image_is_the_corpus_score_of_that_image():
    predictions, references = synthetic(8, shortest=4)
    per_image = bleu.bleu(predictions, references)[1]["bleu_4"]
    alone = [bleu.bleu([p], [r])[0]["bleu_4"] for p, r in zip(predictions, references, strict=True)]
    assert per_image == alone
