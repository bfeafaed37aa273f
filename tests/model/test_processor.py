"""What the processor makes of a batch: names, shapes, masks, ids and labels, and what it says of a wrong one."""

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import TEXTS, WORDS, photo
from transformers import BertTokenizer

from captioner import CaptionerProcessor
from captioner.adopt.vocabulary import train_tokenizer

# Batches


def test_a_batch_has_the_names_and_shapes_of_the_model(processor):
    batch = processor([photo(), photo()], ["a dog", "a cat"], [["a dog", "a red dog"], ["a cat", "cats"]])
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    width = batch["labels"].shape[1]
    assert shapes == {
        "pixel_values": ((2, 3, 8, 12), torch.float32),
        "context_input_ids": ((2, 4), torch.int64),
        "context_attention_mask": ((2, 4), torch.bool),
        "decoder_input_ids": ((4, width), torch.int64),
        "decoder_attention_mask": ((4, width), torch.bool),
        "labels": ((4, width), torch.int64),
    }
    assert processor.batch_decode(batch["labels"]) == ["a dog", "a red dog", "a cat", "cats"]
    arrays = processor(photo(), "a dog", "a dog", return_tensors="np")
    assert arrays["context_attention_mask"].dtype == bool


def test_only_what_is_given_has_keys(processor):
    assert list(processor(images=photo())) == ["pixel_values"]
    assert list(processor(context="")) == ["context_input_ids", "context_attention_mask"]
    assert list(processor(captions="a")) == ["decoder_input_ids", "decoder_attention_mask", "labels"]


def test_single_items_lists_and_stacked_arrays_are_batches(processor):
    one = processor(images=photo())["pixel_values"]
    stacked = np.stack([np.asarray(photo())] * 2)
    for images in ([photo()] * 2, (photo(), photo()), stacked, torch.tensor(stacked)):
        assert torch.equal(processor(images=images)["pixel_values"], one.repeat(2, 1, 1, 1))
    grouped = processor(images=photo(), captions=[["a", "b", "c"]])
    assert len(grouped["labels"]) == 3


