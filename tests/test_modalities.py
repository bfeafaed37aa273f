"""Further modalities: whatever holds of image and context holds of them, in every mode, from data to captions."""

import json

import numpy as np
import pytest
import torch
from conftest import stir, tiny_batch, tiny_captioner
from PIL import Image
from safetensors.numpy import save_file
from transformers import ASTModel, AutoConfig, Wav2Vec2FeatureExtractor, Wav2Vec2Model, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from captioner import caption
from captioner.ablation import ablate
from captioner.attention import MODES
from captioner.attribution import attribute
from captioner.data import CaptionDataset, Collator, load_split
from captioner.decoding import SearchOptions, search
from captioner.evaluation import hide
from captioner.further_inputs import FeatureError, FurtherInput
from captioner.images import ImageSettings
from captioner.modality_dropout import ModalityDropout
from captioner.model import Captioner
from captioner.model_card import model_card
from captioner.optimisation import parameter_groups, set_training_mode
from captioner.parts import from_parts
from captioner.processor import CaptionerProcessor
from captioner.scene_sounds import BANDS, SOUNDS, SceneSounds
from captioner.scenes import Scenes
from captioner.settings import DataSettings, GenerationSettings, SettingsError, TrainingSettings
from captioner.sources import DataError
from captioner.vocabulary import train_tokenizer

AST = {
    "model_type": "audio-spectrogram-transformer",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "patch_size": 4,
    "frequency_stride": 4,
    "time_stride": 4,
    "max_length": 16,
    "num_mel_bins": 8,
}
WHISPER = {
    "model_type": "whisper",
    "d_model": 24,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "vocab_size": 30,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8, 8],
    "conv_kernel": [4, 3],
    "conv_stride": [2, 2],
    "num_conv_pos_embeddings": 2,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "mask_time_prob": 0.0,
}
REGIONS = {"feature_size": 6, "max_length": 5, "positions": True}
ENCODERS = {"regions": REGIONS, "sound": AST, "speech": WHISPER}
TEXTS = ["the red circle anna hums", "a blue star"]


def captioner(*mode, encoders=ENCODERS, **options):
    return tiny_captioner(*mode, encoders={name: dict(shape) for name, shape in encoders.items()}, **options)


