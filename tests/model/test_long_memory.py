"""Whole captioners keep every promise when attention is of another kind, or memory is pooled or resampled."""

import pytest
import torch
from conftest import VIT, tiny_batch, tiny_captioner, tiny_config
from searches import assert_equal_to_generate
from torch.nn import functional as F

from captioner import Captioner, Memory
from captioner.adopt.vocabulary import train_tokenizer
from captioner.explain import attribute
from captioner.explain.recording import record
from captioner.model import MODES, CaptionerProcessor, ImageSettings, SharedMemoryCache, Softmax
from captioner.model.attention_kinds import KINDS, Linear, TopK

TOPK = {"attention": "topk", "block_size": 2, "blocks": 2}
LINEAR = {"attention": "linear"}
RESAMPLER = {"resampler": {"latents": 3, "layers": 2, "heads": 4}}
ATTENDED = {  # what the issue asks for, as every modality's options
    "topk": {"image": TOPK, "context": TOPK},
    "linear": {"image": LINEAR, "context": LINEAR},
}
MEMORIES = ATTENDED | {
    "resampler": {"image": RESAMPLER, "context": RESAMPLER},
    "pool": {"image": {"pool": 2}},
    "all": {"image": RESAMPLER | {"pool": 2} | TOPK, "context": RESAMPLER | TOPK},
}
every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode[1] or mode[0])
every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


# Whole captioners: every mode with every kind of memory.


def with_memory(mode, memory, **options):
    decoder = {"tie_word_embeddings": False, "initializer_range": 0.3}
    return tiny_captioner(*mode, decoder=decoder, memory=memory, **options)


