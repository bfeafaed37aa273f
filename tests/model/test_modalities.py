"""Further modalities from data over the processor to captions, attribution, ablation and a modality added later."""

import json

import numpy as np
import pytest
import torch
from conftest import stir, tiny_batch, tiny_captioner
from modalities import REGIONS, WHISPER, captioner, further, regions
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoConfig, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from captioner import caption
from captioner.adopt import add_modality, from_parts
from captioner.adopt.vocabulary import train_tokenizer
from captioner.base import DataSettings, GenerationSettings, SettingsError
from captioner.data import CaptionDataset, Collator, DataError, load_split
from captioner.data.modality_dropout import ModalityDropout
from captioner.evaluation import ablate
from captioner.explain import attribute
from captioner.model import MODES, CaptionerProcessor, FeatureError, ImageSettings, ModalityInput

TEXTS = ["the red circle anna hums", "a blue star"]


@pytest.fixture(scope="module")
def processor():
    tokenizer = train_tokenizer(TEXTS, kind="word", min_frequency=1)
    return CaptionerProcessor(ImageSettings(32, 32), tokenizer, further={"regions": ModalityInput(6, 5)})


def with_regions(*mode, processor, **options):
    return captioner(*mode, encoders={"regions": REGIONS}, decoder={"vocab_size": len(processor.tokenizer)}, **options)


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
    own = CaptionerProcessor(None, processor.tokenizer, further={"regions": ModalityInput(6, 5)})
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
    before = CaptionerProcessor(None, processor.tokenizer, further={"sound": ModalityInput(extractor=extractor)})
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
    add_modality(model, "regions", dict(REGIONS), own)
    given = {name: value for name, value in further().items() if name.startswith("regions")}
    torch.testing.assert_close(model(**inputs, **given, decoder_input_ids=ids).logits, before, rtol=1e-4, atol=1e-5)
    assert own.further == {"regions": ModalityInput(6, 5)}
    assert model.config.modalities == ["image", "context", "regions"]
    own.check_model(model.config)
