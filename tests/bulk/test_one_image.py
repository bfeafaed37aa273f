"""`caption` from Python: one image is one record, however it is given; a batch is a record each."""

import numpy as np
import pytest
import torch
from samples import encode, photo

from captioner import caption, load

ARRAY = np.asarray(photo(96, 96))


@pytest.fixture(scope="module")
def loaded():
    return load("scenes-concatenated")


ONE = {
    "Pillow": photo(96, 96),
    "bytes": encode(photo(96, 96)),
    "bytearray": bytearray(encode(photo(96, 96))),
    "row": {"bytes": encode(photo(96, 96)), "path": None},
    "array": ARRAY,
    "channels first": ARRAY.transpose(2, 0, 1),
    "tensor": torch.tensor(ARRAY).permute(2, 0, 1),
    "floats": ARRAY / 255,
}


@pytest.mark.parametrize("name", ONE)
def test_one_image_is_one_record(loaded, name):
    expected = next(caption([photo(96, 96)], loaded, beams=1, max_new_tokens=6))
    for given in (ONE[name], [ONE[name]], (ONE[name],), iter([ONE[name]])):
        assert list(caption(given, loaded, beams=1, max_new_tokens=6)) == [expected]


@pytest.mark.parametrize(
    "make",
    [list, np.stack, lambda images: torch.tensor(np.stack(images)), iter],
    ids=["list", "array", "tensor", "iterator"],
)
def test_a_batch_is_a_record_each(loaded, make):
    records = list(caption(make([ARRAY, ARRAY[::-1], ARRAY]), loaded, beams=1, max_new_tokens=6))
    assert [record["image"] for record in records] == ["0", "1", "2"]
    assert records[0]["caption"] == records[2]["caption"]


def test_a_path_names_all_that_lies_there(loaded, tmp_path):
    for name in "ab":
        photo(96, 96).save(tmp_path / f"{name}.png")
    (tmp_path / "list.txt").write_text("a.png\nb.png\na.png\n")
    for given, count in ((tmp_path, 2), (str(tmp_path), 2), (tmp_path / "list.txt", 2), (str(tmp_path / "b.png"), 1)):
        records = list(caption(given, loaded, beams=1, max_new_tokens=6))
        assert ["caption" in record for record in records] == [True] * count


def test_grey_arrays_are_images_too(loaded):
    assert len(list(caption(ARRAY[..., 0], loaded, beams=1, max_new_tokens=6))) == 1
    (record,) = caption(np.stack([ARRAY[..., 0]] * 5), loaded)
    assert record["error"].endswith("the first or the last dimension must be 1, 3 or 4 channels")


def test_the_processors_limit_of_pixels_holds_where_no_other_is_given(loaded, monkeypatch):
    _, processor = loaded
    monkeypatch.setattr(processor, "max_pixels", 96 * 96 - 1)
    (record,) = caption([photo(96, 96)], loaded)
    assert "96 × 96 = 9,216 pixels, and at most 9,215 are read" in record["error"]
    with pytest.raises(ValueError, match="at most 9,215 are read"):
        processor(images=photo(96, 96))
