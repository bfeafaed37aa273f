"""Contexts longer than their encoder reads: windows that cover every token once, and change nothing that fits."""

import pytest
import torch
from conftest import BERT, tiny_captioner
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer

from captioner.adopt import PartsError, from_parts
from captioner.adopt.parts import special_ids
from captioner.adopt.vocabulary import train_tokenizer
from captioner.explain import attribute
from captioner.model import MODES, Captioner, CaptionerProcessor
from captioner.model.windows import Windows

TOKENIZER_TEXTS = ["a red dog and a blue cat"]
WINDOW = {"length": 8, "overlap": 2, "opening": [1], "closing": [2]}
LONG = 21  # tokens; the encoder of BERT has 16 positions


def reader(*mode, **options):
    return tiny_captioner(*mode, image_encoder=None, **{"context_window": dict(WINDOW)} | options)


def texts(*lengths, seed=0):
    """Ids that start with 1 and end with 2, and their mask, one row per length."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 30, (len(lengths), max(lengths)), generator=draw)
    ids[:, 0] = 1
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1 :] = 0
        row[length - 1] = 2
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"context_input_ids": ids, "context_attention_mask": mask}


@given(
    tokens=st.integers(0, 200),
    room=st.integers(1, 30),
    overlap=st.integers(0, 29),
    opening=st.integers(0, 2),
    closing=st.integers(0, 2),
)
def test_windows_fit_and_keep_every_token_once(tokens, room, overlap, opening, closing):
    length = room + opening + closing
    windows = Windows(length, min(overlap, room - 1), [1] * opening, [2] * closing)
    plan = windows.plan(tokens)
    kept = [token for own in plan for token in range(own.first, own.last)]
    assert kept == list(range(tokens))
    for own in plan:
        added = opening * (own.start > 0) + closing * (own.stop < tokens)
        assert own.start <= own.first <= own.last <= own.stop
        assert own.stop - own.start + added <= length


def test_a_token_is_read_where_it_stands_further_from_the_border():
    first, second, *_ = Windows(10, 4).plan(30)
    assert (first.stop, second.start) == (10, 6)
    assert first.last == second.first == 8


@pytest.mark.parametrize("mode", MODES)
def test_a_text_that_fits_is_read_at_once(mode):
    inputs, ids = texts(8, 5), torch.tensor([[1, 4, 5]] * 2)
    model, plain = reader(*mode), reader(*mode, context_window=None)
    expected = plain(**inputs, decoder_input_ids=ids).logits
    torch.testing.assert_close(model(**inputs, decoder_input_ids=ids).logits, expected, rtol=0, atol=0)


def test_states_are_those_of_the_windows():
    model, inputs = reader(), texts(LONG)
    states, ids = model.encoder.context(**_named(inputs))[0], inputs["context_input_ids"]
    marks = torch.tensor([[1]]), torch.tensor([[2]])
    for own in Windows(**WINDOW).plan(LONG):
        before = marks[0] if own.start else marks[0][:, :0]
        after = marks[1] if own.stop < LONG else marks[1][:, :0]
        piece = torch.cat([before, ids[:, own.start : own.stop], after], dim=1)
        alone = model.encoder.context.model(input_ids=piece).last_hidden_state[0]
        place = before.shape[1] - own.start
        expected = alone[own.first + place : own.last + place]
        torch.testing.assert_close(states[own.first : own.last], expected, rtol=1e-4, atol=1e-5)


def _named(inputs):
    return {"input_ids": inputs["context_input_ids"], "attention_mask": inputs["context_attention_mask"]}


@pytest.mark.parametrize("mode", MODES)
def test_company_and_padding_never_change_a_document(mode):
    model, inputs = reader(*mode), texts(LONG, 5, 12)
    ids = torch.tensor([[1, 4, 5]] * 3)
    together = model(**inputs, decoder_input_ids=ids).logits
    for row, length in enumerate((LONG, 5, 12)):
        own = {name: value[row : row + 1, :length] for name, value in inputs.items()}
        alone = model(**own, decoder_input_ids=ids[:1]).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_every_token_of_a_document_matters():
    model, inputs = reader(), texts(LONG)
    before = model.encode(**inputs).states["context"]
    for place in range(LONG):
        changed = {**inputs, "context_input_ids": inputs["context_input_ids"].clone()}
        changed["context_input_ids"][0, place] = 29 - inputs["context_input_ids"][0, place]
        after = model.encode(**changed).states["context"]
        assert (before - after)[0, place].abs().max() > 1e-3, place


def test_a_document_that_a_sample_lacks_leaves_nothing_and_finite_gradients():
    model, inputs = reader(), texts(LONG, 3)
    inputs["context_attention_mask"][1] = False
    memory = model.encode(**inputs)
    assert not memory.masks["context"][1].any()
    memory.states["context"].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.encoder.parameters() if p.grad is not None)


def test_windows_too_short_to_go_on_are_refused():
    with pytest.raises(ValueError, match=r"`context_window.overlap` must be from 0 to below 6 .*, but is 6"):
        reader(context_window=WINDOW | {"overlap": 6})


def test_special_ids_are_those_around_a_text():
    bert = BertTokenizer(vocab={word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])})
    assert special_ids(bert) == {"opening": [2], "closing": [3]}
    assert special_ids(train_tokenizer(["a word"], kind="word", min_frequency=1)) == {"opening": [], "closing": []}


def parts(**options):
    tokenizer = train_tokenizer(TOKENIZER_TEXTS, kind="word", min_frequency=1)
    shape = {key: value for key, value in BERT.items() if key != "vocab_size"}
    decoder = {"hidden_size": 32, "num_layers": 1, "num_heads": 2}
    return from_parts(None, shape, decoder, tokenizer=tokenizer, **options)


def test_a_captioner_from_parts_reads_generates_saves_and_looks_into_documents(tmp_path):
    model, processor = parts(context_window={"length": 8, "overlap": 2}, max_context_length=40)
    text = "a red dog and a blue cat " * 4
    inputs = processor(context=[text, "a dog"])
    assert inputs["context_input_ids"].shape[1] > BERT["max_position_embeddings"]
    model.save_pretrained(tmp_path)
    ids = model.generate(**inputs, num_beams=2, max_new_tokens=4)
    assert torch.equal(
        ids, Captioner.from_pretrained(tmp_path).eval().generate(**inputs, num_beams=2, max_new_tokens=4)
    )
    found = attribute(model, processor, "a red dog", context=text)
    assert [word.text for word in found.context] == text.split()
    torch.testing.assert_close(found.reading().sum(dim=1), torch.ones(3))


def test_a_context_beyond_the_limit_is_cut_with_one_warning():
    processor = CaptionerProcessor(
        None, train_tokenizer(TOKENIZER_TEXTS, kind="word", min_frequency=1), max_context_length=4
    )
    with pytest.warns(UserWarning, match=r"a context has 5 tokens, but only the first 4 are read") as seen:
        inputs = processor(context=["a red dog and a", "a red dog and a blue cat"])
    assert len(seen) == 1
    assert inputs["context_input_ids"].shape == (2, 4)


def test_a_window_that_the_encoder_cannot_read_says_what_to_change():
    with pytest.raises(
        PartsError, match="`context_encoder.max_position_embeddings` is 16, but `context_window.length`"
    ):
        parts(context_window={"length": 20, "overlap": 2}, max_context_length=40)
