"""Kinds of attention to a memory, pooled and resampled memories: their definitions, in every conditioning mode."""

import pytest
import torch
from conftest import VIT, tiny_batch, tiny_captioner, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoding import assert_equal_to_generate
from torch.nn import functional as F

from captioner import Captioner, Memory
from captioner.attention import MODES
from captioner.attention_kinds import KINDS, Linear, Softmax, TopK
from captioner.attribution import attribute
from captioner.grids import Grid, nearest_grid
from captioner.images import ImageSettings
from captioner.memory import SharedMemoryCache
from captioner.memory_options import ATTENTIONS
from captioner.processor import CaptionerProcessor
from captioner.recording import record
from captioner.reduction import Pool, Resampler
from captioner.vocabulary import train_tokenizer

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
every_kind = pytest.mark.parametrize("kind", [Softmax(0.5), TopK(0.5, 2, 2), Linear(0.5)], ids=KINDS)


def dense(query, keys, values, mask):
    return F.scaled_dot_product_attention(query, keys, values, mask[:, None, None], scale=0.5).transpose(1, 2)


def tensors(samples=3, heads=2, queries=4, tokens=11, width=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = [(samples, heads, queries, width), *[(samples, heads, tokens, width)] * 2]
    query, keys, values = (2 * torch.randn(shape, generator=draw) for shape in shapes)
    mask = torch.rand(samples, tokens, generator=draw) < 0.7
    mask[:, 0] |= ~mask.any(dim=1)
    return query, keys, values, mask


def attend(kind, query, keys, values, mask):
    held = kind.hold(kind.features(keys), values, mask)
    return kind.attend(kind.features(query), held, mask, dense)


def test_every_kind_of_the_options_is_built():
    assert set(KINDS) == set(ATTENTIONS)


sizes = st.integers(1, 4)


@settings(max_examples=60)
@given(
    shape=st.fixed_dictionaries(
        {"samples": sizes, "heads": sizes, "queries": sizes, "width": sizes, "tokens": st.integers(1, 20)}
    ),
    kind=st.one_of(st.just(Softmax(0.5)), st.just(Linear(0.5)), st.builds(TopK, st.just(0.5), sizes, sizes)),
    seed=st.integers(0, 1000),
)
def test_what_is_held_gives_what_whole_rows_of_weights_give(shape, kind, seed):
    *given, mask = tensors(**shape, seed=seed)
    query, keys, values = (x.double() for x in given)
    weights = kind.weights(kind.features(query), kind.features(keys), mask)
    expected = (weights @ values).transpose(1, 2)
    torch.testing.assert_close(attend(kind, query, keys, values, mask), expected, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))
    assert (weights.transpose(1, 3)[~mask] == 0).all()