def further(samples=3, seed=0):
    """Regions of 4, 0 and 2 places, and sounds of one size."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([[4], [0], [2]])[:samples]
    return {
        "regions_values": torch.randn(samples, 4, 6, generator=draw),
        "regions_mask": torch.arange(4) < lengths,
        "sound_values": torch.randn(samples, 16, 8, generator=draw),
        "speech_values": torch.randn(samples, 8, 20, generator=draw),
    }


@pytest.fixture(scope="module")
def processor():
    tokenizer = train_tokenizer(TEXTS, kind="word", min_frequency=1)
    return CaptionerProcessor(ImageSettings(32, 32), tokenizer, further={"regions": FurtherInput(6, 5)})


def regions(length, seed=0):
    return np.random.default_rng(seed).normal(size=(length, 6)).astype(np.float32)


def with_regions(*mode, processor, **options):
    return captioner(*mode, encoders={"regions": REGIONS}, decoder={"vocab_size": len(processor.tokenizer)}, **options)


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


def test_the_processor_pads_masks_and_keeps_absent_ones_apart(processor):
    batch = processor(context=["anna"] * 3, regions=[regions(2), None, regions(3).tolist()])
    assert batch["regions_values"].shape == (3, 3, 6)
    assert batch["regions_mask"].sum(dim=1).tolist() == [2, 0, 3]
    torch.testing.assert_close(batch["regions_values"][0, :2], torch.from_numpy(regions(2)))
    assert (batch["regions_values"][~batch["regions_mask"]] == 0).all()


def test_features_are_read_from_files(processor, tmp_path):
    np.save(tmp_path / "a.npy", regions(2))
    save_file({"regions": regions(2), "other": regions(3)}, tmp_path / "b.safetensors")
    save_file({"only": regions(4)}, tmp_path / "c.safetensors")
    names = ["a.npy", "b.safetensors", "b.safetensors#other", "c.safetensors"]
    batch = processor(regions=[str(tmp_path / name) for name in names])
    assert batch["regions_mask"].sum(dim=1).tolist() == [2, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere.npy", "cannot read `regions` 'nowhere.npy'"),
        ("photo.jpg", r"files of features end in .npy or .safetensors"),
        (np.zeros((2, 5)), r"`regions` of type ndarray must be \(S, 6\), but is \(2, 5\)"),
        ([["a"]], "cannot read `regions` of type list"),
    ],
)
def test_features_that_cannot_be_read_are_named(processor, value, message):
    with pytest.raises(FeatureError, match=message):
        processor(regions=[value])


def test_features_beyond_the_limit_are_cut_with_one_warning(processor):
    own = CaptionerProcessor(None, processor.tokenizer, further={"regions": FurtherInput(6, 5)})
    with pytest.warns(UserWarning, match=r"`regions` of length 9, but only the first 5 are read") as seen:
        batch = own(regions=[regions(9), regions(2), regions(8)])
    assert len(seen) == 1
    assert batch["regions_mask"].sum(dim=1).tolist() == [5, 2, 5]


def test_a_processor_refuses_what_it_does_not_know_and_what_does_not_fit(processor):
    with pytest.raises(ValueError, match="this processor makes no smell; it takes images, context, captions, regions"):
        processor(smell=["roses"])
    message = r"`encoders` \['regions', 'sound', 'speech'\], but the processor \['regions'\]"
    with pytest.raises(ValueError, match=message):
        processor.check_model(captioner().config)


@pytest.mark.parametrize("make", [WhisperFeatureExtractor, Wav2Vec2FeatureExtractor])
def test_waveforms_become_what_the_encoder_takes_also_after_saving(make, processor, tmp_path):
    extractor = make()
    before = CaptionerProcessor(None, processor.tokenizer, further={"sound": FurtherInput(extractor=extractor)})
    before.save_pretrained(tmp_path)
    after = CaptionerProcessor.from_pretrained(tmp_path)
    wave = np.sin(np.arange(1600) / 5).astype(np.float32)
    key = extractor.model_input_names[0]
    expected = extractor(wave, sampling_rate=extractor.sampling_rate, return_tensors="pt")[key]
    for own in (before, after):
        torch.testing.assert_close(own(sound=[wave, None])["sound_values"][:1], expected)


@pytest.mark.parametrize("mode", MODES)
def test_attribution_counts_every_modality(mode, processor):
    model = with_regions(*mode, processor=processor)
    photo = np.zeros((32, 32, 3), np.uint8)
    found = attribute(model, processor, "the red circle", photo, "anna hums", regions=regions(3))
    shares = found.shares()
    assert list(shares) == ["image", "context", "regions"]
    torch.testing.assert_close(sum(shares.values()), torch.ones(3))
    torch.testing.assert_close(found.balance()["regions"], shares["regions"])
    assert (found.saliency["regions"] > 0).all()
    assert set(found.without) == set(shares)


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


def test_dropout_hides_further_modalities_but_never_all():
    one = {"image": None, "context": "anna", "sound": regions(2), "captions": ["one"]}
    samples = [{**one, "id": str(i)} for i in range(60)]
    dataset = ModalityDropout(CaptionDataset(samples), {"sound": 0.5, "context": 0.5}, 0, ["image", "context", "sound"])
    drawn = [dataset[i] for i in range(60)]
    there = [(sample["context"] is not None, sample["sound"] is not None) for sample in drawn]
    assert set(there) == {(True, True), (True, False), (False, True)}
    with pytest.raises(SettingsError, match="`data.modality_dropout` may have image, context, but has sound"):
        ModalityDropout(CaptionDataset(samples), {"sound": 0.5})


def table(folder, rows):
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return DataSettings(source="table", path=str(folder), image_column=None, modality_columns={"regions": "boxes"})


def test_columns_hold_numbers_or_files(processor, tmp_path):
    np.save(tmp_path / "a.npy", regions(2))
    both = [{"captions": ["one"], "boxes": regions(3).tolist()}, {"captions": ["two"], "boxes": None}]
    files = [{"captions": ["one"], "boxes": "a.npy"}, {"captions": ["two"], "boxes": None}]
    for rows, length in ((both, 3), (files, 2)):
        samples = CaptionDataset(load_split(table(tmp_path, rows), "train"))
        batch = Collator(processor, modalities=["regions"])([samples[0], samples[1]])
        assert batch["regions_mask"].sum(dim=1).tolist() == [length, 0]
    with pytest.raises(DataError, match="1 files of `regions` are missing"):
        load_split(table(tmp_path, [{"captions": ["one"], "boxes": "b.npy"}]), "train")
    with pytest.raises(DataError, match=r"no column 'boxes' but .*set `data.modality_columns.regions`"):
        load_split(table(tmp_path, [{"captions": ["one"]}]), "train")


def test_folders_of_features_are_captioned_by_columns_and_by_name(processor, tmp_path):
    model = stir(with_regions("separate", "serial", processor=processor))
    photo, features = Image.new("RGB", (32, 32), "red"), [regions(3), regions(5, seed=1)]
    photo.save(tmp_path / "a.png")
    np.save(tmp_path / "one.npy", features[0])
    rows = [{"image": "a.png", "regions": cell} for cell in ("one.npy", "none.npy", None)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = {"min_new_tokens": 5, "max_new_tokens": 5}
    options = {"model": (model, processor), "beams": 1, **words}
    one, missing, without = caption(tmp_path / "list.jsonl", **options)
    pixels = {"images": [np.asarray(photo)]}
    for record, given in ((one, {"regions": features[:1]}), (without, {})):
        ids = model.generate(**processor(**pixels, **given), num_beams=1, **words)
        assert record["caption"] == processor.decode(ids[0])
    assert "none.npy" in missing["error"]
    assert one["caption"] != without["caption"]
    by_name = list(caption([photo, photo], further={"regions": features}, **options))
    assert by_name[0]["caption"] == one["caption"]
    alone = list(caption(None, further={"regions": features}, **options))
    ids = model.generate(**processor(regions=features), num_beams=1, **words)
    assert [record["caption"] for record in alone] == processor.batch_decode(ids)


def test_ablation_blanks_and_shuffles_every_modality(processor):
    model = with_regions(processor=processor, image_encoder=None)
    processor = CaptionerProcessor(None, processor.tokenizer, further=processor.further)
    samples = [
        {"context": "anna", "regions": regions(2, i), "captions": ["a blue star"], "id": str(i)} for i in range(3)
    ]
    found = ablate(model, processor, samples, GenerationSettings(num_beams=1, max_new_tokens=3))
    changes = [f"{name} {kind}" for name in ("context", "regions") for kind in ("blanked", "shuffled")]
    assert list(found) == ["as it is", *changes]


def test_a_pretrained_encoder_comes_with_its_weights_and_extractor(processor, tmp_path):
    from transformers import WhisperModel

    source = WhisperModel(AutoConfig.for_model(**WHISPER))
    source.save_pretrained(tmp_path)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(tmp_path)
    decoder = {"hidden_size": 32, "num_layers": 1, "num_heads": 2}
    model, made = from_parts(None, None, decoder, encoders={"speech": str(tmp_path)}, tokenizer=processor.tokenizer)
    ours = model.encoder.further["speech"].model.state_dict()
    for name, weight in source.encoder.state_dict().items():
        torch.testing.assert_close(ours[name], weight)
    assert isinstance(made.further["speech"].extractor, WhisperFeatureExtractor)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_adding_a_modality_changes_no_output(norm, processor):
    own = CaptionerProcessor(
        processor.image_settings, processor.tokenizer, max_caption_length=24, max_context_length=16
    )
    model = tiny_captioner("separate", "serial", norm_position=norm, decoder={"vocab_size": len(processor.tokenizer)})
    model.config.eos_token_id = own.eos_token_id
    inputs, ids = tiny_batch()
    ids = ids.clamp(max=len(processor.tokenizer) - 1)
    before = model(**inputs, decoder_input_ids=ids).logits
    model.add_modality("regions", dict(REGIONS), own)
    given = {name: value for name, value in further().items() if name.startswith("regions")}
    torch.testing.assert_close(model(**inputs, **given, decoder_input_ids=ids).logits, before, rtol=1e-4, atol=1e-5)
    assert own.further == {"regions": FurtherInput(6, 5)}
    assert model.config.modalities == ["image", "context", "regions"]
    own.check_model(model.config)


def test_the_model_card_names_every_modality():
    text = str(model_card(captioner().config))
    assert "| regions encoder | features made before |" in text
    assert "sound=values" in text


def test_scenes_with_sounds_are_the_scenes_and_end_with_what_the_sound_tells():
    plain, heard = Scenes("test", [1, 2], 40), SceneSounds("test", [1, 2], 40)
    for i in range(40):
        before, after = plain[i], heard[i]
        assert (before["image"] == after["image"]).all()
        assert before["context"] == after["context"]
        ends = {said.removeprefix(caption) for caption, said in zip(before["captions"], after["captions"], strict=True)}
        assert len(ends) == 1
        assert ends <= {f" and {verb}" for verb in SOUNDS}
        assert after["sound"].shape[1] == BANDS


def test_a_sound_tells_its_verb_alone():
    """The nearest mean spectrum, with the courses of the two halves, tells verbs of unseen scenes apart."""

    def look(sample):
        halves = np.array_split(sample["sound"], 2)
        changes = np.abs(np.diff(sample["sound"], axis=0)).mean(keepdims=True)[0]
        return np.concatenate([*(half.mean(axis=0) for half in halves), 3 * changes, [sample["sound"].std()]])

    train, test = ([SceneSounds(split, [1], 200)[i] for i in range(200)] for split in ("train", "test"))
    known, asked = ([(look(own), own["captions"][0].split()[-1]) for own in split] for split in (train, test))
    means = {verb: np.mean([found for found, own in known if own == verb], axis=0) for verb in SOUNDS}
    right = [min(means, key=lambda own: np.linalg.norm(found - means[own])) == verb for found, verb in asked]
    assert np.mean(right) > 0.9
