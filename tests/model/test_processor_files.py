"""A processor on disk, on the Hub and in worker processes is the same one."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from samples import photo
from transformers import AutoProcessor, AutoTokenizer
from transformers.utils import hub

from captioner import CaptionerConfig, CaptionerProcessor
from captioner.model import ImageSettings


def same(a: CaptionerProcessor, b: CaptionerProcessor) -> bool:
    batches = [p(photo(), "A red dog.", "A red dog.") for p in (a, b)]
    equal = all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])
    return equal and a.to_dict() == b.to_dict() and a.image_settings == b.image_settings


def test_a_saved_processor_comes_back_as_it_was(processor, bpe, gpt2, tmp_path):
    processor.save_pretrained(tmp_path / "both")
    loaded = CaptionerProcessor.from_pretrained(tmp_path / "both")
    assert same(processor, loaded)
    loaded.save_pretrained(tmp_path / "again")
    for name in ("processor_config.json", "tokenizer.json", "context_tokenizer/tokenizer.json"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    settings = ImageSettings(4, 6, (0.1, 0.2, 0.3), (1, 2, 3), "nearest", 0.7, "center")
    one = CaptionerProcessor(settings, gpt2, None, 7, 8, 1, 2, 3)
    one.save_pretrained(tmp_path / "both")  # over another one; its context tokenizer must not come back
    loaded = CaptionerProcessor.from_pretrained(str(tmp_path), subfolder="both")
    assert loaded.context_tokenizer is None
    assert same(one, loaded)
    CaptionerProcessor(None, bpe).save_pretrained(tmp_path / "text")
    assert CaptionerProcessor.from_pretrained(tmp_path / "text").image_settings is None
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == [
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_using_a_processor_does_not_change_what_it_saves(processor, tmp_path):
    processor.save_pretrained(tmp_path / "before")
    processor(photo(), "a red dog. a red dog. a red dog", "a red dog and a cat and a dog and a cat")
    processor.save_pretrained(tmp_path / "after")
    for name in ("tokenizer.json", "context_tokenizer/tokenizer.json"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_settings_that_cannot_be_written_leave_those_before(processor, bpe, tmp_path, monkeypatch):
    processor.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name == "processor_config.json"}

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        CaptionerProcessor(None, bpe).save_pretrained(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if "processor_config" in path.name}
    assert after == before


def test_the_config_of_a_model_beside_it_does_not_matter(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    remote = {"model_type": "captioner", "auto_map": {"AutoConfig": "configuration.CaptionerConfig"}}
    for config in (remote, {"model_type": "unheard_of"}, {"model_type": "gpt2"}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert same(processor, CaptionerProcessor.from_pretrained(tmp_path))
    CaptionerConfig(image_encoder={"name": "resnet18"}).save_pretrained(tmp_path)
    assert same(processor, CaptionerProcessor.from_pretrained(tmp_path))
    assert same(processor, AutoProcessor.from_pretrained(tmp_path))
    assert AutoTokenizer.from_pretrained(tmp_path)("a dog")["input_ids"] == processor.tokenizer("a dog")["input_ids"]


def test_a_processor_loads_by_hub_id_from_the_cache(processor, tmp_path):
    repository = tmp_path / "models--someone--captioner"
    processor.save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    hub_kwargs = {"cache_dir": tmp_path, "local_files_only": True}
    assert same(processor, CaptionerProcessor.from_pretrained("someone/captioner", **hub_kwargs))
    with pytest.raises(OSError, match=r"^'someone/else' is neither a directory nor at hand on the Hub: We couldn't"):
        CaptionerProcessor.from_pretrained("someone/else", **hub_kwargs)


def test_pushing_uploads_every_file(processor, monkeypatch):
    uploaded = []

    class Api:
        def create_repo(self, repo_id, **_):
            return type("Repository", (), {"repo_id": repo_id})

        def create_commit(self, operations, **_):
            uploaded.extend(operation.path_in_repo for operation in operations)

    card = type("Card", (), {"save": lambda self, path: None})()
    monkeypatch.setattr(hub, "hf_api", Api)
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *_, **__: card)
    processor.push_to_hub("someone/captioner")
    tokenizer = ["tokenizer.json", "tokenizer_config.json"]
    assert sorted(uploaded) == sorted(
        ["processor_config.json", *tokenizer, *(f"context_tokenizer/{name}" for name in tokenizer)]
    )


def test_directories_without_a_processor_are_explained(tmp_path):
    with pytest.raises(OSError, match=r"has no processor_config.json; give a directory that"):
        CaptionerProcessor.from_pretrained(tmp_path)
    config = tmp_path / "processor_config.json"
    config.write_text('{"processor_class": "BlipProcessor"}')
    with pytest.raises(ValueError, match=r"is not of CaptionerProcessor; try `captioner.load`$"):
        CaptionerProcessor.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"processor_config.json is not valid JSON: .*; save the processor again$"):
        CaptionerProcessor.from_pretrained(tmp_path)


def test_a_processor_travels_to_worker_processes(processor):
    assert same(processor, pickle.loads(pickle.dumps(processor)))
    loader = torch.utils.data.DataLoader([photo()] * 4, batch_size=2, num_workers=1, collate_fn=processor)
    assert [len(batch["pixel_values"]) for batch in loader] == [2, 2]


def test_loading_and_using_a_processor_imports_no_timm(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    program = (
        "import sys; from captioner import CaptionerProcessor; "
        f"CaptionerProcessor.from_pretrained({str(tmp_path)!r})(context='a'); print('timm' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
