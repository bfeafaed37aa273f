"""Settings: what is read, what is refused, and that every config of the repository says only what is known."""

from pathlib import Path

import pytest
import yaml

from captioner.base import Settings, SettingsError, load_settings

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_opens_with_its_launch_command(path):
    settings = load_settings(path)
    opening = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert settings.training.output_dir.startswith("runs/")
    assert any("captioner train" in line or "accelerate launch" in line for line in opening)
    assert any(path.name in line for line in opening)


def test_the_configs_that_the_readme_promises_are_there():
    assert {"demo", "scenes", "flickr8k", "flickr8k-pretrained", "coco"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("written", ["no", "'no'", "false"])
def test_no_mixed_precision_may_be_written_as_people_write_it(written):
    assert load_settings(None, [f"training.mixed_precision={written}"]).training.mixed_precision == "no"


def test_overrides_are_applied_in_order_and_read_as_yaml():
    settings = load_settings(
        None,
        [
            "training.learning_rate=1e-3",
            "training.learning_rate=2e-3",
            "data.levels=[1,3]",
            "model.image_encoder.name=resnet18",
            "data.path=null",
        ],
    )
    assert settings.training.learning_rate == 2e-3
    assert settings.data.levels == [1, 3]
    assert settings.model.image_encoder == {"name": "resnet18"}
    assert settings.data.path is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lerning_rate=1", "unknown setting 'training.lerning_rate'; did you mean 'training.learning_rate'?"),
        ("trainig.max_steps=1", "unknown setting 'trainig'; did you mean 'training'?"),
        ("data.tokenizer.knd=bpe", "did you mean 'data.tokenizer.kind'?"),
        ("training.max_steps=0", "setting 'training.max_steps' is 0: input should be greater than 0"),
        ("model.fusion=mixed", "setting 'model.fusion' is 'mixed'"),
        ("training.max_steps", "an override must look like section.key=value, but is 'training.max_steps'"),
        ("training.max_steps=[", "the value of 'training.max_steps' is not valid YAML"),
    ],
)
def test_a_wrong_override_is_explained(override, message):
    with pytest.raises(SettingsError) as error:
        load_settings(None, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_broken_config_is_explained(tmp_path):
    with pytest.raises(SettingsError, match="cannot read the config .*: No such file"):
        load_settings(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [")
    with pytest.raises(SettingsError, match="is not valid YAML"):
        load_settings(broken)
    broken.write_text("- 1")
    with pytest.raises(SettingsError, match="must hold the sections model, data, training, generation"):
        load_settings(broken)


def test_saved_settings_load_as_what_they_were(tmp_path):
    settings = load_settings(CONFIGS[0], ["training.seed=7"])
    settings.save(tmp_path / "settings.yaml")
    assert load_settings(tmp_path / "settings.yaml") == settings
    assert yaml.safe_load((tmp_path / "settings.yaml").read_text())["training"]["seed"] == 7
    assert Settings() == load_settings()


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("generation.bad_words=[zebra, a]", ["zebra", "a"]),
        ("data.modality_columns={sound: s}", {"sound": "s"}),
        ("data.annotations={train: a}", {"train": "a"}),
        ("data.annotations=a #1.json", "a #1.json"),
        ("model.modality_order=[image,context]", ["image", "context"]),
        ("data.path=[set]/", "[set]/"),
    ],
)
def test_lists_and_tables_of_texts_are_read_as_such(override, value):
    section, _, key = override.partition("=")[0].partition(".")
    assert getattr(getattr(load_settings(None, [override]), section), key) == value


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.path=my photos #2", "my photos #2"),
        ("data.path=[set]/a: b", "[set]/a: b"),
        ("data.path= photos ", "photos"),
        ("data.path='it: is'", "it: is"),
        ("data.path=null", None),
        ("data.path=", None),
        ("data.caption_column=1", "1"),
        ("data.caption_column=1e-3", "1e-3"),
        ("data.caption_column='007'", "007"),
        ("data.id_column=no", "no"),
        ("data.train_split=train[:75%]", "train[:75%]"),
        ("data.annotations=a #1.json", "a #1.json"),
        ("data.annotations={train: a.json}", {"train": "a.json"}),
        ("data.annotations.train=a #1.json", {"train": "a #1.json"}),
        ("data.modality_columns.audio=2", {"audio": "2"}),
        ("data.hold_out=0.1", 0.1),
    ],
)
def test_a_setting_that_is_a_text_is_taken_as_it_is_typed(override, value):
    name = override.partition("=")[0].split(".")[1]
    assert getattr(load_settings(None, [override]).data, name) == value


@pytest.mark.parametrize(
    "key",
    ["data.path", "data.retrieve", "data.feature_store", "training.output_dir", "model.init_from", "model.decoder"],
)
def test_home_is_what_a_tilde_stands_for(key, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/anna")
    section, name = key.split(".")
    write = tmp_path / "x.yaml"
    write.write_text(f"{section}: {{{name}: ~/x}}")
    for settings in (load_settings(None, [f"{key}=~/x"]), load_settings(write)):
        assert getattr(getattr(settings, section), name) == "/home/anna/x"
    nested = load_settings(None, ["data.annotations={train: ~/a.json}", "model.image_encoder.pretrained=~/w"])
    assert nested.data.annotations == {"train": "/home/anna/a.json"}
    assert nested.model.image_encoder == {"pretrained": "/home/anna/w"}


def test_a_text_that_yaml_takes_for_something_else_is_to_be_quoted(tmp_path):
    (tmp_path / "x.yaml").write_text("data: {caption_column: 1}")
    with pytest.raises(SettingsError, match="setting 'data.caption_column' is 1: .*; write it in quotes"):
        load_settings(tmp_path / "x.yaml")


def test_a_config_may_be_in_any_encoding_and_has_each_key_once(tmp_path):
    file = tmp_path / "x.yaml"
    for encoding in ("utf-16", "utf-8-sig", "cp1252"):
        file.write_bytes("data: {path: Häuser}\n".encode(encoding))
        assert load_settings(file).data.path == "Häuser"
    file.write_text("data: {path: a}\ntraining: {seed: 1}\ndata: {limit: 1}\n")
    with pytest.raises(SettingsError, match="the key 'data' comes twice .*line 1, column 1"):
        load_settings(file)


def test_settings_are_saved_as_utf_8_wherever_they_are_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    monkeypatch.setattr("locale.getencoding", lambda: "ascii", raising=False)
    load_settings(None, ["data.path=Häuser"]).save(tmp_path / "x.yaml")
    assert "Häuser" in (tmp_path / "x.yaml").read_bytes().decode("utf-8")
