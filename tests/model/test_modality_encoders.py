"""Encoders of further modalities are transformers' own, learn, and count in every mode as image and context do."""

import pytest
import torch
from conftest import tiny_batch
from modalities import AST, ENCODERS, REGIONS, WAV2VEC2, WHISPER, captioner, further
from transformers import ASTModel, AutoConfig, Wav2Vec2Model
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from captioner.base import TrainingSettings
from captioner.evaluation.evaluation import hide
from captioner.model import MODES, Captioner
from captioner.model.model_card import model_card
from captioner.search import SearchOptions, search
from captioner.training.optimisation import parameter_groups, set_training_mode


@pytest.mark.parametrize("mode", MODES)
def test_company_and_padding_never_change_a_sample(mode):
    model, (inputs, ids) = captioner(*mode), tiny_batch()
    inputs |= further()
    together = model(**inputs, decoder_input_ids=ids).logits
    for row, length in enumerate((4, 1, 2)):
        own = {name: value[row : row + 1] for name, value in inputs.items()}
        own |= {name: own[name][:, :length] for name in ("regions_values", "regions_mask")}
        alone = model(**own, decoder_input_ids=ids[row : row + 1]).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("mode", MODES)
def test_a_modality_counts_and_absent_is_as_if_never_given(mode, name):
    model, (inputs, ids) = captioner(*mode), tiny_batch()
    inputs |= further()
    inputs["regions_mask"][1] = True
    full = model(**inputs, decoder_input_ids=ids).logits
    hidden = model(**hide(inputs, name), decoder_input_ids=ids).logits
    left_out = {key: value for key, value in inputs.items() if not key.startswith(f"{name}_")}
    torch.testing.assert_close(hidden, model(**left_out, decoder_input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    assert (full - hidden).abs().amax(dim=(1, 2)).min() > 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_search_is_generate_and_a_saved_captioner_says_the_same(mode, tmp_path):
    model, (inputs, _) = captioner(*mode), tiny_batch()
    inputs |= further()
    model.save_pretrained(tmp_path)
    again = Captioner.from_pretrained(tmp_path).eval()
    ids = again.generate(**inputs, num_beams=2, max_new_tokens=4, early_stopping=True).tolist()
    options = SearchOptions(num_beams=2, max_new_tokens=4, early_stopping=True)
    for row, own in zip(ids, search(model, model.encode(**inputs), options), strict=True):
        assert row[1 : len(own[0].ids) + 1] == own[0].ids


def test_encoders_are_transformers_own():
    model, given = captioner(), further()
    parts = model.encoder.further
    for name, kind, shape in (("sound", ASTModel, AST), ("speech", WhisperEncoder, WHISPER)):
        reference = kind(AutoConfig.for_model(**shape)).eval()
        reference.load_state_dict(parts[name].model.state_dict(), strict=False)
        values = given[f"{name}_values"]
        states, mask = parts[name](values, torch.ones(values.shape[:2], dtype=torch.bool))
        torch.testing.assert_close(states, reference(values).last_hidden_state)
        assert mask.all()


def test_waveforms_of_any_length_give_as_many_states_as_alone():
    model = captioner(encoders={"voice": WAV2VEC2}, image_encoder=None, context_encoder=None)
    assert isinstance(model.encoder.further["voice"].model, Wav2Vec2Model)
    waves = torch.randn(2, 80, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(80) < torch.tensor([[80], [40]])
    memory = model.encode(voice_values=waves * mask, voice_mask=mask)
    alone = model.encode(voice_values=waves[1:, :40])
    length = alone.states["voice"].shape[1]
    assert memory.masks["voice"].sum(dim=1).tolist() == [memory.states["voice"].shape[1], length]
    torch.testing.assert_close(memory.states["voice"][1, :length], alone.states["voice"][0], rtol=1e-3, atol=1e-4)


def test_a_captioner_of_further_modalities_alone_trains():
    model = captioner(image_encoder=None, context_encoder=None)
    given = further()
    given["speech_mask"] = torch.tensor([True, False, False])
    model(**given, labels=torch.tensor([[4, 5, 2]] * 3)).loss.backward()
    for part in model.encoder.further.values():
        gradients = [p.grad for p in part.parameters() if p.requires_grad and p.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_modalities_come_in_the_order_of_the_configuration():
    assert captioner().config.modalities == ["image", "context", *ENCODERS]
    order = ["sound", "image", "regions", "context"]
    assert captioner(modality_order=order).config.modalities == [*order, "speech"]


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"my sound": REGIONS}, "`encoders` may have names like 'sound' .*, but has 'my sound'"),
        ({"decoder": REGIONS}, "but has 'decoder'"),
        ({"keys": REGIONS}, "`encoders` cannot have the name 'keys', which PyTorch uses"),
        ({"sound": {"size": 3}}, r"`encoders.sound` must be a dict with 'model_type' .* or 'feature_size'"),
        ({"sound": {"feature_size": 3, "depth": 2}}, "`encoders.sound` cannot be built: .*depth"),
        ({"sound": {"feature_size": 3, "positions": True}}, "need `max_length` beside it"),
    ],
)
def test_encoders_that_cannot_be_say_what_to_change(encoders, message):
    with pytest.raises(ValueError, match=message):
        captioner(encoders=encoders)


def test_inputs_that_no_encoder_takes_are_refused():
    model, (inputs, ids) = captioner(), tiny_batch()
    with pytest.raises(TypeError, match=r"the encoders take .*sound_values.*, but not sounds_values"):
        model(**inputs, sounds_values=ids, decoder_input_ids=ids)
    with pytest.raises(ValueError, match=r"features must be \(B, S, 6\), but are \(3, 4, 5\)"):
        model.encode(regions_values=torch.zeros(3, 4, 5))


def test_rates_of_further_encoders_are_one_or_by_name():
    model = captioner()
    sound, regions_ = (set(model.encoder.further[name].parameters()) for name in ("sound", "regions"))

    def rates(given):
        groups = parameter_groups(model, TrainingSettings(encoders_learning_rate=given))
        return {p: group["lr"] for group in groups for p in group["params"]}

    assert {rates(1e-4)[p] for p in sound | regions_} == {1e-4}
    by_name = rates({"sound": 0, "regions": 1e-5})
    assert not sound & set(by_name)
    assert {by_name[p] for p in regions_} == {1e-5}
    set_training_mode(model, model, TrainingSettings(encoders_learning_rate={"sound": 0}))
    assert [part.training for part in model.encoder.further.values()] == [True, False, True]


def test_the_model_card_names_every_modality():
    text = str(model_card(captioner().config))
    assert "| regions encoder | features made before |" in text
    assert "sound=values" in text
