"""METEOR through Java, CLIPScore through a tiny CLIP, and what is said where they are missing."""

import shutil

import numpy as np
import pytest
import torch
from runs import lines, settings
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast
from typer.testing import CliRunner

from captioner.cli.main import app
from captioner.evaluation.borrowed_metrics import PROMPT, BorrowedMetricError, ClipScore, java_score
from captioner.model import open_image
from captioner.training import train

CAPTIONS = ["A small dog runs.", "two cats sleeping"]
REFERENCES = [["a little dog is running", "a dog runs on grass"], ["two cats sleep on a sofa"]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP with random weights that reads letters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    directory = tmp_path_factory.mktemp("clip")
    letters = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz ."]
    inner = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=60
    )
    text = {"vocab_size": 34, "max_position_embeddings": 60, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"image_size": 32, "patch_size": 16}
    torch.manual_seed(11)
    config = CLIPConfig(text_config=small | text, vision_config=small | vision, projection_dim=8)
    CLIPModel(config).save_pretrained(directory)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(directory)
    return str(directory)


def test_clip_scores_are_what_the_paper_defines(clip):
    images = [np.full((40, 30, 3), value, np.uint8) for value in (20, 200)]
    scores = ClipScore(clip)(images, CAPTIONS, REFERENCES)
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    for image, caption, own, (score, both) in zip(images, CAPTIONS, REFERENCES, scores, strict=True):
        texts = [PROMPT + text for text in (caption, *own)]
        inputs = processor(text=texts, images=open_image(image), return_tensors="pt", padding=True, truncation=True)
        with torch.no_grad():
            output = model(**inputs)
        said, *others = output.text_embeds
        expected = 2.5 * max((output.image_embeds[0] @ said).item(), 0)
        near = max(max((said @ other).item() for other in others), 0)
        assert score == pytest.approx(expected, abs=1e-5)
        assert both == pytest.approx(2 * expected * near / (expected + near) if expected + near else 0, abs=1e-5)
    assert any(score > 0 for score, _ in scores)


def test_validation_scores_with_clip_when_a_model_is_given(tmp_path, clip):
    best = train(settings(tmp_path, f"training.clip_model={clip}", "training.metric_for_best_model=ref_clip_score"))
    validations = [line for line in lines(tmp_path) if "cider_d" in line]
    assert all(0 <= line["clip_score"] <= 2.5 for line in validations)
    assert best["ref_clip_score"] == max(line["ref_clip_score"] for line in validations)


def test_a_page_and_ablations_have_the_scores_too_where_there_is_an_image(tmp_path, clip):
    data = ["data.source=scenes", "data.limit=4", "generation.num_beams=1", f"training.clip_model={clip}"]
    options = ["--model", "scenes-separate", "--num-workers", "0", "--report", str(tmp_path / "page.html"), "--ablate"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["evaluate", *data, *options])
    assert done.exit_code == 0, done.output
    assert "RefCLIPScore" in (tmp_path / "page.html").read_text()
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in done.output.splitlines() if "│" in line}
    assert [cell.strip() for cell in rows["image blanked"][-2:]] == ["–", "–"]
    assert 0 <= float(rows["context blanked"][-1]) <= 2.5


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_meteor_of_a_caption_that_is_a_reference_is_one():
    pytest.importorskip("pycocoevalcap")
    assert java_score("meteor", ["A dog runs on grass."], [["a cow", "a dog runs on grass"]]) == pytest.approx(1.0)


def test_a_missing_java_or_model_is_explained(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BorrowedMetricError, match="spice needs Java, but there is no `java`"):
        java_score("spice", CAPTIONS, REFERENCES)
    with pytest.raises(BorrowedMetricError, match="cannot load the CLIP model 'nowhere/clip': give a directory"):
        ClipScore("nowhere/clip")
