"""A vocabulary that lacks words of the captions is said before the first step, or refused where it lacks most."""

import pytest
from conftest import tiny_captioner
from runs import settings
from samples import TEXTS

from captioner import CaptionerProcessor
from captioner.adopt import VocabularyError, check_words, train_tokenizer
from captioner.adopt.unknown_words import READ_OF_STREAM, find_unknown
from captioner.model import ImageSettings
from captioner.training import save_captioner, train

BARE = ("model={}", "data.tokenizer={}", "data.max_caption_length=null", "data.max_context_length=null")


@pytest.fixture
def words():
    return train_tokenizer(["a red dog, a blue cat sleeps and runs"], kind="word", min_frequency=1)


def rows(*captions, context=None):
    return [{"captions": list(captions), "context": context}]


def test_the_share_counts_tokens_and_the_words_come_by_frequency(words):
    found = find_unknown(words, ["a red dog, a Hund", "Hund Katze"])
    assert found.share == pytest.approx(3 / 8)  # a red dog , a Hund Hund Katze
    assert found.words == ["Hund", "Katze"]


def test_folded_case_and_composed_letters_are_known():
    words = train_tokenizer(["caf\u00e9"], kind="word", min_frequency=1)
    assert find_unknown(words, ["CAFE\u0301 caf\u00e9"]).share == 0


@pytest.mark.parametrize("text", TEXTS)
def test_a_tokenizer_of_bytes_lacks_nothing(bpe, text):
    assert find_unknown(bpe, [text, "ein Hund 犬 🐕"]) == (0, [])


def test_letters_that_a_tokenizer_drops_without_a_sign_count(gpt2):
    found = find_unknown(gpt2, ["a b", "xyz"])
    assert found.words == ["xyz"]
    assert found.share == pytest.approx(1 / 3)


def test_wordpieces_count_by_token(bert):
    assert find_unknown(bert, ["a red dogs"]).share == 0
    assert find_unknown(bert, ["a red horse"]).share == pytest.approx(1 / 3)


def test_no_text_lacks_nothing(words):
    assert find_unknown(words, []) == (0, [])


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        (["a red dog"] * 19 + ["a red Hund"], ""),  # 1 of 60
        (["a red Hund"], "warning: the vocabulary of this captioner lacks 33% of the tokens of the captions"),
        (["a Hund"], "lacks 50% of the tokens of the captions (1 words such as 'Hund')"),
        (["ein Hund rennt"], None),
        (["a Hund rennt"], None),
    ],
)
def test_few_are_passed_over_many_are_said_and_most_are_refused(words, captions, said, capsys):
    processor = CaptionerProcessor(None, words)
    if said is None:
        with pytest.raises(VocabularyError, match="so there is nothing to learn; start from a captioner whose vocab"):
            check_words(processor, rows(*captions))
        return
    check_words(processor, rows(*captions))
    told = capsys.readouterr().err
    assert said in told
    assert bool(told) == bool(said)


def test_contexts_are_said_too_where_they_are_read_and_never_refused(words, capsys):
    processor = CaptionerProcessor(None, words)
    check_words(processor, rows("a red dog", context="ein Hund"), reads=False)
    assert capsys.readouterr().err == ""
    check_words(processor, rows("a red dog", context="ein Hund"))
    assert "lacks 100% of the tokens of the contexts (2 words such as 'ein', 'Hund')" in capsys.readouterr().err


def test_of_a_stream_only_the_first_samples_are_read(words):
    read = []

    def stream():
        for i in range(10 * READ_OF_STREAM):
            read.append(i)
            yield rows("a red dog")[0]

    check_words(CaptionerProcessor(None, words), stream())
    assert len(read) == READ_OF_STREAM


def test_training_on_words_that_the_captioner_lacks_is_refused_before_the_first_step(words, tmp_path):
    model = tiny_captioner(decoder={"vocab_size": len(words)}, context_encoder=None)
    save_captioner(model, CaptionerProcessor(ImageSettings(32, 32), words, max_caption_length=20), tmp_path / "c")
    run = settings(tmp_path / "run", *BARE, f"model.init_from={tmp_path / 'c'}")
    with pytest.raises(VocabularyError, match=r"lacks \d+% of the tokens of the captions"):
        train(run)
    assert not (tmp_path / "run/metrics.jsonl").exists()