@settings(max_examples=40)
@given(block_size=st.integers(1, 12), spare=st.integers(0, 3), seed=st.integers(0, 1000))
def test_blocks_that_cover_the_memory_give_softmax(block_size, spare, seed):
    *given, mask = tensors(seed=seed)
    given = [x.double() for x in given]
    blocks = -(-mask.shape[1] // block_size) + spare
    found = attend(TopK(0.5, block_size, blocks), *given, mask)
    torch.testing.assert_close(found, attend(Softmax(0.5), *given, mask), atol=1e-12, rtol=1e-12)


@settings(max_examples=40)
@given(block_size=st.integers(1, 4), blocks=st.integers(1, 4), seed=st.integers(0, 1000))
def test_a_query_attends_to_the_blocks_whose_mean_key_it_scores_highest(block_size, blocks, seed):
    query, keys, values, mask = tensors(seed=seed)
    found = attend(TopK(0.5, block_size, blocks), query, keys, values, mask)
    for b, h, q in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        own, other = keys[b, h][mask[b]].split(block_size), values[b, h][mask[b]].split(block_size)
        best = sorted(range(len(own)), key=lambda i: -float(query[b, h, q] @ own[i].mean(0)))[:blocks]
        picked, carried = (torch.cat([part[i] for i in best]) for part in (own, other))
        expected = (picked @ query[b, h, q] * 0.5).softmax(-1) @ carried
        torch.testing.assert_close(found[b, q, h], expected, atol=2e-6, rtol=1e-5)


def test_linear_attention_is_its_definition_token_by_token():
    query, keys, values, mask = tensors()
    found = attend(Linear(0.5), query, keys, values, mask)

    def feature(x):
        exponents = torch.cat([x, -x]).exp()
        return exponents / exponents.sum()

    for b, h, q in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        shares = torch.stack([feature(query[b, h, q]) @ feature(key) for key in keys[b, h][mask[b]]])
        expected = (shares[:, None] * values[b, h][mask[b]]).sum(0) / shares.sum()
        torch.testing.assert_close(found[b, q, h], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("tokens", [5, 50])
def test_linear_attention_holds_the_same_however_long_the_memory_is(tokens):
    _, keys, values, mask = tensors(tokens=tokens)
    held = Linear(0.5).hold(Linear(0.5).features(keys), values, mask)
    assert [part.shape for part in held] == [(3, 2, 8, 4), (3, 2, 8, 1)]


@every_kind
@settings(max_examples=25)
@given(places=st.lists(st.integers(0, 11), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_padding_anywhere_changes_nothing(kind, places, seed):
    query, keys, values, mask = tensors(seed=seed)
    expected = attend(kind, query, keys, values, mask)
    for place in places:
        keys, values = (torch.cat([x[:, :, :place], 9 * x[:, :, :1] + 9, x[:, :, place:]], 2) for x in (keys, values))
        mask = torch.cat([mask[:, :place], torch.zeros_like(mask[:, :1]), mask[:, place:]], 1)
    torch.testing.assert_close(attend(kind, query, keys, values, mask), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@every_kind
def test_a_row_with_nothing_to_attend_to_is_zero_with_finite_gradients(kind, dtype):
    query, keys, values, mask = tensors()
    mask[1] = False
    query, keys, values = (x.to(dtype).requires_grad_() for x in (query, keys, values))
    y = attend(kind, query, keys, values, mask)
    y.float().square().mean().backward()
    assert (y[1] == 0).all()
    assert (y[0] != 0).any()
    assert all(x.grad.isfinite().all() and (x.grad[1] == 0).all() for x in (query, keys, values))


def test_gradients_of_chosen_blocks_are_those_of_whole_rows_of_weights():
    kind, results = TopK(0.5, 2, 2), []
    for sparse in (True, False):
        *given, mask = tensors()
        query, keys, values = given = [x.requires_grad_() for x in given]
        whole = (kind.weights(query, keys, mask) @ values).transpose(1, 2)
        y = attend(kind, query, keys, values, mask) if sparse else whole
        y.square().mean().backward()
        results.append([y, *(x.grad for x in given)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


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


# What makes memories short.


@settings(max_examples=30)
@given(height=st.integers(1, 7), width=st.integers(1, 7), prefix=st.integers(0, 2), size=st.integers(2, 4))
def test_a_pooled_patch_is_the_mean_of_its_cells_and_prefix_tokens_stay(height, width, prefix, size):
    states = torch.randn(2, prefix + height * width, 3, generator=torch.Generator().manual_seed(0))
    pooled = Pool(size)(states, Grid(prefix, height, width))
    cells = states[:, prefix:].unflatten(1, (height, width))
    expected = [
        cells[:, top : top + size, left : left + size].mean(dim=(1, 2))
        for top in range(0, height, size)
        for left in range(0, width, size)
    ]
    assert torch.equal(pooled[:, :prefix], states[:, :prefix])
    torch.testing.assert_close(pooled[:, prefix:], torch.stack(expected, dim=1))


def test_stored_features_are_pooled_as_images_are():
    model = with_memory(("concatenated", None), {"image": {"pool": 2}}, image_encoder=VIT | {"image_size": 64})
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = model.encode(pixel_values=pixels).states["image"]
        stored = model.encode(pixel_values=model.encoder.image(pixels)).states["image"]
    assert seen.shape == (2, 1 + 4, 32)
    assert torch.equal(stored, seen)


def resampler():
    torch.manual_seed(0)
    made = Resampler(16, latents=5, layers=2, heads=2)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_a_resampler_reads_what_it_may_and_padding_changes_nothing():
    states = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    read = resampler()
    latents, there = read(states, mask)
    assert latents.shape == (2, 5, 16)
    assert there.all()
    padded = torch.cat([states, states + 9], dim=1), torch.cat([mask, torch.zeros_like(mask)], dim=1)
    torch.testing.assert_close(read(*padded)[0], latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read(states[1:, :3], mask[1:, :3])[0], latents[1:], atol=1e-5, rtol=1e-5)
    assert (read(states + mask[..., None] * torch.randn(16), mask)[0] - latents).abs().min(dim=0).values.max() > 1e-3


def test_a_resampler_gives_zeros_and_finite_gradients_where_nothing_is_to_be_read():
    states = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    read = resampler()
    latents, there = read(states, torch.arange(7) < torch.tensor([[4], [0]]))
    assert (latents[1] == 0).all()
    assert there.tolist() == [[True] * 5, [False] * 5]
    latents.square().mean().backward()
    assert (states.grad[1] == 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in read.parameters())


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
    for layer in recorded.crossing:
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


def test_what_latents_rest_on_is_found_by_attention_alone():
    read, states = resampler(), torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    read.layers = read.layers[:1]
    (layer,) = read.layers
    found = read.sources(states, torch.ones(1, 4, dtype=torch.bool))
    h = layer.attention_residual.norm(read.latents.weight)
    query, key = layer.attention.query(h), layer.attention.key(torch.cat([layer.state_norm(states[0]), h]))
    heads = [(query[:, part] @ key[:, part].T / 8**0.5).softmax(-1)[:, :4] for part in (slice(0, 8), slice(8, 16))]
    expected = sum(heads) / sum(heads).sum(-1, keepdim=True)
    torch.testing.assert_close(found[0], expected)


def test_squares_are_the_cells_of_a_grid():
    assert nearest_grid(1, 197, 224, 224) == Grid(1, 14, 14)
    assert nearest_grid(0, 24, 60, 90) == Grid(0, 4, 6)


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
