"""Contexts from a caption store: near images speak, the image itself never does, and any store fits any captioner."""

import json
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
from conftest import tiny_captioner
from PIL import Image
from runs import launch, lines, settings
from safetensors.torch import save_file
from stores import COLOURS, build, draw, make_table, tiny_encoder, tiny_facts
from typer.testing import CliRunner

from captioner import load
from captioner.base import DataSettings
from captioner.bulk import caption
from captioner.cli.main import app
from captioner.data import load_split
from captioner.retrieval import CaptionStore, Retriever, StoreEncoder, join, retrieved, write_store
from captioner.retrieval.caption_store import StoreError
from captioner.retrieval.retrieval import neighbours
from captioner.training import train


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("data") / "table", 4)


@pytest.fixture(scope="module")
def store(table, tmp_path_factory):
    return build(tmp_path_factory.mktemp("stores") / "store", table)


@pytest.fixture
def samples(table):
    return load_split(DataSettings(source="table", path=str(table)), "train")


def data_settings(store, **options):
    return DataSettings(source="table", retrieve=str(store), **options)


def test_a_store_gives_back_ids_and_captions(store, samples):
    opened = CaptionStore(store)
    assert list(opened.ids) == [sample["id"] for sample in samples.texts]
    assert [opened.captions_of(i) for i in range(len(opened))] == [sample["captions"] for sample in samples.texts]
    assert opened.facts["captions"] == 2 * opened.facts["images"] == 64


def test_nothing_in_a_store_is_executed_when_it_is_read(store):
    assert {path.suffix for path in store.iterdir()} == {".npy", ".json", ".safetensors", ".faiss"}
    for path in store.glob("*.npy"):
        np.load(path, allow_pickle=False)


def test_what_grows_with_the_images_is_memory_mapped(store):
    opened = CaptionStore(store)
    arrays = (opened.captions.letters, opened.captions.ends, opened.ids.letters, opened.ids.ends, opened.ends)
    assert all(isinstance(array, np.memmap) for array in arrays)
    with open("/proc/self/maps") as maps:
        assert str(store / "index.faiss") in maps.read()


def test_neighbours_are_the_nearest_by_cosine(store):
    opened = CaptionStore(store)
    retriever = Retriever(store, 3, near_duplicate=2.0)
    pixels = torch.stack([retriever.encoder.settings.fit(draw(colour, 100)) for colour in COLOURS])
    features = retriever.encoder(pixels)
    everything = np.stack([opened.index.reconstruct(i) for i in range(len(opened))])
    cosines = features / np.linalg.norm(features, axis=1, keepdims=True) @ everything.T
    expected = np.argsort(-cosines, axis=1)[:, :3].tolist()
    assert neighbours(opened, features, [""] * len(COLOURS), 3, 2.0) == expected
    assert retriever(pixels, [""] * len(COLOURS)) == [[opened.captions_of(i)[0] for i in row] for row in expected]


def test_in_training_an_image_never_gets_its_own_captions(store, samples):
    found = retrieved(samples, data_settings(store), tiny_captioner(), 0)
    for row, sample in enumerate(found):
        own = samples[row]["captions"]
        texts = sample["context"].split(" . ")
        assert len(texts) == 4
        assert not {join(None, [text]) for text in own} & set(texts)


def test_a_photo_saved_again_smaller_and_worse_counts_as_the_same(store, table, tmp_path):
    with Image.open(table / "03.png") as photo:
        photo.resize((36, 36)).save(tmp_path / "again.jpg", quality=90)
    retriever = Retriever(store, 4, 0.99)
    with Image.open(tmp_path / "again.jpg") as photo:
        (found,) = retriever(retriever.encoder.settings.fit(photo)[None], ["again"])
    assert not [text for text in found if text.startswith("photo 3 ")]


def test_retrieved_captions_follow_what_was_typed(table, store):
    data = DataSettings(source="table", path=str(table), context_column="title", retrieve=str(store), neighbours=2)
    split = load_split(data, "validation")
    for row, sample in enumerate(retrieved(split, data, tiny_captioner(), 0)):
        typed, *texts = sample["context"].split(" . ")
        assert typed == f"title {row}"
        assert len(texts) == 2
        assert all(text.startswith("photo ") for text in texts)


