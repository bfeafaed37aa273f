"""Only options on an explicit list shape an image encoder; a configuration by others loads and runs nothing."""

import json
import os
import pickle

import pytest
import timm
import torch
from conftest import VIT, tiny_captioner
from samples import TEXTS

from captioner import Captioner, CaptionerProcessor
from captioner.adopt import AdoptError, PartsError, load, load_timm_weights, train_tokenizer
from captioner.model import ImageSettings, build_backbone
from captioner.model.image_options import ARCHITECTURE, OURS, check_options

SECRETS = {  # what timm's constructor and builder take beside shapes
    "checkpoint_path": "evil.pth",
    "pretrained": True,
    "pretrained_cfg": {"file": "evil.pth"},
    "pretrained_cfg_overlay": {"file": "evil.pth"},
    "pretrained_strict": False,
    "pretrained_filter_fn": "os.system",
    "pretrained_model_args": {},
    "cache_dir": "elsewhere",
    "kwargs_filter": ["depth"],
    "features_only": True,
    "feature_cfg": {},
    "out_indices": [1],
    "scriptable": True,
    "exportable": True,
    "no_jit": True,
    "num_classes": 7,
    "global_pool": "avg",
    "in_chans": 1,
    "device": "meta",
    "dtype": "float16",
    "cfg": {},
    "block_fn": "os.system",
}


class Evil:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, ran):
        self.ran = str(ran)

    def __reduce__(self):
        return os.mkdir, (self.ran,)


@pytest.fixture
def evil(tmp_path):
    """Two pickles that would make the folder `ran`, and that folder."""
    ran = tmp_path / "ran"
    torch.save({"x": Evil(ran)}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"x": Evil(ran)}))
    return ran


@pytest.fixture
def saved(tmp_path):
    """The directory of a captioner as it was saved."""
    words = train_tokenizer(TEXTS, kind="word", min_frequency=1)
    shape = {"decoder": {"vocab_size": len(words)}, "context_encoder": None}
    for part in (tiny_captioner(**shape), CaptionerProcessor(ImageSettings(32, 32), words, max_caption_length=20)):
        part.save_pretrained(tmp_path / "captioner")
    return tmp_path / "captioner"


def change(file, **options):
    """Put options into the `image_encoder` of a config.json."""
    config = json.loads(file.read_text())
    config["image_encoder"] |= options
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("key", SECRETS)
def test_what_does_not_shape_an_architecture_never_reaches_timm(key, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *names, **options: pytest.fail(f"timm was given {options}"))
    with pytest.raises(ValueError, match=f"`image_encoder` has '{key}', which is neither one of name, image_size"):
        build_backbone(VIT | {key: SECRETS[key]})


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_configuration_that_names_a_pickle_runs_nothing(saved, evil, option, suffix):
    file = str(evil.with_name(f"evil.{suffix}"))
    change(saved / "config.json", **{option: file if option == "checkpoint_path" else {"file": file}})
    with pytest.raises(AdoptError, match=f"`image_encoder` has '{option}'"):
        load(saved)
    with pytest.raises(ValueError, match=f"`image_encoder` has '{option}'"):
        Captioner.from_pretrained(saved)
    assert not evil.exists()


@pytest.mark.parametrize("name", ["hf-hub:who/what", "hf_hub:who/what", "https://who/what", "../captioner", 7, None])
def test_a_configuration_names_models_of_timm_alone(saved, name):
    change(saved / "config.json", name=name)
    with pytest.raises(AdoptError, match="timm has no model|must have the key 'name'"):
        load(saved)


@pytest.mark.parametrize(("key", "near"), [("dept", "depth"), ("img_size", "image_size"), ("num_head", "num_heads")])
def test_a_misspelt_option_gets_the_nearest(key, near):
    with pytest.raises(ValueError, match=f"`image_encoder` has '{key}'.*did you mean '{near}'"):
        build_backbone(VIT | {key: 1})


@pytest.mark.parametrize("value", [{"a": 1}, [{"a": 1}], torch.nn.LayerNorm])
def test_a_value_is_plain(value):
    with pytest.raises(ValueError, match="`image_encoder.norm_layer` must be a number, a word"):
        build_backbone(VIT | {"norm_layer": value})


def test_the_list_has_what_captioners_are_built_of():
    for option in (
        "depth",
        "embed_dim",
        "patch_size",
        "class_token",
        "reg_tokens",
        "window_size",
        "layers",
        "act_layer",
    ):
        assert option in ARCHITECTURE
    assert not ARCHITECTURE & set(SECRETS)
    assert not ARCHITECTURE & set(OURS)
    check_options(VIT | {"norm_layer": "layernorm", "mlp_ratio": 2.0, "class_token": False, "weight_init": "jax"})


def test_weights_of_a_file_are_read_without_running_what_a_pickle_asks_for(evil):
    backbone = build_backbone(VIT)
    for suffix in ("pth", "pkl"):
        file = evil.with_name(f"evil.{suffix}")
        with pytest.raises(PartsError, match="cannot read the weights in .*evil.*; give a file of safetensors"):
            load_timm_weights(backbone, VIT | {"pretrained": str(file)})
    assert not evil.exists()


def test_weights_in_a_checkpoint_of_torch_are_taken_and_resized(tmp_path):
    options = {key: value for key, value in VIT.items() if key not in ("name", "image_size")}
    source = timm.create_model(VIT["name"], img_size=64, num_classes=5, **options)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    backbone = build_backbone(VIT)
    load_timm_weights(backbone, VIT | {"pretrained": str(tmp_path / "w.pth")})
    torch.testing.assert_close(backbone.blocks[0].mlp.fc1.weight, source.blocks[0].mlp.fc1.weight)
    assert backbone.pos_embed.shape[1] == 5


@pytest.mark.parametrize("content", [b"", b"abc", b"PK\x03\x04abc"])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin"])
def test_weights_that_are_broken_are_refused_in_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PartsError, match=f"cannot read the weights in .*{name}") as error:
        load_timm_weights(build_backbone(VIT), VIT | {"pretrained": str(tmp_path / name)})
    assert "\n" not in str(error.value)


def test_a_broken_captioner_gives_its_image_encoder_to_nobody(saved):
    (saved / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(PartsError, match="model.safetensors is empty, cut or no file of safetensors"):
        load_timm_weights(build_backbone(VIT), VIT | {"pretrained": str(saved)})


def test_a_folder_that_timm_saved_gives_its_architecture_and_weights_and_nothing_else(tmp_path, evil):
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 32}
    source = timm.create_model(VIT["name"], **options)
    timm.models.save_for_hf(source, tmp_path / "timm", model_args=options)
    encoder = {"name": f"local-dir:{tmp_path / 'timm'}"}
    backbone = build_backbone(encoder)
    load_timm_weights(backbone, encoder | {"pretrained": True})
    torch.testing.assert_close(backbone.pos_embed, source.pos_embed)
    file = tmp_path / "timm/config.json"
    kept = json.loads(file.read_text())
    kept["model_args"]["checkpoint_path"] = str(evil.with_name("evil.pth"))
    file.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="`image_encoder` has 'checkpoint_path'"):
        build_backbone(encoder)
    assert not evil.exists()
    file.write_text("[]")
    with pytest.raises(ValueError, match="timm saved no model there .*; give a folder that timm's `save_for_hf` wrote"):
        build_backbone(encoder)