@pytest.mark.parametrize("shape", [(8, 12, 3), (3, 8, 12), (96, 3, 3), (4, 96, 96), (8, 12), (8, 12, 1), (1, 8, 12)])
@pytest.mark.parametrize("make", [np.asarray, torch.tensor], ids=["array", "tensor"])
def test_one_array_is_one_image_and_never_its_rows(processor, shape, make):
    pixels = make(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    one = processor(images=pixels, context="a dog")["pixel_values"]
    assert one.shape == (1, 3, 8, 12)
    for batch in ([pixels], (pixels,), pixels[None], iter([pixels]), [[pixels]]):
        assert torch.equal(processor(images=batch)["pixel_values"], one)
    assert torch.equal(processor(images=[pixels, pixels])["pixel_values"], one.repeat(2, 1, 1, 1))


def test_columns_of_a_table_are_batches(processor, tmp_path):
    photo().save(tmp_path / "a.png")
    paths = np.array([str(tmp_path / "a.png")] * 2)
    for images in (paths, paths.astype(object), pandas.Series(paths), dict.fromkeys(["x", "y"], paths[0]).values()):
        batch = processor(images=images, context=np.array(["a dog", "a cat"]))
        assert [len(batch[name]) for name in ("pixel_values", "context_input_ids")] == [2, 2]


def test_absent_images_are_zeros_with_a_mask(processor):
    batch = processor(images=[None, photo(), None])
    assert batch["image_mask"].tolist() == [False, True, False]
    assert not batch["pixel_values"][[0, 2]].any()
    assert torch.equal(batch["pixel_values"][1:2], processor(images=photo())["pixel_values"])
    assert processor(images=[None])["image_mask"].tolist() == [False]


def test_blank_contexts_are_rows_that_are_false_throughout(processor):
    batch = processor(context=[None, "a red dog.", "", " \n\t", "\u200b\x00"])
    assert batch["context_attention_mask"].any(1).tolist() == [False, True, False, False, False]
    empty = processor(context=[None, ""])
    assert empty["context_attention_mask"].tolist() == [[False], [False]]
    assert empty["context_input_ids"].shape == (2, 1)


def test_contexts_keep_the_special_tokens_of_their_tokenizer_when_cut(processor, bpe):
    ids = {word: i for i, word in enumerate(WORDS)}
    batch = processor(context=["a dog", "a red dog . a cat . cat"])
    first = [ids[word] for word in ("[CLS]", "a", "dog", "[SEP]", "[PAD]", "[PAD]")]
    second = [ids[word] for word in ("[CLS]", "a", "red", "dog", ".", "[SEP]")]
    assert batch["context_input_ids"].tolist() == [first, second]
    assert batch["context_attention_mask"].sum(1).tolist() == [4, 6]
    shared = CaptionerProcessor(None, bpe, max_context_length=2)(context="a red dog runs")
    assert shared["context_input_ids"].tolist() == [bpe("a red dog runs")["input_ids"][:2]]
    tiny = CaptionerProcessor(None, bpe, processor.context_tokenizer, max_context_length=1)
    assert tiny(context="a dog")["context_input_ids"].shape == (1, 1)


def test_an_empty_batch_has_no_rows(processor):
    shapes = [tuple(value.shape) for value in processor(images=[], context=[], captions=[]).values()]
    assert shapes == [(0, 3, 8, 12), (0, 1), (0, 1), (0, 1), (0, 1), (0, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give images, context or captions, the same number of each, but there is nothing;"),
        ({"images": [None, None], "context": "a"}, "but there is 2 images, 1 context;"),
        (
            {"context": "a", "captions": ["a", "b"]},
            "2 captions; several captions of one image go in a list of their own",
        ),
        (
            {"captions": [["a"], ["a", "b"]]},
            "every image needs the same number of captions, at least 1, but they have",
        ),
        ({"captions": [[], []]}, "at least 1, but they have [0, 0]"),
        ({"captions": ["a", None]}, "captions must be text, but one is None; leave its sample out"),
        ({"captions": [["a", 7]]}, "captions must be text, but one is 7; leave its sample out"),
        ({"images": ["gone.jpg"]}, "cannot read the image 'gone.jpg': No such file or directory"),
        ({"images": [photo()] * 3, "context": ["a"]}, "there is 3 images, 1 context;"),
        ({"images": [photo()], "context": ["a", "b"]}, "there is 1 images, 2 context;"),
        ({"images": np.zeros((8, 12, 3), np.uint8), "context": ["a"] * 8}, "there is 1 images, 8 context;"),
        ({"images": [[[photo()]]]}, "a batch is a list of samples, and a sample an image or a list of its images,"),
        ({"images": [[[0, 255], [255, 0]]]}, "cannot read the image given as list: a batch is a list of samples"),
        ({"images": [0, 255]}, "cannot read the image given as int: give a PIL image, a path, bytes"),
        ({"images": np.zeros((2, 2, 8, 12, 3), np.uint8)}, "two or three dimensions; give several as a list"),
        ({"images": np.zeros((16, 8, 12), np.uint8)}, "the first or the last dimension must be 1, 3 or 4 channels"),
        ({"images": np.zeros(7)}, "cannot read the image given as float64 of shape ()"),
        ({"images": np.full((8, 12, 3), np.nan)}, "floats must lie in 0…1, but some are NaN or infinite;"),
        ({"images": torch.full((3, 8, 12), torch.inf)}, "floats must lie in 0…1, but some are NaN or infinite;"),
        ({"images": np.full((8, 12, 3), 200.0)}, "floats must lie in 0…1, but go from 200 to 200; rescale them"),
        ({"images": torch.full((2, 3, 8, 12), -1.0)}, "floats must lie in 0…1, but go from -1 to -1; rescale them"),
        ({"context": ["a", float("nan")]}, "a context must be a text, or None where there is none, but one is nan"),
        ({"context": [["a", "b"]]}, "a context must be a text, or None where there is none, but one is ['a', 'b']"),
        ({"captions": [[["a"]]]}, "captions must be text, but one is ['a']"),
    ],
)
def test_wrong_batches_are_explained(processor, arguments, message):
    with pytest.raises(ValueError) as caught:
        processor(**arguments)
    assert message in str(caught.value)


def test_a_processor_without_image_settings_takes_no_images(bpe):
    reader = CaptionerProcessor(None, bpe)
    with pytest.raises(ValueError, match="no `image_settings`, so it takes no images; leave them out"):
        reader(images=photo())
    assert "pixel_values" not in reader(images=[None], context=["a"])


# Captions


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_labels_are_the_inputs_shifted_with_eos_always_supervised(processor, captions):
    batch = processor(captions=captions)
    for inputs, mask, labels in zip(
        batch["decoder_input_ids"], batch["decoder_attention_mask"], batch["labels"], strict=True
    ):
        length = int(mask.sum())
        assert 1 <= length <= processor.max_caption_length
        assert mask[:length].all()
        assert inputs[0] == processor.start_token_id
        assert torch.equal(inputs[1:length], labels[: length - 1])
        assert labels[length - 1] == processor.eos_token_id
        assert (labels[length:] == -100).all()
        assert (inputs[length:] == processor.pad_token_id).all()


def test_eos_is_supervised_where_pad_and_eos_share_an_id(gpt2):
    processor = CaptionerProcessor(None, gpt2, max_caption_length=4)
    assert (processor.start_token_id, processor.eos_token_id, processor.pad_token_id) == (4, 4, 4)
    batch = processor(captions=["a", "abab", ""])
    assert batch["labels"].tolist() == [[0, 4, -100, -100], [0, 1, 0, 4], [4, -100, -100, -100]]
    assert batch["decoder_input_ids"].tolist() == [[4, 0, 4, 4], [4, 0, 1, 0], [4, 4, 4, 4]]
    assert batch["decoder_attention_mask"].sum(1).tolist() == [2, 4, 1]
    assert processor.batch_decode(batch["labels"]) == ["a", "aba", ""]
    assert processor.decode([4, 0, 3, 4, 1]) == "a a"
    assert processor.decode([4]) == processor.decode([]) == processor.decode([4, 4, 0]) == ""


def test_special_tokens_that_a_tokenizer_adds_itself_are_not_doubled(bert):
    processor = CaptionerProcessor(None, bert)
    batch = processor(captions="a red dogs.")
    assert batch["decoder_input_ids"].tolist() == [[2, 5, 6, 7, 10, 9]]
    assert batch["labels"].tolist() == [[5, 6, 7, 10, 9, 3]]
    assert processor.decode([2, 5, 6, 7, 10, 9, 3, 0, 0]) == "a red dogs."
    ours = train_tokenizer(TEXTS, kind="word", min_frequency=1)
    from tokenizers.processors import TemplateProcessing

    ours.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    inputs = CaptionerProcessor(None, ours)(captions="red")["decoder_input_ids"]
    assert inputs.tolist() == [[1, ours.convert_tokens_to_ids("red")]]


def test_given_ids_take_the_place_of_the_tokenizers(bert):
    processor = CaptionerProcessor(None, bert, start_token_id=30, eos_token_id=4, pad_token_id=1)
    batch = processor(captions=["a", "a dog"])
    assert batch["decoder_input_ids"].tolist() == [[30, 5, 1], [30, 5, 7]]
    assert batch["labels"].tolist() == [[5, 4, -100], [5, 7, 4]]
    assert processor.decode(torch.tensor([30, 5, 7, 4, 8])) == "a dog"


def test_a_processor_that_could_not_end_captions_is_refused(bert, bpe):
    endless = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    endless.sep_token = None
    with pytest.raises(ValueError, match=r"neither eos nor sep token; set `tokenizer.eos_token`"):
        CaptionerProcessor(None, endless)
    with pytest.raises(ValueError, match="`max_images` must be at least 1, but are 0, 64 and 1"):
        CaptionerProcessor(None, bpe, max_caption_length=0)
    only_eos = CaptionerProcessor(None, bpe, max_caption_length=1)(captions="a red dog")
    assert only_eos["labels"].tolist() == [[2]]
