"""A batch is the tensors that the model takes, and depends on nothing but the seed, the epoch and the samples."""

import inspect
import pickle
import random
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from captioner.adopt.vocabulary import train_tokenizer
from captioner.data import CaptionDataset, Collator, DataError, EvaluationCollator
from captioner.data.targets import CaptionTargets
from captioner.model import Captioner, CaptionerProcessor, ImageSettings, ModalityInput

CAPTIONS = [f"caption number {n}" for n in range(10)]
AUGMENT = {"scale": [0.3, 1.0], "hflip": 0.5, "auto_augment": "rand-m5-n2", "re_prob": 0.5}


@pytest.fixture(scope="module")
def processor() -> CaptionerProcessor:
    tokenizer = train_tokenizer([*CAPTIONS, "a context"], "word", min_frequency=1)
    return CaptionerProcessor(ImageSettings(16, 24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)), tokenizer)


@pytest.fixture(scope="module")
def reader(processor) -> CaptionerProcessor:
    return CaptionerProcessor(None, processor.tokenizer)


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> dict:
    """Encoded noise, smooth enough for every crop to differ."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).resize(size).save(stream, "JPEG")
    return {"bytes": stream.getvalue(), "path": f"{seed}.jpg"}


def sample(number: int, captions: int = 5, **keys) -> dict:
    own = {"image": jpeg(number), "captions": CAPTIONS[:captions], "context": None, "id": str(number)}
    return {**own, **keys}


def broken(number: int) -> dict:
    whole = sample(number)
    return {**whole, "image": {**whole["image"], "bytes": whole["image"]["bytes"][:300]}}


def items(samples: list[dict], epoch: int = 0) -> list[dict]:
    dataset = CaptionDataset(samples)
    dataset.set_epoch(epoch)
    return [dataset[index] for index in range(len(dataset))]


def assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], rtol=0, atol=0)


def texts(processor: CaptionerProcessor, batch: dict) -> list[str]:
    return processor.batch_decode(batch["decoder_input_ids"])


def test_a_batch_has_the_names_and_shapes_of_forward(processor):
    batch = Collator(processor, 2)(items([sample(0, context="a context"), sample(1)]))
    assert set(batch) <= set(inspect.signature(Captioner.forward).parameters)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "pixel_values": (2, 3, 16, 24),
        "context_input_ids": (2, 2),
        "context_attention_mask": (2, 2),
        "decoder_input_ids": (4, 4),
        "decoder_attention_mask": (4, 4),
        "labels": (4, 4),
    }
    assert batch["context_attention_mask"].tolist() == [[True, True], [False, False]]


def test_captions_of_one_image_are_adjacent(processor):
    samples = [{**sample(n), "captions": [CAPTIONS[n]]} for n in range(2)]
    batch = Collator(processor, 3)(items(samples))
    assert texts(processor, batch) == [CAPTIONS[0]] * 3 + [CAPTIONS[1]] * 3


@given(captions=st.integers(1, 10), drawn=st.integers(1, 7), seed=st.integers(0, 99), index=st.integers(0, 99))
def test_successive_epochs_draw_every_caption(processor, captions, drawn, seed, index):
    targets = CaptionTargets(processor, drawn, seed)
    passes = -(-captions // drawn)
    epochs = [
        targets.draw({"captions": CAPTIONS[:captions], "index": index, "epoch": epoch}) for epoch in range(passes)
    ]
    assert {caption for epoch in epochs for caption in epoch} == set(CAPTIONS[:captions])
    assert all(len(set(epoch)) == min(drawn, captions) and len(epoch) == drawn for epoch in epochs)


def test_images_and_seeds_differ_in_the_order_of_their_captions(processor):
    samples = [sample(n, captions=10) for n in range(6)]
    firsts = [tuple(texts(processor, Collator(processor, 1, seed=seed)(items(samples)))) for seed in range(3)]
    assert len(set(firsts)) == 3
    assert len(set(firsts[0])) > 1


@pytest.mark.parametrize("augment", [{}, AUGMENT])
@pytest.mark.parametrize(("workers", "persistent"), [(2, False), (2, True)])
def test_workers_change_nothing(processor, augment, workers, persistent):
    samples = [sample(n) for n in range(7)]

    def epochs(**keys) -> list[dict]:
        dataset = CaptionDataset(samples)
        loader = DataLoader(dataset, batch_size=3, collate_fn=Collator(processor, 2, augment, seed=5), **keys)
        batches = []
        for epoch in (0, 1, 4):
            dataset.set_epoch(epoch)
            batches += loader
        return batches

    alone = epochs()
    together = epochs(num_workers=workers, persistent_workers=persistent)
    assert len(alone) == len(together) == 9
    for left, right in zip(alone, together, strict=True):
        assert_equal(left, right)
    assert not torch.equal(alone[0]["labels"], alone[3]["labels"])
    assert torch.equal(alone[0]["pixel_values"], alone[3]["pixel_values"]) is not bool(augment)


def test_a_sample_does_not_depend_on_its_batch(processor):
    collator = Collator(processor, 2, AUGMENT, seed=1)
    together = items([sample(n) for n in range(4)], epoch=3)
    batch, single = collator(together), collator(together[2:3])
    torch.testing.assert_close(batch["pixel_values"][2:3], single["pixel_values"])
    assert texts(processor, batch)[4:6] == texts(processor, single)


def test_augmentation_leaves_the_global_generators_alone(processor):
    collator, batch = Collator(processor, 1, AUGMENT), items([sample(0)])

    def draws() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seeded() -> tuple:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        return draws()

    first, second = seeded(), draws()
    assert seeded() == first
    collator(batch)
    assert draws() == second


def test_augmented_pixels_are_normalised_as_plain_ones(processor):
    flat = items([sample(0, image=np.full((30, 20, 3), (10, 200, 90), dtype=np.uint8))])
    plain = Collator(processor)(flat)["pixel_values"]
    cut = Collator(processor, augment={"scale": [0.2, 0.5], "hflip": 1.0})(flat)["pixel_values"]
    torch.testing.assert_close(plain, cut)


@pytest.mark.parametrize("size", [(40, 30), (300, 20), (20, 300)])
def test_a_flip_alone_keeps_the_whole_photo_and_its_colours(processor, size):
    one = items([sample(0, image=jpeg(3, size))])
    plain = Collator(processor)(one)["pixel_values"]
    flipped = Collator(processor, augment={"hflip": 1.0})(one)["pixel_values"]
    torch.testing.assert_close(flipped.flip(-1), plain, rtol=0, atol=0.1)


@pytest.mark.parametrize("augment", [{"hflipp": 0.5}, {"scale": 3}, {"normalize": False}, {"separate": True}])
def test_augmentation_that_makes_no_pixels_is_refused_at_once(processor, augment):
    with pytest.raises(DataError, match=r"`data.augment` is .*; give training options of timm.data.create_transform$"):
        Collator(processor, augment=augment)


def test_augmentation_of_a_captioner_that_only_reads_is_refused(reader):
    with pytest.raises(DataError, match=r"^`data.augment` is set, but the processor has no `image_settings`"):
        Collator(reader, augment={"hflip": 0.5})


@pytest.mark.parametrize("augment", [{}, {"hflip": 0.5}])
def test_a_broken_image_leaves_the_batch_which_says_so(processor, augment):
    collator = Collator(processor, 2, augment)
    batch = items([sample(0), broken(1), sample(2)])
    whole = collator(batch)
    (fault,) = whole.pop("bad")
    assert (fault.kind, fault.id, fault.left_out) == ("unreadable image", "1", True)
    assert fault.why.startswith("cannot read the image")
    assert_equal(whole, collator([batch[0], batch[2]]))
    assert [len(whole["pixel_values"]), len(whole["labels"])] == [2, 4]


@pytest.mark.parametrize("augment", [{}, {"hflip": 0.5}])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_without_a_readable_image_is_blank_and_supervises_nothing(processor, workers, augment):
    collator = Collator(processor, 2, augment, modalities=["image", "context"])
    loader = DataLoader(CaptionDataset([broken(0), broken(1)]), 2, collate_fn=collator, num_workers=workers)
    batch = next(iter(loader))
    assert [fault.id for fault in batch["bad"]] == ["0", "1"]
    assert batch["labels"].shape[0] == 2
    assert (batch["labels"] == -100).all()
    assert not batch["image_mask"].any()
    assert not batch["context_attention_mask"].any()


def test_features_that_cannot_be_read_leave_the_batch_which_says_so(processor, tmp_path):
    np.save(tmp_path / "good.npy", np.ones((2, 3), np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:90])
    np.save(tmp_path / "wide.npy", np.ones((2, 4), np.float32))
    files = ["good.npy", "cut.npy", "gone.npy", "wide.npy", "good.txt", "good.npy", None]
    batch = items([sample(row, audio=name and str(tmp_path / name)) for row, name in enumerate(files)])
    for size, lost in ((3, "1234"), (None, "1234")):
        further = {"audio": ModalityInput(size)}
        hearing = CaptionerProcessor(processor.image_settings, processor.tokenizer, further=further)
        found = Collator(hearing)(batch)
        assert [(bad.kind, bad.id) for bad in found["bad"]] == [("unreadable features", own) for own in lost]
        assert found["audio_values"].shape == (3, 2, 3)
        assert found["audio_mask"].tolist() == [[True, True], [True, True], [False, False]]
        assert len(found["pixel_values"]) == len(found["labels"]) == 3


def test_a_sample_without_captions_is_left_out_of_training(processor):
    batch = Collator(processor)(items([sample(0, captions=0), sample(1)]))
    assert [(fault.kind, fault.id) for fault in batch["bad"]] == [("empty caption", "0")]
    assert len(batch["labels"]) == 1


def test_only_captions_that_were_cut_are_noted(processor):
    short = CaptionerProcessor(processor.image_settings, processor.tokenizer, max_caption_length=4)
    fits, long = sample(0, captions=1), sample(1, captions=1)
    fits["captions"], long["captions"] = ["caption number 1"], ["caption number 1 context"]
    batch = Collator(short)(items([fits, long]))
    assert batch["bad"] == [
        ("caption over the length limit", "1", "5 tokens of 4: caption number 1 context", False),
    ]
    assert len(batch["labels"]) == 2


@pytest.mark.parametrize("augment", [{}, {"hflip": 0.5}])
def test_an_absent_image_is_masked(processor, augment):
    batch = Collator(processor, augment=augment)(items([sample(0), sample(1, image=None)]))
    assert batch["image_mask"].tolist() == [True, False]
    assert not batch["pixel_values"][1].any()


def test_modalities_decide_what_is_in_a_batch_and_samples_do_where_they_are_not_given(processor, reader):
    with_context, without = items([sample(0, context="a context")]), items([sample(0)])
    text = {"decoder_input_ids", "decoder_attention_mask", "labels"}
    image, context = {"pixel_values"}, {"context_input_ids", "context_attention_mask"}
    assert set(Collator(processor)(with_context)) == text | image | context
    assert set(Collator(processor)(without)) == text | image
    assert set(Collator(processor, modalities=["image"])(with_context)) == text | image
    assert set(Collator(processor, modalities=["context"])(without)) == text | context
    assert set(Collator(processor, modalities=["image", "context"])(without)) == text | image | context
    assert set(Collator(reader)(with_context)) == text | context


def test_evaluation_keeps_the_references_of_the_readable_samples(processor):
    batch = items([sample(0, level=3), broken(1), sample(2, context="a context")])
    collated = EvaluationCollator(processor, ["image"])(batch)
    assert [fault.id for fault in collated.pop("bad")] == ["1"]
    assert set(collated) == {"pixel_values", "samples"}
    assert len(collated["pixel_values"]) == 2
    assert collated["samples"] == [
        {"captions": CAPTIONS[:5], "context": None, "id": "0", "level": 3, "index": 0, "epoch": 0},
        {"captions": CAPTIONS[:5], "context": "a context", "id": "2", "index": 2, "epoch": 0},
    ]


def test_dataset_and_collator_can_be_pickled(processor):
    dataset = CaptionDataset([sample(0)])
    dataset.set_epoch(2)
    copy, collator = pickle.loads(pickle.dumps((dataset, Collator(processor, 2, AUGMENT))))
    assert copy[0]["epoch"] == 2
    assert_equal(collator([copy[0]]), Collator(processor, 2, AUGMENT)([dataset[0]]))