@pytest.mark.parametrize(
    ("typed", "captions", "context"),
    [
        (None, ["a dog .", "A cat."], "a dog . A cat"),
        ("rex", ["a dog"], "rex . a dog"),
        ("rex .", [], "rex ."),
        (None, [" "], None),
        (None, [], None),
    ],
)
def test_a_context_is_what_was_typed_then_sentences(typed, captions, context):
    assert join(typed, captions) == context


def test_a_sample_without_an_image_keeps_its_context(samples, store):
    class Blind:
        texts = samples.texts

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {**samples[index], "context": "typed", **({"image": None} if index else {})}

    found = retrieved(Blind(), data_settings(store), tiny_captioner(), 0)
    assert found[1]["context"] == "typed"
    assert found[0]["context"].startswith("typed . photo")


def test_the_store_of_another_domain_takes_the_place_of_the_first_without_training(table, store, samples, tmp_path):
    other = build(tmp_path / "other", make_table(tmp_path / "table", 2, word="painting"), tiny_encoder(seed=1))
    model = tiny_captioner()
    words = [
        {
            text.split()[0]
            for sample in retrieved(samples, data_settings(place), model, 0)
            for text in sample["context"].split(" . ")
        }
        for place in (store, other)
    ]
    assert words == [{"photo"}, {"painting"}]


def test_captioning_reads_whichever_store_it_is_given(table, store, tmp_path):
    other = build(tmp_path / "other", make_table(tmp_path / "table", 2, word="painting"), tiny_encoder(seed=1))
    loaded = load("scenes-separate")
    contexts = []
    for place in (store, other):
        (record,) = caption([table / "00.png"], model=loaded, context="typed", retrieve=place, neighbours=2, beams=1)
        contexts.append(record["context"].split(" . "))
    assert [[text.split()[0] for text in own] for own in contexts] == [
        ["typed", "photo", "photo"],
        ["typed", "painting", "painting"],
    ]


def test_another_encoder_in_a_store_is_an_error_that_says_what_to_do(store, tmp_path):
    shutil.copytree(store, tmp_path / "store")
    facts = tiny_encoder(seed=1).save(tmp_path / "store")
    message = f"made by another image encoder .*not {facts['fingerprint'][:12]}.*`captioner index`"
    with pytest.raises(StoreError, match=message):
        Retriever(tmp_path / "store", 4, 0.99)


@pytest.mark.parametrize("key", ["image_encoder", "image_settings"])
def test_another_configuration_or_treatment_of_images_is_refused_too(store, tmp_path, key):
    shutil.copytree(store, tmp_path / "store")
    facts = json.loads((store / "store.json").read_text())
    facts[key] |= {"crop_pct": 0.9}
    (tmp_path / "store/store.json").write_text(json.dumps(facts))
    with pytest.raises(StoreError, match="made by another image encoder"):
        Retriever(tmp_path / "store", 4, 0.99)


def test_what_is_no_store_or_a_mixed_one_is_refused(store, tmp_path):
    with pytest.raises(StoreError, match="is no caption store; make one with `captioner index"):
        CaptionStore(tmp_path)
    shutil.copytree(store, tmp_path / "store")
    np.save(tmp_path / "store/images.npy", np.arange(3))
    with pytest.raises(StoreError, match="mixes files of several stores"):
        CaptionStore(tmp_path / "store")


@pytest.mark.parametrize("file", ["index.faiss", "images.npy", "ids.npy", "captions_ends.npy", "store.json"])
@pytest.mark.parametrize("content", [None, b"", b"broken", b"[]"])
def test_a_store_with_a_broken_file_is_refused_in_one_line(store, tmp_path, file, content):
    shutil.copytree(store, tmp_path / "store")
    (tmp_path / "store" / file).unlink()
    if content is not None:
        (tmp_path / "store" / file).write_bytes(content)
    with pytest.raises(StoreError, match="captioner index") as caught:
        CaptionStore(tmp_path / "store")
    assert "\n" not in str(caught.value)


def test_a_captioner_that_does_not_read_is_refused(store, samples):
    blind = tiny_captioner(context_encoder=None)
    with pytest.raises(StoreError, match="has no context encoder; set `model.context_encoder`"):
        retrieved(samples, data_settings(store), blind, 0)


def test_a_killed_build_leaves_the_store_before_it(store, table, tmp_path):
    shutil.copytree(store, tmp_path / "store")

    def batches():
        yield np.ones((1, 16), np.float32), ["one"], [["a caption"]]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "store", batches(), tiny_facts)
    assert len(CaptionStore(tmp_path / "store")) == 32