@every_mode
@every_memory
def test_grouped_captions_equal_captions_one_by_one(mode, memory):
    model = with_memory(mode, memory)
    inputs, ids = tiny_batch(3, captions=2)
    with torch.no_grad():
        seen = model.encode(**inputs)
        grouped = model.decode(ids, seen).logits
        alone = [model.decode(ids[i : i + 1], seen.select(torch.tensor([i // 2]))).logits for i in range(6)]
    torch.testing.assert_close(grouped, torch.cat(alone), atol=2e-5, rtol=1e-5)


@every_mode
@every_memory
def test_cached_steps_equal_one_pass_and_hold_one_row_per_image(mode, memory):
    model = with_memory(mode, memory)
    inputs, ids = tiny_batch(3, captions=2)
    cache = SharedMemoryCache.around()
    with torch.no_grad():
        seen = model.encode(**inputs)
        steps = [model.decode(ids[:, t : t + 1], seen, cache=cache).logits for t in range(ids.shape[1])]
        torch.testing.assert_close(torch.cat(steps, 1), model.decode(ids, seen).logits, atol=2e-5, rtol=1e-5)
    assert all(len(entry.keys) == len(entry.values) == 3 for entry in cache.cross_attention_cache.layers)


@every_mode
@every_memory
@pytest.mark.parametrize("beams", [1, 3])
def test_search_finds_what_generate_finds(mode, memory, beams):
    model = with_memory(mode, memory)
    inputs, _ = tiny_batch(4)
    assert_equal_to_generate(model, model.encode(**inputs), num_beams=beams, max_new_tokens=10)


PREFIXES = {"image": "pixel", "context": "context"}  # of a modality's names in a batch


def lacking(inputs, absent):
    """The same batch, whose second sample lacks a modality."""
    others = torch.arange(3) != 1
    if absent == "image":
        return inputs | {"image_mask": others}
    return inputs | {"context_attention_mask": inputs["context_attention_mask"] * others[:, None]}


@every_mode
@every_memory
@pytest.mark.parametrize("absent", ["image", "context"])
def test_a_sample_without_a_modality_is_like_a_batch_without_it(mode, memory, absent):
    model = with_memory(mode, memory)
    inputs, ids = tiny_batch(3)
    without = {name: value[1:2] for name, value in inputs.items() if not name.startswith(PREFIXES[absent])}
    with torch.no_grad():
        found = model(**lacking(inputs, absent), decoder_input_ids=ids).logits[1:2]
        torch.testing.assert_close(found, model(**without, decoder_input_ids=ids[1:2]).logits, atol=2e-5, rtol=1e-5)


@every_mode
@every_memory
def test_every_parameter_learns_and_a_sample_without_anything_leaves_finite_gradients(mode, memory):
    model = with_memory(mode, memory).train()
    inputs, ids = tiny_batch(3, captions=2)
    inputs = lacking(lacking(inputs, "image"), "context")
    model(**inputs, labels=ids).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if "backbone" not in name}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    still = [name for name, gradient in gradients.items() if not gradient.any()]
    assert not [name for name in still if "cross_attention" in name or "resamplers" in name]


@every_mode
@every_memory
def test_a_step_of_training_lowers_the_loss(mode, memory):
    model = with_memory(mode, memory)  # without dropout
    inputs, ids = tiny_batch(3, captions=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        loss = model(**inputs, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


@every_mode
@every_memory
def test_padding_of_a_context_never_changes_a_caption(mode, memory):
    model = with_memory(mode, memory)
    inputs, ids = tiny_batch(3)
    padded = inputs | {name: F.pad(inputs[name], (0, 5)) for name in inputs if name.startswith("context")}
    with torch.no_grad():
        found = model(**padded, decoder_input_ids=ids).logits
        torch.testing.assert_close(found, model(**inputs, decoder_input_ids=ids).logits, atol=2e-5, rtol=1e-5)


@every_memory
def test_a_saved_captioner_says_the_same(memory, tmp_path):
    model = with_memory(("separate", "serial"), memory)
    inputs, ids = tiny_batch(3)
    model.save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path)
    assert loaded.config.memory == memory
    with torch.no_grad():
        found, expected = (each(**inputs, decoder_input_ids=ids).logits for each in (loaded, model))
    assert torch.equal(found, expected)


def test_a_resampler_that_a_checkpoint_lacks_is_new_and_finite(tmp_path):
    tiny_captioner().save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path, memory={"image": RESAMPLER})
    latents = loaded.encoder.resamplers["image"].latents.weight
    assert latents.isfinite().all()
    assert 0.3 < latents.std() < 0.7
    inputs, ids = tiny_batch(3)
    assert loaded(**inputs, decoder_input_ids=ids).logits.isfinite().all()


@pytest.mark.parametrize("memory", ATTENDED.values(), ids=ATTENDED)
def test_a_checkpoint_can_be_loaded_with_another_kind_of_attention(memory, tmp_path):
    trained = tiny_captioner()
    trained.save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path, memory=memory)
    assert type(loaded.decoder.blocks[0].cross_attention.attention.kind) is KINDS[memory["image"]["attention"]]
    inputs, ids = tiny_batch(3)
    with torch.no_grad():
        found, before = (each(**inputs, decoder_input_ids=ids).logits for each in (loaded, trained))
    assert (found - before).abs().max() > 1e-3
    with pytest.raises(ValueError, match="same attention"):
        Captioner.from_pretrained(tmp_path, memory={"image": memory["image"]})


@pytest.mark.parametrize("memory", ATTENDED.values(), ids=ATTENDED)
def test_from_concatenated_to_joint_outputs_stay(memory):
    model = with_memory(("concatenated", None), memory)
    inputs, ids = tiny_batch(3)
    with torch.no_grad():
        before = model(**inputs, decoder_input_ids=ids).logits
        model.switch_conditioning("separate", "joint")
        torch.testing.assert_close(model(**inputs, decoder_input_ids=ids).logits, before, atol=2e-5, rtol=1e-5)


def test_each_modality_may_have_its_own_kind_and_any_named_modality_may_have_one():
    memory = {"image": LINEAR, "sound": TOPK | RESAMPLER}
    model = with_memory(("separate", "parallel"), memory, encoders={"sound": {"feature_size": 8}})
    inputs, ids = tiny_batch(3)
    sound = torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[9], [4], [0]])
    seen = model.encode(**inputs, sound_values=sound, sound_mask=mask)
    assert seen.states["sound"].shape == (3, 3, 32)
    assert seen.masks["sound"].tolist() == [[True] * 3, [True] * 3, [False] * 3]
    kinds = {name: type(own.kind) for name, own in model.decoder.blocks[0].cross_attention.attentions.items()}
    assert kinds == {"image": Linear, "context": Softmax, "sound": TopK}
    assert model.decode(ids, seen).logits.isfinite().all()


def test_stored_features_are_pooled_as_images_are():
    model = with_memory(("concatenated", None), {"image": {"pool": 2}}, image_encoder=VIT | {"image_size": 64})
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = model.encode(pixel_values=pixels).states["image"]
        stored = model.encode(pixel_values=model.encoder.image(pixels)).states["image"]
    assert seen.shape == (2, 1 + 4, 32)
    assert torch.equal(stored, seen)


# Attribution.


@every_mode
@every_memory
def test_recorded_rows_sum_to_one_and_recording_changes_no_logit(mode, memory):
    model = tiny_captioner(*mode, memory=memory)
    inputs, ids = tiny_batch(3, captions=2)
    with torch.no_grad():
        seen = model.encode(**inputs)
        recorded = record(model, ids, seen)
        torch.testing.assert_close(recorded.logits, model.decode(ids, seen).logits, atol=1e-5, rtol=1e-5)
    for layer in recorded.cross_attention:
        total = sum(weights.sum(-1) for weights in layer.values())
        torch.testing.assert_close(total, torch.ones_like(total))
        for name, weights in layer.items():
            masked = ~seen.masks[name].repeat_interleave(2, dim=0)[:, None, None].expand_as(weights)
            assert (weights[masked] == 0).all()


@every_memory
def test_attribution_speaks_of_patches_and_context_words_whatever_the_memory(memory):
    texts = ["anna sees the red circle", "otto is left of the star"]
    processor = CaptionerProcessor(ImageSettings(64, 64), train_tokenizer(texts, "word", min_frequency=1))
    model = with_memory(("separate", "serial"), memory, image_encoder=VIT | {"image_size": 64})
    picture = torch.randint(0, 255, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen = attribute(model, processor, "the red star", picture, texts[0])
    pooled = memory["image"].get("pool", 1)
    assert (seen.grid.height, seen.grid.width) == (4 // pooled, 4 // pooled)
    for method in ("attention", "rollout", "saliency"):
        shares = seen.shares(method=method)
        torch.testing.assert_close(sum(shares.values()), torch.ones(3))
        assert seen.heat(method=method).shape == (3, 4 // pooled, 4 // pooled)
        torch.testing.assert_close(seen.reading(method=method).sum(-1), shares["context"])


# Configurations that say no.


@pytest.mark.parametrize(
    ("memory", "mode", "message"),
    [
        ({"sound": LINEAR}, ("separate", "serial"), "is about 'sound'"),
        ({"image": "linear"}, ("separate", "serial"), "must be a dict"),
        ({"image": {"kind": "linear"}}, ("separate", "serial"), "but has kind"),
        ({"image": {"attention": "sparse"}}, ("separate", "serial"), "softmax, topk, linear, but is 'sparse'"),
        ({"image": LINEAR | {"blocks": 3}}, ("separate", "serial"), "take 'topk'"),
        ({"image": TOPK | {"blocks": 0}}, ("separate", "serial"), "from 1 on, but is 0"),
        ({"image": TOPK | {"block_size": 1.5}}, ("separate", "serial"), "but is 1.5"),
        ({"image": {"pool": True}}, ("separate", "serial"), "but is True"),
        ({"context": {"pool": 2}}, ("separate", "serial"), "take `resampler`"),
        ({"image": {"resampler": 64}}, ("separate", "serial"), "latents, layers, heads, but is 64"),
        ({"image": {"resampler": {"latents": 0}}}, ("separate", "serial"), "from 1 on, but is 0"),
        ({"image": LINEAR}, ("concatenated", None), "same attention"),
        ({"image": TOPK, "context": TOPK | {"blocks": 3}}, ("separate", "joint"), "same attention"),
    ],
)
def test_a_memory_that_cannot_be_is_refused_in_one_line(memory, mode, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny_config(*mode, memory=memory)
    assert "\n" not in str(error.value)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="must divide the memory's width 32, but is 5"):
        tiny_captioner(memory={"image": {"resampler": {"heads": 5}}})


def test_a_memory_without_states_of_a_modality_is_attended_to_as_far_as_it_goes():
    model = with_memory(("separate", "joint"), ATTENDED["topk"])
    inputs, ids = tiny_batch(2)
    seen = model.encode(**inputs)
    lone = Memory(states={"context": seen.states["context"]}, masks={"context": seen.masks["context"]})
    hidden = model.decode(ids, seen.without("image")).logits
    torch.testing.assert_close(model.decode(ids, lone).logits, hidden, atol=2e-5, rtol=1e-5)
