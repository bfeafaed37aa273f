"""README and docs are true: their examples and commands run offline, and what they name exists.

What the Hub would give are tiny random models in folders of the same name. Data are written as the docs show them,
training is one step long, and what would take minutes or has no data here is only checked for its options and settings.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    GPT2Config,
    GPT2LMHeadModel,
)
from typer.main import get_command
from typer.testing import CliRunner

import captioner
from captioner.adopt import DEFAULT_MODEL
from captioner.adopt.locating import SHIPPED
from captioner.adopt.vocabulary import train_tokenizer
from captioner.base import Settings, load_settings
from captioner.cli.main import app
from captioner.model import MODES
from captioner.scenes import Scenes

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = get_command(app).commands
LONG = ("app", "demo")  # a server, and minutes
OTHER_PROGRAMS = ("git", "make", "pip", "pytest", "python", "cd")
FENCE = re.compile(r"^```(\w*) *(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STAND_IN = "scenes-separate"  # for a model that is only "…"
SMALL = [
    *("data.scenes=20", "data.limit=4", "generation.num_beams=1", "generation.max_new_tokens=3"),
    *("training.max_steps=1", "training.per_device_train_batch_size=2", "training.dataloader_num_workers=0"),
    "training.mixed_precision='no'",
]
FACTS = "the red circle anna . the blue star otto"


@dataclass(frozen=True)
class Fence:
    """A block of code in a document, and the file that it is, if it names one."""

    language: str
    file: str
    text: str
    where: str


def fences(document):
    content = (ROOT / document).read_text(encoding="utf-8")
    for found in FENCE.finditer(content):
        yield Fence(*found.groups(), where=f"{document}:{content.count(chr(10), 0, found.start()) + 1}")


def prose(document):
    return FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))


def shell_commands(text):
    """The words of every command, without comments and variables before it."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


def arguments(words):
    """The arguments of `captioner` in a command, however it was started; None where it is another program."""
    words = [STAND_IN if word == "…" else word for word in words]
    if "train.py" in words:
        return ["train", *words[words.index("train.py") + 1 :]]
    if "captioner" in words[: words.index("-m") + 2 if "-m" in words else 1]:
        return words[words.index("captioner") + 1 :]
    return None


def save(folder, model, tokenizer, *others):
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for part in (model, tokenizer, *others):
        part.save_pretrained(folder)


def make_hub(folder):
    """Tiny random models under the names of public ones."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "##s", "star", "of", "photo"]
    bert = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = shape | {"vocab_size": len(words) + 2, "max_position_embeddings": 40, "bos_token_id": len(words)}
    text |= {"sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 2}
    blip = BlipConfig(text_config=text, vision_config=shape | {"image_size": 32, "patch_size": 8})
    pixels = BlipImageProcessor(size={"height": 32, "width": 32})
    save(folder / DEFAULT_MODEL, BlipForConditionalGeneration(blip), bert, pixels)
    reader = BertConfig(**shape, vocab_size=len(words), max_position_embeddings=64)
    save(folder / "sentence-transformers/all-MiniLM-L6-v2", BertModel(reader), bert)
    tokenizer = train_tokenizer(["a red circle left of a blue star"], kind="word", min_frequency=1)
    speaker = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64)
    save(folder / "gpt2", GPT2LMHeadModel(speaker), tokenizer)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything that the documents take for granted."""
    folder = tmp_path_factory.mktemp("world")
    scenes = Scenes("test", [1], 4)
    for place in ("photos", "imagefolder/train", "imagefolder/validation", "flickr8k", "runs/flickr8k", "table"):
        (folder / place).mkdir(parents=True)
    pictures = [Image.fromarray(scenes[i]["image"]) for i in range(len(scenes))]
    for i, picture in enumerate(pictures, start=1):
        places = ["photos", "flickr8k", "imagefolder/validation" if i == 3 else "imagefolder/train"]
        for place in places if i < 4 else places[:2]:
            picture.save(folder / place / f"{i:04}.jpg")
    pictures[0].save(folder / "photo.jpg")
    pictures[0].save(folder / "picture.png")
    (folder / "photos/0001.txt").write_text(FACTS)
    (folder / "list.csv").write_text(f"image,title,tags\nphotos/0001.jpg,{FACTS},red\nphotos/0002.jpg,,\n")
    texts = {"predictions": {"caption": "a dog"}, "references": {"captions": ["a dog runs"]}}
    for name, own in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"id": i} | own) + "\n" for i in range(2)))
    for link, target in {
        "configs": ROOT / "configs",
        "runs/flickr8k/best": SHIPPED / "scenes-separate",
        "runs/concatenated/best": SHIPPED / "scenes-concatenated",
    }.items():
        (folder / link).parent.mkdir(exist_ok=True)
        (folder / link).symlink_to(target)
    make_hub(folder)
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """A copy of that folder to work in, where pretrained timm models are small and random."""
    shutil.copytree(world, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    create = timm.create_model

    def create_small(name, pretrained=False, **options):
        if "." in name:
            options |= {"embed_dim": 24, "depth": 1, "num_heads": 2}
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create_small)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only waits for more
    yield
    torch.set_num_threads(threads)