SHARED = """
import json, sys
from accelerate import Accelerator
from captioner import load
from captioner.data import load_split
from captioner.base import leave
from captioner.retrieval import retrieved
from captioner.base import DataSettings
table, store, output = sys.argv[1:]
data, accelerator = DataSettings(source="table", path=table, retrieve=store), Accelerator(cpu=True)
found = retrieved(load_split(data, "train"), data, load("scenes-separate")[0], 0, accelerator)
with open(f"{output}.{accelerator.process_index}", "w") as file:
    json.dump([sample["context"] for sample in found], file)
leave()
"""


def test_two_processes_retrieve_together_what_one_retrieves(table, store, samples, tmp_path):
    (tmp_path / "shared.py").write_text(SHARED)
    launch(str(tmp_path / "shared.py"), str(table), str(store), str(tmp_path / "contexts"))
    alone = [sample["context"] for sample in retrieved(samples, data_settings(store), tiny_captioner(), 0)]
    assert [json.loads((tmp_path / f"contexts.{i}").read_text()) for i in range(2)] == [alone, alone]


def test_any_timm_model_with_weights_from_a_file_can_look(tmp_path):
    source = timm.create_model("test_vit", num_classes=10)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    encoder = StoreEncoder.of_timm("test_vit", str(tmp_path / "weights.safetensors"))
    pixels = torch.randint(256, (2, 3, encoder.settings.height, encoder.settings.width), dtype=torch.uint8)
    with torch.no_grad():
        expected = source.eval().forward_features(encoder.settings.normalize(pixels)).mean(1).numpy()
    np.testing.assert_allclose(encoder(pixels), expected, rtol=1e-4, atol=1e-5)


def test_without_faiss_the_error_names_the_extra(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(StoreError, match=r"pip install 'captioner\[retrieval\]'"):
        CaptionStore(store)


@pytest.mark.parametrize("looks", [[], ["--model", "scenes-separate", "--encoder", "test_vit"]])
def test_index_wants_one_encoder(table, tmp_path, looks):
    result = CliRunner().invoke(app, ["index", str(table), "--output", str(tmp_path / "store"), *looks])
    assert result.exit_code == 2
    assert "a captioner with `--model`, or a timm model with `--encoder`" in result.output


def test_index_never_writes_over_what_is_no_store(table):
    result = CliRunner().invoke(app, ["index", str(table), "--output", str(table), "--model", "scenes-separate"])
    assert result.exit_code == 2
    assert "is a folder with files that captioner did not make" in result.output


def test_training_evaluation_and_captioning_read_a_store_from_the_command_line(table, tmp_path):
    base = tiny_run(table, tmp_path)
    invoke("index", table, "--output", tmp_path / "store", "--model", base, "data.context_column=title")
    config = tmp_path / "run.yaml"
    config.write_text("data: {source: table}")
    run = [config, f"data.path={table}", "data.context_column=title", *STEPS, "--retrieve", tmp_path / "store"]
    invoke("train", *run, f"model.init_from={base}", f"training.output_dir={tmp_path / 'run'}", "--neighbours", 2)
    assert "data.neighbours" not in (tmp_path / "run/settings.yaml").read_text()
    trained = tmp_path / "run/last"
    assert "cider_d" in lines(tmp_path / "run")[-1]
    options = ["--config", config, f"data.path={table}", "data.context_column=title", "--num-workers", 0]
    shown = invoke("evaluate", "--model", trained, *options, "--retrieve", tmp_path / "store", "--ablate")
    assert "context shuffled" in shown
    shown = invoke("caption", table / "00.png", "--model", trained, "--retrieve", tmp_path / "store", "--json")
    record = json.loads(shown.strip().splitlines()[-1])
    texts = record["context"].split(" . ")
    assert len(texts) == 4
    assert not [text for text in texts if text.startswith("photo 0 ")]


STEPS = ["training.max_steps=2", "training.per_device_train_batch_size=4", "training.dataloader_num_workers=0"]


def tiny_run(table, folder):
    """A captioner trained for two steps, without a store."""
    place = [f"data.path={table}", "data.source=table", "data.context_column=title", "data.levels=[1]"]
    train(settings(folder / "base", *place, *STEPS))
    return folder / "base/last"


def invoke(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output
