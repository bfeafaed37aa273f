"""Training from stored features is training from the images, without opening one of them again."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from runs import TINY, launch, lines, losses, settings

from captioner import load
from captioner.base import SettingsError, WriteError
from captioner.data import CaptionDataset, Collator, EvaluationCollator
from captioner.model import ImageEncoder
from captioner.training import train
from captioner.training.feature_store import (
    PRESENT,
    FeatureStore,
    FeatureStoreError,
    StoredCollator,
    features_fingerprint,
    open_store,
)

FROZEN = ["training.image_encoder_learning_rate=0", "data.modality_dropout={image: 0.2, context: 0.2}"]


class Pictures:
    """Five samples: one without an image, one with an image that cannot be read."""

    texts = [{"captions": ["a b"], "context": None, "id": str(i)} for i in range(5)]  # noqa: RUF012

    def __len__(self):
        return 5

    def __getitem__(self, index):
        image = np.full((64, 64, 3), 40 * index, np.uint8)
        return {"image": {1: None, 2: b"broken"}.get(index, image), **self.texts[index]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    train(settings(directory / "images", *FROZEN))
    train(settings(directory / "stored", *FROZEN, f"data.feature_store={directory / 'store'}"))
    return directory


def test_training_from_the_store_gives_the_losses_of_training_from_images(run):
    assert losses(run / "stored") == losses(run / "images")
    scores = [[line["rouge_l"] for line in lines(run / name) if "rouge_l" in line] for name in ("stored", "images")]
    assert scores[0] == scores[1]


def test_a_store_is_made_once_and_images_are_not_encoded_again(run, tmp_path, monkeypatch):
    before = (run / "store/features.npy").stat().st_mtime_ns
    seen = []
    forward = ImageEncoder.forward
    monkeypatch.setattr(ImageEncoder, "forward", lambda self, x: seen.append(x.shape) or forward(self, x))
    store = f"data.feature_store={run / 'store'}"
    train(settings(tmp_path, *FROZEN, store, "training.max_steps=2", "training.logged_samples=0"))
    assert (run / "store/features.npy").stat().st_mtime_ns == before
    assert [len(shape) for shape in seen] == [3, 3, 4]  # two steps, one validation


def test_two_processes_make_the_store_that_one_makes_each_in_files_of_its_own(run, tmp_path):
    options = [*TINY, *FROZEN, f"data.feature_store={tmp_path / 'store'}", f"training.output_dir={tmp_path / 'run'}"]
    launch("train.py", "--config", "configs/scenes.yaml", *options, "training.max_steps=1")
    facts = [json.loads((directory / "store/store.json").read_text()) for directory in (run, tmp_path)]
    assert [own.pop("parts") for own in facts] == [1, 2]
    assert facts[0] == facts[1]
    one, two = (FeatureStore(directory / "store", facts[0]["fingerprint"]) for directory in (run, tmp_path))
    assert len(list((tmp_path / "store").glob("*-of-2.npy"))) == 4
    assert one.images.tolist() == two.images.tolist() == [PRESENT] * 64
    np.testing.assert_allclose(one.rows(range(64)), two.rows(range(64)), atol=1e-5)
    copy = pickle.loads(pickle.dumps(two))
    assert np.array_equal(copy.rows([63, 0]), two.rows([63, 0]))
    (tmp_path / "store/features-1-of-2.npy").unlink()
    with pytest.raises(FeatureStoreError, match="it must be whole, in a folder that all processes share"):
        FeatureStore(tmp_path / "store", facts[0]["fingerprint"])


def test_another_encoder_or_split_is_refused(run, tmp_path):
    store = f"data.feature_store={run / 'store'}"
    for other in ("training.seed=1", "data.scenes=65"):
        with pytest.raises(FeatureStoreError, match="was made by another image encoder or for other samples"):
            train(settings(tmp_path, *FROZEN, store, other))


@pytest.mark.parametrize("wrong", ["training.image_encoder_learning_rate=1e-5", "data.augment={hflip: 0.5}"])
def test_a_store_for_an_encoder_that_learns_or_sees_crops_is_refused(tmp_path, wrong):
    with pytest.raises(SettingsError, match="`data.feature_store` needs .*`training.image_encoder_learning_rate=0`"):
        train(settings(tmp_path, *FROZEN, f"data.feature_store={tmp_path / 'store'}", wrong))


def test_absent_and_unreadable_images_keep_what_they_are(run, tmp_path):
    model, processor = load(run / "images/last")
    accelerator = Accelerator(cpu=True)
    store = open_store(tmp_path / "store", model, processor, Pictures(), accelerator, 2, 0)
    assert store.images.tolist() == [2, 1, 0, 2, 2]
    dataset = CaptionDataset(Pictures())
    batch = StoredCollator(Collator(processor, 1, modalities=["context"]), store)([dataset[i] for i in range(5)])
    assert batch["image_mask"].tolist() == [True, False, True, True]
    assert len(batch["labels"]) == 4
    pixels = EvaluationCollator(processor, ["image"])([dataset[3]])["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"][2:3], model.encoder.image(pixels))


def test_a_disk_without_room_is_reported_before_anything_is_encoded(run, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    model, processor = load(run / "images/last")
    with pytest.raises(WriteError, match="cannot write .*store: .*No space left"):
        open_store(tmp_path / "store", model, processor, Pictures(), Accelerator(cpu=True), 2, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_follows_the_weights(run):
    model, processor = load(run / "images/last")
    own = features_fingerprint(model, processor, Pictures())
    with torch.no_grad():
        next(model.encoder.image.parameters()).add_(1e-6)
    assert features_fingerprint(model, processor, Pictures()) != own