def parse(words):
    """What a command was given; an unknown option or a wrong value is an error."""
    assert words[0] in COMMANDS, f"there is no command {words[0]!r}"
    return COMMANDS[words[0]].make_context(words[0], list(words[1:])).params


def small(words, given):
    """The command cut to one step and a few samples; None where it is long or its data are not here."""
    if words[0] in LONG:
        return None
    if words[0] not in ("train", "evaluate"):
        return words
    loose = [word for word in (given["config"], given.get("config_option"), *(given["overrides"] or [])) if word]
    (config,) = [word for word in loose if "=" not in word]
    settings = load_settings(config, [word for word in loose if "=" in word])
    if settings.data.source != "scenes" and not os.path.exists(settings.data.path or ""):
        return None
    if words[0] == "train" and not given["resume"]:
        shutil.rmtree(settings.training.output_dir, ignore_errors=True)
    return [*words, *SMALL, *(["--num-workers", "0"] if words[0] == "evaluate" else [])]


def run_command(words, where):
    asked = arguments(words)
    if asked is None:
        assert words[0] in OTHER_PROGRAMS, f"{where}: what is {words[0]!r}?"
        return
    given = parse(asked)
    asked = small(asked, given)
    if asked is None:
        return
    output = given.get("output")
    if asked[0] == "caption" and output and not Path(f"{output}.parts").exists():
        output.unlink(missing_ok=True)  # each example is the first
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, f"{where}: {shlex.join(asked)}\n{result.output}\n{result.exception!r}"


def write_file(fence):
    Path(fence.file).parent.mkdir(parents=True, exist_ok=True)
    Path(fence.file).write_text(fence.text, encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_examples_of_a_document_run_from_top_to_bottom(document, here):
    names = {
        "images": torch.rand(2, 3, 64, 64),
        "ids": torch.randint(3, 200, (2, 6)),
        "mask": torch.ones(2, 6, dtype=torch.bool),
        "decoder_input_ids": torch.randint(3, 200, (2, 5)),
    }
    torch.manual_seed(0)
    for fence in fences(document):
        if fence.file:
            write_file(fence)
        elif fence.language == "python":
            exec(compile(fence.text, fence.where, "exec"), names)
        elif fence.language == "bash":
            for words in shell_commands(fence.text):
                run_command(words, fence.where)
        else:
            assert not fence.language, f"{fence.where}: nothing is done with {fence.language}"


def test_a_wrong_option_setting_or_command_in_a_document_is_noticed(here):
    for line in ("captioner caption photos/ --beam 3", "captioner train configs/demo.yaml data.pth=x", "captioner fly"):
        (words,) = shell_commands(line)
        with pytest.raises(Exception, match="No such option|unknown setting|there is no command"):
            run_command(words, "here")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_and_settings_that_a_document_names_exist(document):
    code = " ".join(re.findall(r"`([^`\n]+)`", prose(document)))
    known = {name for command in COMMANDS.values() for option in command.params for name in option.opts}
    assert set(re.findall(r"(?<!\S)--[a-z][a-z-]+", code)) <= {*known, "--help", "--debug"}
    for section, key in re.findall(r"(?<![\w./])(model|data|training|generation)\.(?!py\b)([a-z_]+)", code):
        assert key in Settings.model_fields[section].annotation.model_fields, f"{section}.{key}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_that_are_there(document):
    links = re.findall(r"\]\(([^)#\s]+)", prose(document))
    missing = [to for to in links if "://" not in to and not (ROOT / document).parent.joinpath(to).exists()]
    assert not missing


def test_the_architecture_has_the_tables_that_the_code_gives():
    shown = subprocess.run([sys.executable, ROOT / "benchmarks/house.py"], capture_output=True, text=True, check=True)
    rooms = shown.stdout.partition("### Numbers")[0]
    assert rooms.strip() in (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_every_promise_names_a_test_that_there_is():
    promised = re.findall(r"`([\w/]+\.py)::(\w+)`", prose("docs/reliability.md"))
    assert len(promised) > 40
    for file, name in promised:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_the_modes_that_are_explained_are_those_of_the_code():
    for document in ("README.md", "docs/modes.md"):
        table = re.findall(r"^\| (?:`\w+`)? ?\| (?:`(\w+)`)? ?\|", prose(document), re.MULTILINE)
        assert {fusion for _, fusion in MODES if fusion} <= set(table)


def test_the_changelog_and_the_citation_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == captioner.__version__
    assert f"## {captioner.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
