"""The conditioning modes against their formulas, and what a memory may and may not change."""

import copy

import pytest
import torch
from conftest import MODES_AND_NORMS, NORMS, stir

from captioner.model import MODES, DecoderConfig, Memory, SharedMemoryCache, eager_attention

WIDTH, HEADS = 16, 2
every_mode = pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
every_separate = pytest.mark.parametrize(
    ("conditioning", "fusion", "norm"), [mode for mode in MODES_AND_NORMS if mode[0] == "separate"]
)
every_norm = pytest.mark.parametrize("norm", NORMS)


def layer(conditioning, fusion, norm, backend="sdpa", order=("image", "context"), gates=0.5, **widths):
    torch.manual_seed(0)
    config = DecoderConfig(hidden_size=WIDTH, num_heads=HEADS, norm_position=norm, dropout=0.0)
    config._attn_implementation = backend
    widths = {name: widths.get(name, WIDTH) for name in order}
    mode = MODES[conditioning, fusion](config, widths, 0)
    for parameter in mode.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return stir(mode, gates).eval()


def with_backend(mode, backend):
    """A copy with the same weights on another attention backend."""
    other = copy.deepcopy(mode)
    for part in other.modules():
        if hasattr(part, "head_width"):
            part.config = copy.deepcopy(part.config)
            part.config._attn_implementation = backend
    return other


def memory(*rows, seed=1, **widths):
    """A memory of one row per (image tokens, context tokens) that may be attended to, of 3 and 4."""
    draw = torch.Generator().manual_seed(seed)
    sizes = {"image": 3, "context": 4}
    states = {
        name: torch.randn(len(rows), size, widths.get(name, WIDTH), generator=draw) for name, size in sizes.items()
    }
    counts = dict(zip(sizes, zip(*rows, strict=True), strict=True))
    masks = {name: torch.arange(size) < torch.tensor(counts[name])[:, None] for name, size in sizes.items()}
    return Memory(states=states, masks=masks)


