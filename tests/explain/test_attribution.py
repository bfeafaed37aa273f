"""What is said about a caption: log-probabilities, saliency, words and grids, each checked another way."""

import pytest
import torch
from adopted import Adopted, token_ids
from conftest import tiny_captioner

from captioner.adopt import train_tokenizer
from captioner.explain import METHODS, AttributionError, attribute
from captioner.explain.measuring import image_grid
from captioner.explain.recording import record
from captioner.explain.words import group_words
from captioner.model import MODES, CaptionerProcessor, ImageEncoder, ImageSettings
from captioner.model.image_options import two_sides

TEXTS = ["anna sees the red circle", "otto is left of the blue square", "the star the ring"]


@pytest.fixture(scope="module")
def processor():
    """Word tokens: start 1, end 2, padding 0, words from 4 on."""
    return CaptionerProcessor(ImageSettings(32, 32), train_tokenizer(TEXTS, "word", min_frequency=1))


def photo(seed=0):
    return torch.randint(0, 255, (3, 40, 40), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("mode", MODES)
def test_log_probabilities_are_those_of_the_model(mode, processor):
    model = tiny_captioner(*mode)
    caption, context, image = "the red circle", "anna sees the star", photo()
    found = attribute(model, processor, caption, image, context)
    for hidden, measured in [(None, found.log_probability), *found.without.items()]:
        given = {"image": {"images": [image]}, "context": {"context": [context]}}
        batch = processor(**{k: v for name, part in given.items() if name != hidden for k, v in part.items()})
        labels = processor(captions=[caption])["labels"]
        with torch.no_grad():
            logits = model(**batch, labels=labels).logits
        expected = logits.log_softmax(-1)[0, :3].gather(-1, labels[0, :3, None])[:, 0]
        torch.testing.assert_close(measured, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_saliency_is_the_gradient_of_each_words_log_probability(mode, processor):
    model = tiny_captioner(*mode)
    batch = processor(images=[photo()], context=["anna sees the star"], captions=["the red circle"])
    found = attribute(model, processor, "the red circle", photo(), "anna sees the star").saliency
    memory = model.encode(**{name: batch[name] for name in model.encoder_inputs if name in batch})
    states = memory.states
    logits = model.decode(batch["decoder_input_ids"], memory).logits.log_softmax(-1)
    for word, token in enumerate(batch["labels"][0, :3]):
        gradients = torch.autograd.grad(logits[0, word, token], list(states.values()), retain_graph=True)
        row = torch.cat([(own * g).sum(-1).abs()[0] for own, g in zip(states.values(), gradients, strict=True)])
        mine = torch.cat([found[name][word] for name in states])
        torch.testing.assert_close(mine, (row / row.sum()).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_shares_heat_and_reading_account_for_every_row(method, processor):
    model = tiny_captioner("separate", "serial")
    found = attribute(model, processor, "the red circle", photo(), "anna sees the star")
    shares = found.shares(method=method)
    torch.testing.assert_close(sum(shares.values()), torch.ones(3))
    prefix = found.weights(method=method)["image"][:, : found.grid.prefix].sum(-1)
    torch.testing.assert_close(found.heat(method=method).sum((1, 2)) + prefix, shares["image"])
    torch.testing.assert_close(found.reading(method=method).sum(-1), shares["context"])
    assert found.grid == (1, 2, 2)
    assert [word.text for word in found.context] == ["anna", "sees", "the", "star"]


def test_one_layer_and_head_can_be_chosen_and_their_mean_is_the_default(processor):
    model = tiny_captioner()
    found = attribute(model, processor, "the red circle", photo(), "anna sees the star")
    assert found.attention["image"].shape == (2, 2, 3, 5)
    each = torch.stack([found.weights(layer=i, head=j)["image"] for i in range(2) for j in range(2)])
    torch.testing.assert_close(each.mean(0), found.weights()["image"])
    with pytest.raises(AttributionError, match=r"`head` must lie in 0…1 \(or count from the end\), but is 2"):
        found.weights(head=2)
    with pytest.raises(AttributionError, match="`method` must be one of attention, rollout, saliency, but is 'eyes'"):
        found.weights("eyes")


ADOPTED = ["vit-gpt2", "wide-vit-gpt2", "deit-gpt2", "vit-bert"]


@pytest.fixture(scope="module", params=ADOPTED)
def adopted(request, tmp_path_factory):
    return Adopted(request.param, tmp_path_factory.mktemp(request.param))


def test_the_weights_of_an_adopted_captioner_are_those_that_transformers_reports(adopted):
    ids = token_ids(adopted)
    adopted.theirs.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = adopted.theirs(pixel_values=adopted.pixels, decoder_input_ids=ids, output_attentions=True)
        seen = record(adopted.ours, ids, adopted.ours.encode(adopted.pixels))
    for mine, crossing in zip(seen.cross_attention, theirs.cross_attentions, strict=True):
        torch.testing.assert_close(mine["image"], crossing, atol=1e-5, rtol=1e-4)
    for mine, among in zip(seen.self_attention, theirs.decoder_attentions, strict=True):
        torch.testing.assert_close(mine, among, atol=1e-5, rtol=1e-4)


def test_an_adopted_captioner_leaves_its_prefix_tokens_out_of_the_map(adopted):
    ids = token_ids(adopted)[0]
    found = attribute(adopted.ours, adopted.processor, ids, adopted.pixels[0].abs().clamp(max=1))
    prefix = 2 if adopted.directory.name.startswith("deit") else 1
    assert found.grid == (prefix, 4, 4)
    assert found.attention["image"].shape[-1] == 16 + prefix
    balance = found.balance()
    assert (balance["prefix"] > 0).all()
    torch.testing.assert_close(balance["prefix"] + balance["patches"], torch.ones(len(found.words)))


def test_ids_of_a_search_and_their_text_give_the_same(processor):
    model = tiny_captioner()
    batch = processor(images=[photo()], context=["anna sees the star"], captions=["the red circle"])
    ids = [1, *batch["labels"][0].tolist(), 0, 0]
    pair = [attribute(model, processor, own, photo(), "anna sees the star") for own in (ids, "the red circle")]
    assert pair[0].words == pair[1].words
    assert torch.equal(pair[0].attention["image"], pair[1].attention["image"])
    assert pair[0].caption == "the red circle"


def test_a_missing_image_has_no_heat_and_a_missing_context_no_words(processor):
    model = tiny_captioner()
    found = attribute(model, processor, "the star", None, "anna sees the star")
    assert found.grid is None
    with pytest.raises(AttributionError, match="without an image"):
        found.heat()
    found = attribute(model, processor, "the star", photo(), None)
    assert found.context == []
    assert found.reading().shape == (2, 0)


def test_what_cannot_be_looked_into_is_explained(processor):
    model = tiny_captioner()
    with pytest.raises(AttributionError, match="the caption has no words"):
        attribute(model, processor, " ", photo())
    with pytest.raises(AttributionError, match="has 25 tokens, but the decoder has 24 positions"):
        attribute(model, processor, [4] * 25, photo())


def test_looking_leaves_training_mode_and_gradients_as_they_were(processor):
    model = tiny_captioner().train()
    attribute(model, processor, "the star", photo())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_sub_tokens_are_merged_into_the_words_of_the_caption():
    tokenizer = train_tokenizer(["low lower lowest"], "bpe", vocab_size=264, min_frequency=1)
    text = "lowest naïve, 東京 low's"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    words = group_words(ids, tokenizer)
    assert [word.text for word in words] == text.split()
    assert [place for word in words for place in word.tokens] == list(range(len(ids)))
    assert max(len(word.tokens) for word in words) > 1


def test_a_words_row_is_the_mean_of_its_tokens_and_its_probability_their_product():
    tokenizer = train_tokenizer(TEXTS, "bpe", vocab_size=270, min_frequency=1)
    processor = CaptionerProcessor(ImageSettings(32, 32), tokenizer)
    bert = {"model_type": "bert", "vocab_size": 270, "hidden_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}  # fmt: skip
    model = tiny_captioner(decoder={"vocab_size": 270, "max_positions": 48}, context_encoder=bert)
    found = attribute(model, processor, "blue circle", photo(), "otto")
    batch = processor(images=[photo()], context=["otto"], captions=["blue circle"])
    with torch.no_grad():
        memory = model.encode(batch["pixel_values"], None, batch["context_input_ids"], batch["context_attention_mask"])
        seen = record(model, batch["decoder_input_ids"], memory)
    first, last = found.words[0].tokens[0], found.words[0].tokens[-1] + 1
    assert last - first > 1
    rows = torch.stack([own["image"][0] for own in seen.cross_attention])[:, :, first:last]
    torch.testing.assert_close(found.attention["image"][:, :, 0], rows.mean(2))
    chosen = seen.logits.log_softmax(-1)[0].gather(-1, batch["labels"][0, :, None])[first:last].sum()
    torch.testing.assert_close(found.log_probability[0], chosen)


BACKBONES = {
    "vit_tiny_patch16_224": {"image_size": [32, 64], "embed_dim": 32, "depth": 1, "num_heads": 2},
    "vit_small_patch14_reg4_dinov2": {"image_size": 42, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "deit_tiny_distilled_patch16_224": {"image_size": 48, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "convnext_atto": {"image_size": [64, 96], "depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)},
    "resnet10t": {"image_size": [96, 64]},
    "swin_tiny_patch4_window7_224": {
        "image_size": [56, 112],
        "embed_dim": 12,
        "depths": (1, 1),
        "num_heads": (1, 1),
    },
    "pit_ti_224": {"image_size": 224},
}
NORMLESS = {"resnet10t", "pit_ti_224"}  # whose maps come as they are


@pytest.mark.parametrize("name", BACKBONES)
def test_cells_of_the_grid_lie_where_the_backbone_has_them(name):
    torch.manual_seed(0)
    image = ImageEncoder({"name": name, **BACKBONES[name]}).eval()
    pixels = torch.randn(1, 3, *two_sides(BACKBONES[name]["image_size"]))
    with torch.no_grad():
        tokens = image(pixels)
        last = image.backbone.forward_intermediates(
            pixels, indices=[-1], intermediates_only=True, output_fmt="NCHW", norm=name not in NORMLESS
        )[0]
    prefix, height, width = image_grid(image, *pixels.shape[-2:], tokens.shape[1])
    torch.testing.assert_close(tokens[0, prefix:].unflatten(0, (height, width)).permute(2, 0, 1), last[0])
