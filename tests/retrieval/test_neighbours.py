"""The search of a caption store over drawn features: no near duplicates, no crowding, inverted files nearly exact."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import tiny_facts

from captioner.retrieval import CaptionStore, write_store
from captioner.retrieval.caption_store import StoreError
from captioner.retrieval.retrieval import neighbours


@given(data=st.data())
@settings(max_examples=40)
def test_neither_an_image_nor_its_near_duplicates_ever_come_back(data, tmp_path_factory):
    count = data.draw(st.integers(2, 40))
    draw_numbers = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    features = draw_numbers.normal(size=(count, 8)).astype(np.float32)
    copies = data.draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=30))
    for original, copy in copies:
        features[copy] = features[original] * 3 + draw_numbers.normal(scale=1e-4, size=8)
    ids = [str(data.draw(st.integers(0, count))) for _ in range(count)]
    directory = tmp_path_factory.mktemp("store")
    write_store(directory / "store", [(features, ids, [[name] for name in ids])], tiny_facts)
    opened, wanted = CaptionStore(directory / "store"), data.draw(st.integers(1, 6))
    found = neighbours(opened, features, ids, wanted, 0.99)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row, own in enumerate(found):
        others = [i for i in range(count) if ids[i] != ids[row] and unit[row] @ unit[i] < 0.989]
        assert not [i for i in own if ids[i] == ids[row] or unit[row] @ unit[i] > 0.991]
        assert len(own) >= min(wanted, len(others))
    shutil.rmtree(directory)


def test_many_copies_of_an_image_do_not_crowd_the_others_out(tmp_path):
    features = np.vstack([np.tile(np.eye(8, dtype=np.float32)[:1], (200, 1)), np.eye(8, dtype=np.float32) + 0.5])
    ids = [f"copy {i}" for i in range(200)] + [f"other {i}" for i in range(8)]
    write_store(tmp_path / "store", [(features, ids, [[name] for name in ids])], tiny_facts)
    (found,) = neighbours(CaptionStore(tmp_path / "store"), features[:1], ["query"], 4, 0.99)
    assert len(found) == 4
    assert min(found) >= 200


def test_an_inverted_file_finds_what_an_exact_index_finds_most_of_the_time(tmp_path):
    centres = np.random.default_rng(0).normal(size=(50, 16))
    features = np.repeat(centres, 40, axis=0) + np.random.default_rng(1).normal(scale=0.3, size=(2000, 16))
    features, ids = features.astype(np.float32), [str(i) for i in range(2000)]
    found = {}
    for kind in ("SQfp16", "IVF32,SQfp16"):
        write_store(tmp_path / kind, [(features, ids, [[name] for name in ids])], tiny_facts, kind)
        found[kind] = neighbours(CaptionStore(tmp_path / kind), features, ids, 4, 0.99999)
    same = np.mean([len(set(a) & set(b)) / 4 for a, b in zip(*found.values(), strict=True)])
    assert same > 0.95
    with pytest.raises(StoreError, match="FAISS cannot make an index 'IVF'"):
        write_store(tmp_path / "bad", [(features, ids, [[name] for name in ids])], tiny_facts, "IVF")
