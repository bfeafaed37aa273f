"""`captioner.caption` from Python: as many records as images, or an error that names the numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from captioner import caption, load
from captioner.bulk.captioning import CaptioningError


@pytest.fixture(scope="module")
def model():
    return load("scenes-separate")


IMAGE = np.zeros((40, 40, 3), np.uint8)
SHORT = {"beams": 1, "max_new_tokens": 4}


@pytest.mark.parametrize("beside", [{"context": ["x"]}, {"further": {"sound": [None] * 4}}, {"context": iter(["x"])}])
def test_fewer_or_more_values_than_images_are_an_error_that_names_both_numbers(model, beside):
    with pytest.raises(CaptioningError, match="3 .*images|there are (1|4) of|3 of images"):
        list(caption([IMAGE] * 3, model, **beside, **SHORT))


@pytest.mark.parametrize("images", [[IMAGE] * 3, iter([IMAGE] * 3)])
def test_lengths_are_held_for_iterators_too(model, images):
    with pytest.raises(CaptioningError, match="more of context"):
        list(caption(iter(images), model, context=(text for text in "abcd"), **SHORT))
    with pytest.raises(CaptioningError, match="1 of context, but more images"):
        list(caption([IMAGE] * 3, model, context=iter("a"), **SHORT))


def test_a_text_where_a_list_is_meant_is_refused(model):
    with pytest.raises(CaptioningError, match="must have a value for each image"):
        caption([IMAGE], model, further={"sound": "a.npy"}, **SHORT)


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (IMAGE, 1),
        (torch.zeros(3, 40, 40, dtype=torch.uint8), 1),
        (Image.new("RGB", (40, 40)), 1),
        (np.zeros((2, 40, 40, 3), np.uint8), 2),
        ([IMAGE], 1),
    ],
)
def test_one_image_is_one_image_and_a_batch_is_many(model, images, count):
    records = list(caption(images, model, **SHORT))
    assert len(records) == count
    assert all("caption" in record for record in records)


def test_texts_alone_are_as_many_as_there_are(model):
    assert len(list(caption(None, model, context=["a red circle", "b"], **SHORT))) == 2
    assert len(list(caption(None, model, context=iter(["a red circle"]), **SHORT))) == 1
