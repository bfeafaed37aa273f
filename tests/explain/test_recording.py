"""Recorded attention: rows that sum to 1, masked tokens without any, shares and rollout checked another way."""

import pytest
import torch
from conftest import MODES_AND_NORMS, tiny_batch, tiny_captioner

from captioner.explain.recording import record, rollout
from captioner.model import MODES, modes

BACKENDS = ("eager", "sdpa", "flex_attention")


def total(weights):
    return sum(own.sum(dim=-1) for own in weights.values())


def recorded(*mode, samples=3, captions=2, **options):
    model = tiny_captioner(*mode, **options)
    inputs, ids = tiny_batch(samples, captions)
    with torch.no_grad():
        memory = model.encode(**inputs)
        return model, memory, ids, record(model, ids, memory)


@pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
def test_rows_sum_to_one_and_masked_tokens_receive_nothing(conditioning, fusion, norm):
    _, memory, _, seen = recorded(conditioning, fusion, norm_position=norm)
    for layer in [*seen.cross_attention, {name: own[:, None] for name, own in rollout(seen).items()}]:
        torch.testing.assert_close(total(layer), torch.ones_like(total(layer)))
        for name, weights in layer.items():
            masked = ~memory.masks[name].repeat_interleave(2, dim=0)[:, None, None, :].expand_as(weights)
            assert (weights[masked] == 0).all()
            assert (weights[~masked] > 0).all()
    for among in seen.self_attention:
        torch.testing.assert_close(among.sum(-1), torch.ones(among.shape[:-1]))
        assert (among.triu(1) == 0).all()


@pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
def test_watching_changes_no_logit_and_leaves_nothing_behind(conditioning, fusion, norm):
    model, memory, ids, seen = recorded(conditioning, fusion, norm_position=norm)
    with torch.no_grad():
        torch.testing.assert_close(seen.logits, model.decode(ids, memory).logits, atol=1e-5, rtol=1e-5)
    assert not any("attend" in vars(module) or module._forward_hooks for module in model.decoder.modules())


@pytest.mark.usefixtures("uncompiled_flex")
@pytest.mark.parametrize("backend", BACKENDS)
def test_rotary_positions_and_grouped_heads_are_recorded_too(backend):
    model = tiny_captioner(decoder={"positions": "rotary", "num_key_value_heads": 1, "query_key_norm": True})
    model.set_attn_implementation(backend)
    inputs, ids = tiny_batch(3, 2)
    with torch.no_grad():
        memory = model.encode(**inputs)
        seen = record(model, ids, memory)
        torch.testing.assert_close(seen.logits, model.decode(ids, memory).logits, atol=1e-5, rtol=1e-5)
    assert seen.self_attention[0].shape == (6, 2, 5, 5)


@pytest.mark.usefixtures("uncompiled_flex")
@pytest.mark.parametrize("mode", MODES)
def test_every_backend_gives_the_same_weights(mode):
    model, memory, ids, _ = recorded(*mode)
    found = []
    for backend in BACKENDS:
        model.set_attn_implementation(backend)
        with torch.no_grad():
            found.append(record(model, ids, memory))
    for other in found[1:]:
        for one, another in zip(found[0].cross_attention, other.cross_attention, strict=True):
            for name in one:
                torch.testing.assert_close(one[name], another[name])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gone", ["image", "context"])
def test_the_share_of_an_absent_modality_is_zero(mode, gone):
    model, memory, ids, _ = recorded(*mode)
    with torch.no_grad():
        seen = record(model, ids, memory.without(gone))
    for layer in seen.cross_attention:
        assert (layer[gone] == 0).all()
        torch.testing.assert_close(total(layer), torch.ones_like(total(layer)))


