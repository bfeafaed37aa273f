"""What joins pretrained parts to a captioner: encoders, processor, modes, settings, and parts that cannot be had."""

import pytest
import torch
from conftest import BERT, VIT, stir
from language_models import BERT_SHAPE, TOKENS, captions, gated, language_model, photos, save
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    BertConfig,
    CLIPConfig,
    DistilBertConfig,
    T5Config,
)

from captioner import from_parts
from captioner.adopt import PartsError, assemble, load, train_tokenizer
from captioner.adopt.pretrained import fill
from captioner.base import DataSettings, ModelSettings
from captioner.model import MODES

CLIP_SHAPE = {key: value for key, value in BERT_SHAPE.items() if key != "vocab_size"} | {"projection_dim": 8}
CONTEXT_ENCODERS = {
    "bert": BertConfig(**BERT_SHAPE | {"hidden_size": 24}),
    "distilbert": DistilBertConfig(
        vocab_size=TOKENS, dim=24, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=16
    ),
    "t5": T5Config(vocab_size=TOKENS, d_model=24, d_kv=12, d_ff=24, num_layers=1, num_heads=2),
    "clip": CLIPConfig(
        text_config=CLIP_SHAPE | {"vocab_size": TOKENS},
        vision_config=CLIP_SHAPE | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    ),
}


@pytest.mark.parametrize("name", CONTEXT_ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_context_is_read_as_by_its_text_encoder(name, dtype, tmp_path):
    language_model(tmp_path / "decoder", "gpt2")
    save(tmp_path / "context", AutoModel.from_config(CONTEXT_ENCODERS[name]).to(dtype))
    captioner, processor = gated(tmp_path / "decoder", context_encoder=str(tmp_path / "context"))
    inputs = processor(context=["a red dog", "the big blue cat"])
    ids, mask = inputs["context_input_ids"], inputs["context_attention_mask"]
    config = AutoConfig.from_pretrained(tmp_path / "context").get_text_config()
    auto = AutoModelForTextEncoding.from_pretrained(tmp_path / "context", config=config, dtype=torch.float32)
    states = auto.eval()(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(captioner.encoder.context(ids, mask)[mask], states[mask], atol=1e-5, rtol=1e-5)
    assert {parameter.dtype for parameter in captioner.parameters()} == {torch.float32}


def test_an_image_is_seen_as_by_its_backbone(tmp_path):
    import timm
    from safetensors.torch import save_file

    options = {key: value for key, value in VIT.items() if key not in ("name", "image_size")}
    backbone = timm.create_model(VIT["name"], img_size=32, num_classes=5, **options).eval()
    save_file(backbone.state_dict(), tmp_path / "vit.safetensors")
    language_model(tmp_path / "decoder", "qwen3")
    image_encoder = VIT | {"pretrained": str(tmp_path / "vit.safetensors")}
    captioner, processor = gated(tmp_path / "decoder", image_encoder=image_encoder)
    assert torch.equal(captioner.encoder.image(photos()), backbone.forward_features(photos()))
    assert "pretrained" not in captioner.config.image_encoder
    assert processor.image_settings.height == 32


def test_the_processor_feeds_the_captioner(tmp_path):
    language_model(tmp_path / "decoder", "qwen3")
    save(tmp_path / "context", AutoModel.from_config(CONTEXT_ENCODERS["bert"]))
    captioner, processor = gated(tmp_path / "decoder", context_encoder=str(tmp_path / "context"))
    inputs = processor(images=torch.rand(3, 40, 40), context="a red dog", captions="the big blue cat")
    assert captioner(**inputs).loss.isfinite()
    assert captioner.config.decoder_start_token_id == processor.start_token_id
    assert processor.batch_decode(inputs["labels"]) == ["the big blue cat"]


@pytest.mark.parametrize(("conditioning", "fusion"), MODES)
def test_every_mode_reads_through_heads_of_any_width(conditioning, fusion, tmp_path):
    language_model(tmp_path, "llama with wide heads")
    captioner, processor = gated(tmp_path, conditioning=conditioning, fusion=fusion, context_encoder=BERT)
    for parameter in stir(captioner.decoder).parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    inputs = processor(context=["a red dog", "the blue cat", "two boats"]) | {"decoder_input_ids": captions(processor)}
    with torch.no_grad():
        seen, other = (captioner(pixel_values=pixels, **inputs).logits for pixels in (photos(), -photos()))
    assert (seen - other).abs().amax(dim=(1, 2)).min() > 1e-3


def test_the_settings_of_a_run_name_parts_too(tmp_path):
    source = language_model(tmp_path, "smollm2")
    settings = ModelSettings(image_encoder=VIT, decoder=str(tmp_path), dropout=0.25)
    captioner, processor = assemble(settings, DataSettings(max_caption_length=17), list)
    assert torch.equal(captioner.decoder.token_embedding.weight, source.model.embed_tokens.weight)
    assert (captioner.config.decoder.dropout, processor.max_caption_length) == (0.25, 17)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"decoder": "nowhere/nothing"}, "cannot load the pretrained part 'nowhere/nothing': give a local directory"),
        ({"decoder": {"hidden_size": 32}}, "a new decoder knows no words: give `tokenizer`"),
        (
            {"image_encoder": VIT | {"pretrained": "no.file"}},
            "`image_encoder.pretrained` is 'no.file', which is no file",
        ),
        ({"image_encoder": {"name": "vit_nope"}}, "timm has no model 'vit_nope'"),
        ({"image_encoder": "timm/test_vit.r160_in1k"}, "cannot load the weights of 'test_vit.r160_in1k': the Hub must"),
        ({"fusion": "mixed"}, "`fusion .*` must be one of"),
        ({"max_caption_length": 70}, "`decoder.max_positions` is 64, but `max_caption_length` needs 70"),
    ],
)
def test_parts_that_cannot_be_had_are_explained(parts, message, tmp_path):
    language_model(tmp_path, "llama")
    options = {"image_encoder": VIT, "decoder": str(tmp_path), "conditioning": "separate", "fusion": "gated"}
    with pytest.raises(PartsError, match=message):
        from_parts(**options | parts)


def test_weights_without_a_place_are_refused(tmp_path):
    language_model(tmp_path, "llama")
    captioner, _ = gated(tmp_path)
    with pytest.raises(PartsError, match=r"weights without a place in the captioner: \['decoder.nose'\]"):
        fill(captioner, {"decoder.nose": torch.zeros(1)})


def test_a_captioner_lends_its_image_encoder_to_a_new_one(tmp_path):
    lender, _ = load("scenes-separate")
    shape = lender.config.image_encoder
    tokenizer = train_tokenizer(["a red circle"], kind="word", min_frequency=1)
    decoder = {"hidden_size": 32, "num_layers": 1, "num_heads": 2}
    lender.save_pretrained(tmp_path)
    for name in ("scenes-separate", str(tmp_path)):
        captioner, _ = from_parts(shape | {"pretrained": name}, decoder=decoder, tokenizer=tokenizer)
        for key, weight in lender.encoder.image.backbone.state_dict().items():
            assert torch.equal(captioner.encoder.image.backbone.state_dict()[key], weight)
    with pytest.raises(PartsError, match="has no image encoder of this shape; set `model.image_encoder` as its"):
        from_parts(shape | {"depth": 2, "pretrained": str(tmp_path)}, decoder=decoder, tokenizer=tokenizer)
