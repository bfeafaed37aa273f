"""Pixels and context ids to `Memory`: tokens of every kind of backbone, projections, and errors that say what to do."""

import pytest
import torch
from conftest import BERT, DECODER, VIT, tiny_batch, tiny_captioner, tiny_config
from torch import nn

from captioner import Captioner
from captioner.model import ImageEncoder
from captioner.model.context_encoder import ContextEncoder
from captioner.model.encoders import Encoders
from captioner.model.image_encoder import ConvolutionalStem

TINY_VIT = {"embed_dim": 32, "depth": 1, "num_heads": 2}
TINY_SWIN = {"embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}
TINY_PIT = {"base_dims": [8, 8, 8], "depth": [1, 1, 1], "heads": [2, 2, 2]}
KINDS = {  # options, tokens, width
    "vit": (VIT, 1 + 4, 32),
    "vit with registers": ({"name": "vit_medium_patch16_reg4_gap_256", "image_size": 32, **TINY_VIT}, 4 + 4, 32),
    "vit with class token and registers": (
        {"name": "vit_small_patch14_reg4_dinov2", "image_size": 28, **TINY_VIT},
        5 + 4,
        32,
    ),
    "distilled": ({"name": "deit_tiny_distilled_patch16_224", "image_size": 32, **TINY_VIT}, 2 + 4, 32),
    "siglip": ({"name": "vit_base_patch16_siglip_224", "image_size": 32, **TINY_VIT}, 4, 32),
    "swin": ({"name": "swin_tiny_patch4_window7_224", "image_size": 32, **TINY_SWIN}, 16, 16),
    "convnext": ({"name": "convnext_atto", "image_size": 64, "depths": [1] * 4, "dims": [8, 8, 16, 16]}, 4, 16),
    "resnet": ({"name": "resnet10t", "image_size": 64, "channels": [8, 8, 16, 16]}, 4, 16),
    "pit": ({"name": "pit_ti_224", "image_size": 64, **TINY_PIT}, 4, 16),
    "distilled pit": ({"name": "pit_ti_distilled_224", "image_size": 64, **TINY_PIT}, 4, 16),
    "stem": (VIT | {"stem": "convolutional"}, 1 + 16, 32),
}


@pytest.mark.parametrize(("options", "tokens", "width"), KINDS.values(), ids=list(KINDS))
def test_every_kind_of_backbone_gives_tokens(options, tokens, width):
    encoder = ImageEncoder(options).eval()
    size = options["image_size"]
    states = encoder(torch.randn(2, 3, size, size))
    assert states.shape == (2, tokens, width)
    assert encoder.width == width


@pytest.mark.parametrize("kind", ["swin", "convnext", "resnet", "pit", "distilled pit"])
def test_cells_of_a_feature_map_come_row_by_row(kind):
    options = KINDS[kind][0]
    encoder, size = ImageEncoder(options).eval(), options["image_size"]
    picture = torch.randn(1, 3, size, size)
    last = encoder.backbone.forward_intermediates(picture, indices=[-1], norm=True, intermediates_only=True)[0]
    features = encoder(picture)[0]
    assert last.shape[1] == encoder.width
    cells = [last[0, :, y, x] for y in range(last.shape[2]) for x in range(last.shape[3])]
    torch.testing.assert_close(features, torch.stack(cells))


def test_a_vit_may_take_several_sizes():
    encoder = ImageEncoder(VIT | {"dynamic_img_size": True}).eval()
    assert encoder(torch.randn(1, 3, 32, 32)).shape == (1, 1 + 4, 32)
    assert encoder(torch.randn(1, 3, 48, 80)).shape == (1, 1 + 15, 32)


def test_options_of_the_processor_do_not_reach_the_backbone():
    options = VIT | {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    assert ImageEncoder(options).width == 32


def test_a_stem_halves_three_times_and_shows_where_things_are():
    assert ConvolutionalStem(32)(torch.randn(1, 3, 32, 48)).shape == (1, 32, 4, 6)
    encoder = ImageEncoder(VIT | {"stem": "convolutional"})
    assert isinstance(encoder.backbone.patch_embed.backbone, ConvolutionalStem)
    assert encoder.backbone.pos_embed.std() > 0.3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "pit" not in kind])