def stream(rows, tokens=5, seed=2):
    return torch.randn(rows, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


# The formulas of DESIGN.md, one caption row at a time: x (T, D), memory {modality: (S, D_m)} of attended states only.


def heads(part):
    width = part.head_width
    return [slice(start, start + width) for start in range(0, WIDTH, width)]


def scores(part, x, states, head):
    return part.query(x)[:, head] @ part.key(states)[:, head].T / part.head_width**0.5


def attend(part, x, states):
    if not len(states):
        return torch.zeros_like(x)
    results = [scores(part, x, states, head).softmax(-1) @ part.value(states)[:, head] for head in heads(part)]
    return part.output(torch.cat(results, dim=-1))


def add(residual, x, function, norm):
    return x + function(residual.norm(x)) if norm == "pre" else residual.norm(x + function(x))


def concatenated(mode, x, memory, norm):
    states = torch.cat(list(memory.values()))
    return add(mode.residual, x, lambda h: attend(mode.attention, h, states), norm)


def serial(mode, x, memory, norm):
    for name, states in memory.items():
        x = add(mode.residuals[name], x, lambda h, n=name, s=states: attend(mode.attentions[n], h, s), norm)
    return x


def parallel(mode, x, memory, norm):
    return add(mode.residual, x, lambda h: sum(attend(mode.attentions[n], h, s) for n, s in memory.items()), norm)


def hierarchical(mode, x, memory, norm):
    def fuse(h):
        results = [attend(mode.attentions[name], h, states) for name, states in memory.items() if len(states)]
        if not results:
            return torch.zeros_like(h)
        positions = zip(h, torch.stack(results, dim=1), strict=True)  # (D,) and (M, D) of each token
        return torch.stack([attend(mode.over_modalities, token[None], seen)[0] for token, seen in positions])

    return add(mode.residual, x, fuse, norm)


def gated(mode, x, memory, norm):
    for name, states in memory.items():
        gate = torch.tanh(mode.gates[name].opening)
        x = x + gate * attend(mode.attentions[name], mode.residuals[name].norm(x), states)
    return x


def joint(mode, x, memory, norm):
    def fuse(h):
        parts = mode.attentions
        if not sum(map(len, memory.values())):
            return torch.zeros_like(h)
        y = torch.stack([part.output.bias for part in parts.values()]).mean(dim=0)
        for head in heads(parts["image"]):
            weights = torch.cat([scores(parts[n], h, s, head) for n, s in memory.items()], dim=-1).softmax(-1)
            for own, (n, s) in zip(weights.split([len(s) for s in memory.values()], -1), memory.items(), strict=True):
                y = y + own @ parts[n].value(s)[:, head] @ parts[n].output.weight[:, head].T
        return y

    return add(mode.residual, x, fuse, norm)


FORMULAS = {
    None: concatenated,
    "serial": serial,
    "parallel": parallel,
    "hierarchical": hierarchical,
    "gated": gated,
    "joint": joint,
}
ROWS = [(3, 4), (2, 1), (0, 3), (3, 0), (0, 0)]


def by_formula(fusion, mode, x, memory, norm, order=("image", "context")):
    copies = len(x) // memory.batch_size
    seen = [{n: memory.states[n][i][memory.masks[n][i]] for n in order} for i in range(memory.batch_size)]
    return torch.stack([FORMULAS[fusion](mode, row, seen[i // copies], norm) for i, row in enumerate(x)])


@every_mode
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_mode_is_its_formula(conditioning, fusion, norm, backend):
    widths = {"context": 12} if conditioning == "separate" else {}
    mode, seen, x = layer(conditioning, fusion, norm, backend, **widths), memory(*ROWS, **widths), stream(10)
    torch.testing.assert_close(mode(x, seen), by_formula(fusion, mode, x, seen, norm), atol=1e-5, rtol=0)


@every_mode
def test_backends_agree_on_outputs_and_gradients(conditioning, fusion, norm):
    results = []
    for backend in ("eager", "sdpa"):
        mode, x = layer(conditioning, fusion, norm, backend), stream(10).requires_grad_()
        y = mode(x, memory(*ROWS))
        y.square().mean().backward()
        results.append((y.detach(), x.grad, *(parameter.grad for parameter in mode.parameters())))
    for eager, sdpa in zip(*results, strict=True):
        torch.testing.assert_close(eager, sdpa, atol=1e-5, rtol=1e-5)


@every_mode
@pytest.mark.usefixtures("uncompiled_flex")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_agrees_with_sdpa(conditioning, fusion, norm):
    mode, seen, x = layer(conditioning, fusion, norm), memory(*ROWS), stream(10)
    with torch.no_grad():
        torch.testing.assert_close(with_backend(mode, "flex_attention")(x, seen), mode(x, seen), atol=1e-5, rtol=0)


@every_mode
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_nothing_to_attend_to_adds_exactly_zero_with_finite_gradients(conditioning, fusion, norm, backend, dtype):
    mode = layer(conditioning, fusion, norm, backend).to(dtype).train()
    seen = memory((0, 0), (3, 4))
    seen = Memory(
        states={name: states.to(dtype).requires_grad_() for name, states in seen.states.items()}, masks=seen.masks
    )
    x = stream(4).to(dtype).requires_grad_()
    y = mode(x, seen)
    y.float().square().mean().backward()
    expected = x
    if norm == "post" and fusion != "gated":
        residuals = mode.residuals.values() if fusion == "serial" else [mode.residual]
        for residual in residuals:
            expected = residual.norm(expected)
    assert torch.equal(y[:2], expected[:2])
    assert not torch.equal(y[2:], expected[2:])
    gradients = [x.grad, *(s.grad for s in seen.states.values()), *(p.grad for p in mode.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all((states.grad[0] == 0).all() for states in seen.states.values())


@every_mode
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_batch_with_nothing_at_all_is_like_no_memory_in_pre_norm(conditioning, fusion, norm, backend):
    mode, x = layer(conditioning, fusion, norm, backend), stream(2)
    y = mode(x, memory((0, 0), (0, 0)))
    assert y.isfinite().all()
    if norm == "pre" or fusion == "gated":
        assert torch.equal(y, x)


@every_mode
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_states_that_may_not_be_attended_to_change_nothing(conditioning, fusion, norm, backend):
    mode, seen, x = layer(conditioning, fusion, norm, backend), memory(*ROWS), stream(5)
    other = memory(*ROWS, seed=9)
    filled = {n: torch.where(seen.masks[n][..., None], seen.states[n], 100 * other.states[n]) for n in seen.states}
    assert torch.equal(mode(x, Memory(states=filled, masks=seen.masks)), mode(x, seen))


@every_mode
@pytest.mark.parametrize("absent", ["image", "context"])
def test_a_row_without_a_modality_is_like_a_batch_without_it(conditioning, fusion, norm, absent):
    mode, x = layer(conditioning, fusion, norm), stream(4)
    seen = memory((3, 4), (2, 1)).without(absent)
    kept = next(name for name in seen.states if name != absent)
    missing = Memory(states={kept: seen.states[kept]}, masks={kept: seen.masks[kept]})
    torch.testing.assert_close(mode(x, seen), mode(x, missing), atol=1e-5, rtol=0)


@every_mode
def test_every_modality_is_attended_to(conditioning, fusion, norm):
    mode, seen, x = layer(conditioning, fusion, norm), memory((3, 4), (2, 1)), stream(4)
    for name in ("image", "context"):
        assert (mode(x, seen) - mode(x, seen.without(name))).abs().amax(dim=(1, 2)).min() > 1e-3


@every_mode
def test_a_row_is_blind_to_the_rows_beside_it(conditioning, fusion, norm):
    mode, seen, x = layer(conditioning, fusion, norm), memory(*ROWS), stream(10)
    together = mode(x, seen)
    for i in range(len(ROWS)):
        alone = mode(x[2 * i : 2 * i + 2], seen.select(torch.tensor([i])))
        torch.testing.assert_close(together[2 * i : 2 * i + 2], alone, atol=1e-5, rtol=0)


@every_mode
def test_the_memory_is_projected_once_and_cached_with_one_row_per_image(conditioning, fusion, norm):
    mode, seen, x = layer(conditioning, fusion, norm), memory((3, 4), (2, 1)), stream(6)
    cache, calls = SharedMemoryCache.around(), []
    for part in mode.modules():
        if hasattr(part, "entry") and hasattr(part, "key") and part.entry >= 0:
            part.key.register_forward_hook(lambda module, args, result: calls.append(args[0].shape[0]))
    whole = mode(x, seen)
    calls.clear()
    steps = [mode(x[:, t : t + 1], seen, cache) for t in range(x.shape[1])]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=0)
    assert calls == [2] * (1 if conditioning == "concatenated" else 2)
    assert all(entry.keys.shape[0] == 2 for entry in cache.cross_attention_cache.layers)


class Turned(torch.nn.Module):
    """Stands around a linear map, as an adapter does, and turns its results."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.weight, self.bias = linear, linear.weight, linear.bias

    def forward(self, x):
        return self.linear(x).roll(1, dims=-1)


@every_mode
@pytest.mark.parametrize("projection", ["query", "key", "value", "output"])
def test_what_stands_around_a_projection_is_heard(conditioning, fusion, norm, projection):
    mode, seen, x = layer(conditioning, fusion, norm), memory((3, 4), (2, 3)), stream(4)
    before = mode(x, seen)
    attentions = [mode.attention] if conditioning == "concatenated" else mode.attentions.values()
    for attention in attentions:
        setattr(attention, projection, Turned(getattr(attention, projection)))
        after = mode(x, seen)
        assert (after - before).abs().amax(dim=(1, 2)).min() > 1e-3
        before = after


@every_norm
def test_joint_with_tied_projections_is_concatenated(norm):
    flat, joint = layer("concatenated", None, norm), layer("separate", "joint", norm)
    for attention in joint.attentions.values():
        attention.load_state_dict(flat.attention.state_dict())
    joint.residual.load_state_dict(flat.residual.state_dict())
    seen, x = memory(*ROWS), stream(10)
    torch.testing.assert_close(joint(x, seen), flat(x, seen), atol=1e-5, rtol=0)
    joint.attentions["context"].key.weight.data.mul_(-1)
    assert (joint(x, seen) - flat(x, seen)).abs().max() > 1e-3


@every_norm
def test_new_gates_are_closed_and_change_nothing(norm):
    mode, x = layer("separate", "gated", norm, gates=0.0), stream(2)
    fresh = MODES["separate", "gated"](next(iter(mode.attentions.values())).config, {"image": WIDTH}, 0)
    assert fresh.gates["image"].opening.item() == 0
    assert torch.equal(mode(x, memory((3, 4), (2, 1))), x)


@every_norm
def test_hierarchical_leaves_an_absent_modality_out_of_the_second_attention(norm):
    mode, seen, x = layer("separate", "hierarchical", norm), memory((3, 4), (2, 0)), stream(2)
    before = mode(x, seen)
    mode.attentions["context"].output.bias.data.add_(5.0)
    after = mode(x, seen)
    assert torch.equal(after[1], before[1])
    assert (after[0] - before[0]).abs().max() > 1e-3


@every_separate
def test_order_matters_to_modes_in_series_only(conditioning, fusion, norm):
    mode, reverse = (
        layer(conditioning, fusion, norm, order=order) for order in (["image", "context"], ["context", "image"])
    )
    reverse.load_state_dict(mode.state_dict())
    seen, x = memory((3, 4), (2, 1)), stream(2)
    difference = (mode(x, seen) - reverse(x, seen)).abs().max()
    assert difference > 1e-3 if fusion in ("serial", "gated") else difference < 1e-5
    expected = by_formula(fusion, reverse, x, seen, norm, order=("context", "image"))
    torch.testing.assert_close(reverse(x, seen), expected, atol=1e-5, rtol=0)


def test_concatenated_asks_for_one_width():
    with pytest.raises(ValueError, match=r"concatenated memory needs one width, .*'context': 12"):
        layer("concatenated", None, "pre", context=12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_eager_weights_are_exactly_zero_where_masked_and_sum_to_one_elsewhere(dtype):
    query, key, value = torch.randn(3, 2, HEADS, 4, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    mask = torch.tensor([[True, False, True, False], [False] * 4])[:, None, None, :]
    result, weights = eager_attention(torch.nn.Identity(), query, key, value, mask)
    assert (weights.masked_select(~mask) == 0).all()
    assert (result[1] == 0).all()
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(HEADS, 4, dtype=dtype), atol=1e-2, rtol=0)