@pytest.mark.parametrize("mode", MODES)
def test_with_nothing_to_attend_to_rows_are_zero(mode):
    model, memory, ids, _ = recorded(*mode)
    with torch.no_grad():
        seen = record(model, ids, memory.without("image").without("context"))
    for rows in [*map(total, seen.cross_attention), total(rollout(seen))]:
        assert (rows == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_captioner_that_only_looks_gives_all_to_the_image(mode):
    model = tiny_captioner(*mode, context_encoder=None)
    inputs, ids = tiny_batch(2)
    with torch.no_grad():
        seen = record(model, ids, model.encode(inputs["pixel_values"]))
    for layer in seen.cross_attention:
        assert list(layer) == ["image"]
        torch.testing.assert_close(total(layer), torch.ones_like(total(layer)))


@pytest.mark.parametrize(("fusion", "ungated"), [("parallel", ()), ("serial", ()), ("gated", ()), ("gated", ["image"])])
def test_the_share_is_the_norm_of_what_a_modality_adds_to_the_stream(fusion, ungated):
    """In pre-norm blocks, hiding the other modality leaves x plus this one's contribution."""
    decoder = {"ungated_modalities": list(ungated)}
    model, memory, ids, seen = recorded("separate", fusion, captions=1, decoder=decoder)
    mode, streams = model.decoder.blocks[0].cross_attention, []
    hook = mode.register_forward_pre_hook(lambda module, inputs: streams.append(inputs[0]))
    with torch.no_grad():
        model.decode(ids, memory)
        hook.remove()
        x = streams[0]
        looked = mode(x, memory.without("context")) - x
        read = mode(x if fusion == "parallel" else x + looked, memory.without("image"))
        read = read - (x if fusion == "parallel" else x + looked)
    share = looked.norm(dim=-1) / (looked.norm(dim=-1) + read.norm(dim=-1))
    measured = seen.cross_attention[0]["image"].sum(-1)  # (N, H, T), the same in every head
    torch.testing.assert_close(measured, share[:, None].expand_as(measured), atol=1e-5, rtol=1e-5)


def test_hierarchical_contributions_add_up_to_what_the_second_attention_adds(monkeypatch):
    model, calls, scale = tiny_captioner("separate", "hierarchical"), [], modes.by_norm
    monkeypatch.setattr(modes, "by_norm", lambda *given: calls.append(given) or scale(*given))
    inputs, ids = tiny_batch(3, 2)
    with torch.no_grad():
        record(model, ids, model.encode(**inputs))
    for block, (seen, _, added) in zip(model.decoder.blocks, calls, strict=True):
        second = block.cross_attention.over_modalities
        whole = sum(added.values()) + second.output.bias
        torch.testing.assert_close(whole, seen.outputs[second].reshape(whole.shape))
    assert len(calls) == 2


def test_joint_with_tied_projections_attends_as_concatenated_does():
    one, other = tiny_captioner(), tiny_captioner("separate", "joint")
    other.load_state_dict(one.state_dict(), strict=False)
    for mine, own in zip(other.decoder.blocks, one.decoder.blocks, strict=True):
        for attention in mine.cross_attention.attentions.values():
            attention.load_state_dict(own.cross_attention.attention.state_dict())
        mine.cross_attention.residual.load_state_dict(own.cross_attention.residual.state_dict())
    inputs, ids = tiny_batch()
    with torch.no_grad():
        pair = [record(model, ids, model.encode(**inputs)) for model in (one, other)]
    for mine, own in zip(*(seen.cross_attention for seen in pair), strict=True):
        for name in own:
            torch.testing.assert_close(mine[name], own[name])


@pytest.mark.parametrize("mode", MODES)
def test_rollout_is_the_product_of_the_layers_matrices(mode):
    """Over caption and memory tokens as one graph, memory tokens keeping to themselves."""
    _, _, ids, seen = recorded(*mode, captions=1)
    tokens = ids.shape[1]
    flow = None
    for among, crossing in zip(seen.self_attention, seen.cross_attention, strict=True):
        memory = torch.cat(list(crossing.values()), dim=-1).mean(dim=1)
        size = tokens + memory.shape[-1]
        inward, outward = torch.eye(size).repeat(2, len(ids), 1, 1)
        inward[:, :tokens, :tokens] = (among.mean(dim=1) + torch.eye(tokens)) / 2
        outward[:, :tokens, :tokens] = torch.eye(tokens) / 2
        outward[:, :tokens, tokens:] = memory / 2
        step = outward @ inward
        flow = step if flow is None else step @ flow
    expected = flow[:, :tokens, tokens:]
    found = torch.cat(list(rollout(seen).values()), dim=-1)
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True), atol=1e-5, rtol=1e-5)