def test_backbones_have_no_parameter_that_captioning_never_uses(kind):
    options = KINDS[kind][0]
    encoder, size = ImageEncoder(options).train(), options["image_size"]
    encoder(torch.randn(2, 3, size, size)).square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


CONTEXTS = {
    "bert": (BERT, 24),
    "roberta": (BERT | {"model_type": "roberta", "max_position_embeddings": 20}, 24),
    "distilbert": (
        {"model_type": "distilbert", "vocab_size": 30, "dim": 16, "hidden_dim": 16, "n_layers": 1, "n_heads": 2},
        16,
    ),
    "t5": (
        {"model_type": "t5", "vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        16,
    ),
}
every_context = pytest.mark.parametrize(("options", "width"), CONTEXTS.values(), ids=list(CONTEXTS))


@every_context
def test_context_encoders_are_the_encoder_only_and_ignore_padding(options, width):
    config = tiny_config(context_encoder=options).context_encoder
    encoder = ContextEncoder(config).eval()
    inputs, _ = tiny_batch(samples=3)
    ids, mask = inputs["context_input_ids"], inputs["context_attention_mask"]
    mask[2] = 0
    states = encoder(ids, mask)
    assert states.shape == (3, 6, width)
    assert encoder.width == width
    assert (states[mask == 0] == 0).all()
    other = encoder(ids.masked_fill(mask == 0, 5), mask)
    torch.testing.assert_close(other, states, atol=1e-6, rtol=0)
    assert not any("decoder" in name or "pooler" in name for name, _ in encoder.named_modules())
    states[mask == 1].square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


@every_context
def test_every_context_encoder_captions(options, width):
    model = tiny_captioner("separate", "serial", context_encoder=options)
    inputs, ids = tiny_batch(samples=2, captions=2)
    assert isinstance(model.encoder.projections["context"], nn.Linear)
    assert model(**inputs, decoder_input_ids=ids, labels=ids).loss.isfinite()
    assert model.generate(**inputs, num_beams=2, max_new_tokens=4).shape[0] == 2


def test_projections_stand_where_widths_differ():
    encoders = Encoders(tiny_config())
    assert isinstance(encoders.projections["image"], nn.Identity)
    assert encoders.projections["context"].weight.shape == (32, 24)
    wider = Encoders(tiny_config(decoder={"hidden_size": 64}))
    assert wider.projections["image"].weight.shape == (64, 32)
    memory = wider(**tiny_batch()[0])
    assert {states.shape[-1] for states in memory.states.values()} == {64}


def test_masks_say_what_is_there():
    encoders = Encoders(tiny_config()).eval()
    inputs, _ = tiny_batch(samples=3)
    inputs["pixel_values"][1] = torch.nan
    memory = encoders(**inputs, image_mask=torch.tensor([1, 0, 1]))
    assert memory.masks["image"].tolist() == [[True] * 5, [False] * 5, [True] * 5]
    assert memory.masks["context"].tolist() == inputs["context_attention_mask"].bool().tolist()
    assert memory.masks["context"].dtype == torch.bool
    assert memory.states["image"].isfinite().all()
    assert memory.batch_size == 3


def test_images_that_are_not_there_cost_nothing():
    encoders, seen = Encoders(tiny_config()).eval(), []
    encoders.image.register_forward_hook(lambda module, args, result: seen.append(args[0].shape[0]))
    inputs, _ = tiny_batch(samples=4)
    for mask in ([1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]):
        encoders(**inputs, image_mask=torch.tensor(mask).bool())
    assert seen == [2, 1, 4]


def test_a_captioner_may_only_look_or_only_read():
    inputs, ids = tiny_batch(samples=2)
    looks = tiny_captioner("separate", "hierarchical", context_encoder=None)
    assert looks.config.modalities == ["image"]
    assert looks(pixel_values=inputs["pixel_values"], decoder_input_ids=ids).logits.shape == (2, 5, 20)
    reads = tiny_captioner("separate", "joint", image_encoder=None)
    del inputs["pixel_values"]
    assert reads.config.modalities == ["context"]
    assert reads(**inputs, decoder_input_ids=ids).logits.shape == (2, 5, 20)
    assert reads.generate(**inputs, num_beams=2, max_new_tokens=4).shape[0] == 2


def test_a_misspelt_input_is_refused_whether_the_encoders_run_or_not():
    model = tiny_captioner(encoders={"sound": {"feature_size": 6}})
    inputs, ids = tiny_batch(samples=2)
    seen = model.encode(**inputs)
    for wrong in ("pixel_value", "sound_value", "output_attention"):
        for given in (inputs, {"encoder_outputs": seen}):
            with pytest.raises(TypeError, match=rf"the encoders take pixel_values, .*, but not {wrong}$"):
                model(**given, decoder_input_ids=ids, **{wrong: torch.ones(2)})
    known = model(**inputs, encoder_outputs=seen, decoder_input_ids=ids, sound_values=None).logits
    assert torch.equal(known, model(encoder_outputs=seen, decoder_input_ids=ids).logits)


def test_inputs_that_a_captioner_cannot_take_are_named():
    inputs, _ = tiny_batch(samples=2)
    with pytest.raises(
        ValueError, match="nothing to caption: give at least one of `pixel_values`, `context_input_ids`"
    ):
        tiny_captioner().encode()
    with pytest.raises(ValueError, match="nothing to caption"):
        tiny_captioner().generate()
    with pytest.raises(ValueError, match=r"this captioner has no encoder for \['context'\]; it takes \['image'\]"):
        tiny_captioner(context_encoder=None).encode(**inputs)
    with pytest.raises(ValueError, match=r"this captioner has no encoder for \['image'\]; it takes \['context'\]"):
        tiny_captioner(image_encoder=None).encode(**inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "vit_tiny_patch16_22"},
            r"timm has no model 'vit_tiny_patch16_22'; similar names: \['vit_tiny_patch16_224'",
        ),
        (VIT | {"stem": "wooden"}, r"`image_encoder.stem` must be one of \['convolutional'\], but is 'wooden'"),
        (
            {"name": "vit_tiny_patch16_224", "image_size": 32, "stem": "convolutional"},
            "`image_encoder.stem` needs `image_size` and `embed_dim` beside it",
        ),
        (VIT | {"dims": 3}, r"the timm model 'vit_tiny_patch16_224' does not take one of \['depth', .*\]: .*dims"),
        (VIT | {"num_heads": 0}, "timm cannot build 'vit_tiny_patch16_224' with .*'num_heads': 0.*ZeroDivisionError"),
        ({"name": "vit_tiny_patch16_224.typo"}, "Invalid pretrained tag .* or name one of .*augreg_in21k_ft_in1k"),
    ],
)
def test_a_wrong_image_encoder_says_what_to_change(options, message):
    with pytest.raises(ValueError, match=message):
        Captioner(tiny_config(image_encoder=options))


def test_new_context_embeddings_may_be_wide():
    for std, low, high in ((0.5, 0.4, 0.6), (None, 0.0, 0.1)):
        context = BERT if std is None else BERT | {"embedding_std": std}
        model = Captioner(tiny_config(context_encoder=context))
        assert low < model.encoder.context.model.embeddings.word_embeddings.weight.std() < high
        assert 0.4 < model.decoder.token_embedding.weight.std() < 0.6
    assert DECODER["embedding_std"] == 0.5
