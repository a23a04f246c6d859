"""The Transformer's fused formulas against others in fp64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.formats.families import llama
from models.ops.elementwise import rms_norm
from models.registry import build, nature
from models.transformer import Transformer, swiglu
from tests.models.ops.elementwise.compare import compare, dtypes, rounding, shapes
from tests.registered_models import shaken, some_tokens, spec_of

OPS = torch.ops.crossover


def plain_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def plain_swiglu(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return first * torch.sigmoid(first) * second


@shapes
@dtypes
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    if shape[-1] == 1:
        return  # one channel is its own norm: the true gradient is nothing but rounding
    inputs = 3 * torch.randn(shape).to(dtype), torch.rand(shape[-1]) + 0.5
    compare(lambda x, w: rms_norm(x, w, 1e-5), plain_rms_norm, inputs, rounding(dtype, 4))


@shapes
@dtypes
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    r, x = 3 * torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    compare(swiglu, plain_swiglu, (torch.cat((r, x), -1),), rounding(dtype, 4))


def test_opcheck() -> None:
    g, weight = torch.randn(2, 9, 18, requires_grad=True), torch.rand(18, requires_grad=True)
    torch.library.opcheck(OPS.rms_norm, (g, weight, 1e-5, torch.float32))
    torch.library.opcheck(OPS.swiglu, (g,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: rms_norm(g, torch.rand(4), 1e-5), "weight must be .18."),
        (lambda g: swiglu(g[..., 1:]), r"x must be .2, 9, 2\*F., got .2, 9, 17."),
    ],
)
def test_bad_input(call: Callable[..., object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(torch.randn(2, 9, 18))


# ---- the norm of queries and keys ----------------------------------------------------------------


def normed(**changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "n_layer": 2, "n_embd": 32, "n_head": 4, "n_kv_head": 2}
    return Transformer(Transformer.Config(**sizes, qk_norm=True, **changes)).eval()


def test_normed_queries_and_keys_have_no_length() -> None:
    """Scaling the matrices that make them changes nothing, as it does without the norm."""
    model, tokens = normed(norm_eps=1e-12), torch.randint(31, (2, 9))
    before = model(tokens)[0]
    with torch.no_grad():
        for block in model.blocks:
            block.att.qkv.weight[: 6 * 8] *= 3  # queries of four heads, keys of two
    torch.testing.assert_close(model(tokens)[0], before, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        model.blocks[0].att.q_norm.weight *= 3
    assert (model(tokens)[0] - before).abs().max() > 1e-4


def test_normed_token_by_token() -> None:
    model, tokens = normed(), torch.randint(31, (2, 9))
    whole = model(tokens)[0]
    state, parts = model.init_state(2, 4), []
    for token in tokens.split(1, dim=1):
        logits, state = model(token, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    assert not model.can_step


def test_without_it_nothing_is_there() -> None:
    names = [name for name, _ in Transformer(Transformer.Config(31, 1, 32, 4)).named_parameters()]
    assert not any("q_norm" in name for name in names)
    assert nature("models.transformer.Transformer", {"qk_norm": True}).options == {"qk_norm": True}
    with pytest.raises(UserError, match=r"model\.qk_norm"):
        llama._kind(normed().config)


@torch.no_grad()
def test_a_convolution_that_sees_one_token_is_none() -> None:
    """The laws of `tests/models/test_contract.py` hold with one too: it is among their variants."""
    plain, convolved = shaken("transformer"), shaken("transformer", n_conv=3)
    missing = convolved.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == [f"blocks.{layer}.att.conv.weight" for layer in range(2)]
    for block in convolved.blocks:
        block.att.conv.weight.copy_(torch.tensor([0.0, 0.0, 1.0]).expand_as(block.att.conv.weight))
    tokens = some_tokens(2, 20)
    torch.testing.assert_close(convolved(tokens)[0], plain(tokens)[0])
    convolved.blocks[0].att.conv.weight[:, 1] = 0.5
    assert (convolved(tokens)[0] - plain(tokens)[0]).abs().max() > 1e-3
    assert plain.can_step and not convolved.can_step and not convolved.can_fix
    with pytest.raises(UserError, match=r"no layout here has model\.n_conv"):
        llama._kind(convolved.config)
    with pytest.raises(UserError, match=r"model\.n_conv=0 must be 1 or more"):
        shaken("transformer", n_conv=0)


@torch.no_grad()
def test_each_layer_has_its_own_window() -> None:
    model = shaken("transformer", n_layer=5, windows="4*2,all")
    assert [block.att.window for block in model.blocks] == [4, 4, None, 4, 4]
    _, state = model(some_tokens(1, 100), model.init_state(1))
    room = [state["blocks"][str(layer)]["k"].shape[2] for layer in range(5)]
    assert room[:2] == room[3:] == [4, 4] and room[2] >= 100
    plain = shaken("transformer", n_layer=5)
    pairs, all_pairs = 4 * 100 - 4 * 3 // 2, 100 * 101 // 2
    assert plain.flops(1, 100) - model.flops(1, 100) == 4 * (all_pairs - pairs) * 4 * 64


def test_windows_are_for_all_layers_or_for_each() -> None:
    with pytest.raises(UserError, match=r"model.window=4 is for all layers, and model.windows='8'"):
        shaken("transformer", window=4, windows="8")


@torch.no_grad()
def test_known_recipes_are_values() -> None:
    model: Any = build(spec_of("transformer", emb_norm=True, emb_std=1e-4, zero_output=True,
                               orthogonal_head=True))  # fmt: skip
    assert model.emb.weight.std() < 2e-4 and not model.blocks[1].ffn.down.weight.any()
    rows = model.head.weight.T @ model.head.weight
    torch.testing.assert_close(rows, 0.25 * (97 / 64) * torch.eye(64), rtol=1e-4, atol=1e-5)
    # Blocks that add nothing: the head reads the embedding behind two norms.
    tokens = some_tokens(1, 9)
    read = model.ln_out(model.ln_emb(model.emb(tokens)))
    torch.testing.assert_close(model(tokens)[0], model.head(read))
    _, state = model(tokens, model.init_state(1))
    stepped, _ = model(some_tokens(1, 1), state)
    torch.testing.assert_close(stepped, model(some_tokens(1, 1))[0])
    with pytest.raises(UserError, match=r"model.emb_std=0.0 must be positive"):
        shaken("transformer", emb_std=0.0)


@torch.no_grad()
def test_without_positions_one_layer_knows_no_order_of_what_came_before() -> None:
    """The laws of the contract hold too: `position=nope` is among their variants."""
    tokens = some_tokens(1, 12)
    turned = torch.cat((tokens[:, :-1].flip(1), tokens[:, -1:]), dim=1)
    unordered = {"position": "nope", "n_layer": 1}
    stack = {"layers": "attention(position=nope)", "n_layer": 1}
    for model in (shaken("transformer", **unordered), shaken("hybrid", **stack)):
        same, other = model(tokens)[0][:, -1], model(turned)[0][:, -1]
        torch.testing.assert_close(same, other, atol=1e-5, rtol=1e-5)
    rotated = shaken("transformer", n_layer=1)
    assert (rotated(tokens)[0][:, -1] - rotated(turned)[0][:, -1]).abs().max() > 1e-3
    with pytest.raises(UserError, match=r"no layout here has model\.position"):
        llama._kind(shaken("transformer", position="nope").config)
    with pytest.raises(UserError, match=r"model\.position='alibi' is not one of rope, nope"):
        shaken("transformer", position="alibi")
