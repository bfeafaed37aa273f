"""Trained tokenizers: their special ids, what they spell and split, and the settings that they refuse."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from samples import TEXTS

from captioner import CaptionerConfig, CaptionerProcessor, load
from captioner.adopt.vocabulary import TOKENIZER_KINDS, train_tokenizer


@given(st.text())
@example("<pad> a dog <eos>, <unk>")
def test_byte_level_tokenizers_spell_any_text(bpe, text):
    processor = CaptionerProcessor(None, bpe, max_caption_length=1000)
    normal = bpe.backend_tokenizer.normalizer.normalize_str(text)
    assert processor.batch_decode(processor(captions=text)["labels"]) == [normal.strip()]


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_trained_tokenizers_have_the_ids_of_the_default_config(kind):
    tokenizer = train_tokenizer(iter(TEXTS), kind=kind, min_frequency=1, vocab_size=300)
    config = CaptionerConfig(image_encoder={"name": "resnet18"})
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<bos>", "<eos>", "<unk>"]) == [0, 1, 2, 3]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id) == (config.pad_token_id, config.bos_token_id)
    assert (tokenizer.eos_token_id, tokenizer.unk_token_id) == (config.eos_token_id, 3)
    assert not {0, 1, 2} & set(tokenizer("a red dog")["input_ids"])
    assert len(tokenizer) <= 300


def test_word_tokenizers_split_punctuation_and_decode_with_single_spaces():
    tokenizer = train_tokenizer(TEXTS * 2, kind="word")
    processor = CaptionerProcessor(None, tokenizer)
    ids = tokenizer("A  red DOGS, a cat!")["input_ids"]
    assert len(ids) == 7
    assert processor.decode(ids) == "a red dogs, a cat!"
    assert tokenizer("zebra")["input_ids"] == [3]
    cased = train_tokenizer(TEXTS * 2, kind="word", lowercase=False)
    assert cased.decode(cased("Anna a")["input_ids"]) == "Anna a"


SPELT = [
    "a man's dog, isn't it",
    "a man ' s dog , isn ' t it .",
    'he said: "hi (there)"! - 3.5%…',
    "two-year-old twins/boys & girls",
    "’tis the dogs’ bowl; l'été d'Anna",
    "一只狗，在草地上奔跑 abc狗b 3只",
    "ドッグが走る。 犬",
    "หมากำลังวิ่ง ในสวน",
    "￭ a￭b",
]


@pytest.mark.parametrize("text", SPELT)
def test_word_tokenizers_write_what_they_learned(text):
    tokenizer = train_tokenizer([text], kind="word", min_frequency=1, lowercase=False)
    processor = CaptionerProcessor(None, tokenizer, max_caption_length=100)
    labels = processor(captions=text)["labels"]
    assert processor.batch_decode(labels) == [" ".join(text.replace("￭", "").split())]
    assert tokenizer.unk_token_id not in labels


@given(st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn")), min_size=1))
def test_word_tokenizers_write_any_text_that_they_learned(text):
    tokenizer = train_tokenizer([text], kind="word", min_frequency=1)
    processor = CaptionerProcessor(None, tokenizer, max_caption_length=1000)
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str(text).replace("￭", "")
    assert processor.batch_decode(processor(captions=text)["labels"]) == [normal]


def test_every_letter_of_a_script_without_spaces_is_a_word():
    tokenizer = train_tokenizer(["一只狗", "狗在 abc"], kind="word", min_frequency=1)
    assert tokenizer.convert_ids_to_tokens(tokenizer("一只狗 abc")["input_ids"]) == ["一", "￭只", "￭狗", "abc"]


def test_word_tokenizers_of_older_checkpoints_decode_as_they_did():
    shipped = load("scenes-concatenated")[1]
    ids = shipped.tokenizer("the red circle anna is left of the star")["input_ids"]
    assert shipped.decode(ids) == "the red circle anna is left of the star"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "char"}, "`kind` must be one of bpe, word, but is 'char'"),
        (
            {"vocab_size": 100},
            "`vocab_size` must be at least 260 to hold special tokens and all bytes, but is 100",
        ),
        (
            {"kind": "word", "vocab_size": 4},
            "`vocab_size` must be at least 5 to hold special tokens and a word, but is 4",
        ),
    ],
)
def test_wrong_tokenizer_settings_are_explained(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        train_tokenizer(TEXTS, **arguments)
