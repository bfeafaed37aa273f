"""Tokens that leave no trace in the text are never said by captioners of ours, and by adopted ones as before."""

import json

import pytest
from adopted import save
from conftest import DECODER, VIT
from samples import TEXTS

from captioner import from_parts, load
from captioner.adopt import assemble, train_tokenizer
from captioner.base import DataSettings, ModelSettings

NEW = {key: value for key, value in DECODER.items() if key != "vocab_size"}


@pytest.fixture(scope="module", params=["bpe", "word"])
def made(request):
    tokenizer = train_tokenizer(TEXTS * 2, request.param, vocab_size=300)
    return from_parts(VIT, decoder=NEW, tokenizer=tokenizer, max_caption_length=20)


def test_unknown_padding_and_start_are_never_said_and_the_end_is(made):
    captioner, processor = made
    silent = captioner.generation_config.suppress_tokens
    assert silent == [processor.tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<bos>", "<unk>")]
    assert silent == processor.silent_ids
    assert processor.decode(silent) == ""


def test_a_captioner_saved_before_is_silent_once_it_is_loaded(made, tmp_path):
    for part in made:
        part.save_pretrained(tmp_path)
    assert load(tmp_path)[0].generation_config.suppress_tokens == made[1].silent_ids
    file = tmp_path / "generation_config.json"
    state = json.loads(file.read_text())
    assert state.pop("suppress_tokens") == made[1].silent_ids
    file.write_text(json.dumps(state))
    assert load(tmp_path)[0].generation_config.suppress_tokens == made[1].silent_ids
    file.unlink()
    assert load(tmp_path)[0].generation_config.suppress_tokens == made[1].silent_ids


def test_who_asks_for_such_tokens_gets_them(made, tmp_path):
    captioner, processor = made
    processor.save_pretrained(tmp_path)
    captioner.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"suppress_tokens": []}))
    assert load(tmp_path)[0].generation_config.suppress_tokens == []


@pytest.mark.parametrize("name", ["vit-gpt2", "vit-bert", "blip"])
def test_an_adopted_captioner_says_what_it_said_until_it_is_trained_here(name, tmp_path):
    save(name, tmp_path / "theirs")
    for_ours, processor = load(tmp_path / "theirs")
    assert for_ours.generation_config.suppress_tokens == []
    for_ours.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    assert load(tmp_path / "ours")[0].generation_config.suppress_tokens == []
    trained, processor = assemble(ModelSettings(init_from=str(tmp_path / "theirs")), DataSettings(), list)
    assert trained.generation_config.suppress_tokens == processor.silent_ids
    assert processor.eos_token_id not in processor.silent_ids
