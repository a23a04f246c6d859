"""Every distinct block is one graph without a break, whatever surrounds it, and computes alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.layers import compiled
from models.layers.compiled import NONE, chosen, compile_blocks, graphs, in_use
from tests.registered_models import VARIANTS, shaken, some_tokens

LEFT = ("ntm", "seq2seq", "encdec", "pointer", "mine")
"""Those whose blocks say why they are not compiled."""
COMPILED = [name for name in VARIANTS if name not in LEFT]
PLAIN = (bool, int, float, str, type(None))


def closeness(name: str) -> float:
    """How far gradients may be off: a compiled GRU's are summed in another order."""
    return 1e-5 if "gru" in name else 0.0


def make_up(block: Any) -> tuple[Any, ...]:
    """What a graph of a block depends on: its modules, their shapes and whatever else they know."""
    return tuple(
        (
            name,
            type(module),
            tuple((key, value) for key, value in vars(module).items() if isinstance(value, PLAIN)),
            tuple((key, None if p is None else p.shape) for key, p in module._parameters.items()),
        )
        for name, module in block.named_modules()
    )


def kinds_of(model: Any) -> int:
    """Distinct blocks: RWKV's first one norms the embedding too, some layers have a window."""
    return len({make_up(block) for block in model.layers if not block.compile_problem})


@torch.no_grad()
def read_kinds_of(model: Any) -> int:
    """Those of which reading with a state is a graph too: a hard selection is a search."""
    return len({make_up(block) for block in model.layers if block.is_graph({})})


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def pair(name: str, backend: str) -> tuple[Any, Any]:
    """A model, and one with the same weights whose blocks are compiled."""
    plain = shaken(name)
    other = copy.deepcopy(plain)
    compile_blocks(other, backend)
    return plain, other


def step(model: Any, **options: Any) -> list[Tensor]:
    """The loss of 2 x 24 tokens and every gradient."""
    model.zero_grad()
    tokens = some_tokens(2, 25)
    loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:], **options)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def packed(*places: tuple[int, int]) -> Callable[[Any], list[Tensor]]:
    """A step over rows in which documents begin at these places."""

    def run(model: Any) -> list[Tensor]:
        starts = torch.zeros(2, 24, dtype=torch.bool)
        for row, place in places:
            starts[row, place] = True
        return step(model, starts=starts)

    return run


def checkpointed(model: Any) -> list[Tensor]:
    model.gradient_checkpointing = True
    try:
        return step(model)
    finally:
        model.gradient_checkpointing = False


def carried(model: Any) -> list[Tensor]:
    """A step from a state that another has left."""
    with torch.no_grad():
        state = model.hidden(some_tokens(2, 24, seed=2), model.init_state(2))[1]
    return step(model, state=state)


@torch.no_grad()
def read(model: Any) -> list[Tensor]:
    """A prompt, and tokens after it one by one, through the blocks."""
    tokens = some_tokens(2, 24)
    logits, state = model.next_logits(tokens[:, :20], model.init_state(2, 24))
    rows = [logits]
    for token in tokens[:, 20:].split(1, dim=1):
        hidden, state = model.hidden(token, state)
        rows.append(model.head(hidden))
    return rows


def check(
    plain: Any, other: Any, run: Callable[[Any], list[Tensor]], most: int, close: float = 0.0
) -> None:
    """The same bits unless something else is `close`, at most so many new graphs, and no break."""
    before = graphs()
    got, want = run(other), run(plain)
    assert graphs() - before <= most
    assert not torch._dynamo.utils.counters["graph_break"]
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close)


def check_all(name: str, backend: str) -> None:
    plain, other = pair(name, backend)
    kinds, close = kinds_of(plain), closeness(name)
    assert in_use(plain) == {"compile": NONE} and in_use(other) == {"compile": backend}
    check(plain, other, step, kinds, close)
    assert graphs() == kinds, "one graph for each kind of block"
    check(plain, other, step, 0, close)
    plain.anneal(0.5)
    other.anneal(0.5)
    check(plain, other, step, 0, close)
    check(plain, other, checkpointed, 0, close)
    # Documents have as many shapes as there are batches: one more graph serves them all.
    check(plain, other, packed((0, 5), (1, 9), (1, 20)), kinds, close)
    # A window has more: within it, across it, and a single token across it, which is no dimension.
    parts = [getattr(block, "att", None) for block in plain.layers]
    windows = sum(getattr(part, "window", None) == 16 for part in parts)
    check(plain, other, packed((0, 7), (1, 4), (1, 18), (1, 21)), windows, close)
    check(plain, other, packed((0, 3), (1, 2), (1, 19)), windows, close)
    check(plain, other, packed((0, 2), (1, 22)), 0, close)
    if plain.recurrent:
        check(plain, other, carried, 2 * kinds, close)
    check(plain, other, read, 4 * read_kinds_of(plain))
    assert in_use(other) == {"compile": backend}


def some(*quick: str) -> list[Any]:
    """All of them, of which these are tested always."""
    marks = {name: () if name in quick else pytest.mark.slow for name in COMPILED}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.mark.parametrize("name", some("rwkv4", "transformer"))
def test_one_graph_per_block_equal_to_eager(name: str) -> None:
    check_all(name, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_one_graph_per_block_differentiated_by_the_compiler(name: str) -> None:
    check_all(name, "aot_eager")


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_gradients_through_a_recurrence_kept_whole(name: str) -> None:
    """Torch's own would be unrolled into its steps."""
    plain, other = pair(name, "aot_eager")
    check(plain, other, step, 1, closeness(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rwkv7", "transformer", "lstm"])
def test_inductor(name: str) -> None:
    if chosen("inductor", on_gpu=False) == NONE:
        pytest.skip("no C compiler")
    plain, other = pair(name, "inductor")
    for got, want in zip(step(other), step(plain), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)
    assert in_use(other) == {"compile": "inductor"}


def test_half_precision_and_copies() -> None:
    plain, other = pair("transformer", "eager")
    copied = copy.deepcopy(other)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        check(plain, other, step, 1)
    assert in_use(copied) == {"compile": "eager"}
    hidden = copied.hidden(some_tokens(1, 8))[0]
    assert not hidden.any(), "a copy ran the weights of what it was copied from"


def test_what_would_be_unrolled_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    compiled._left.cache_clear()
    _, other = pair("ntm", "eager")
    _, straight = pair("hull selection=straight_through", "eager")
    assert in_use(other) == in_use(straight) == {"compile": NONE}
    assert "a NTMBlock is not compiled: a compiler would unroll its recurrence" in caplog.text
    assert "a HullBlock is not compiled: selection=straight_through searches" in caplog.text
    step(other)
    step(straight)
    assert graphs() == 0


def test_of_a_stack_of_several_kinds_it_is_said_how_many_are_compiled() -> None:
    model = shaken("hybrid layers=rwkv4,mamba2")
    model.layers[1].__class__ = type("Odd", (type(model.layers[1]),), {"compile_problem": "odd"})
    compile_blocks(model, "eager")
    assert in_use(model) == {"compile": "eager, 1 of 2 blocks"}


def test_breaks_are_named() -> None:
    model = shaken("gpt")
    compile_blocks(model, "eager")
    torch._dynamo.utils.counters["graph_break"]["why"] += 3
    assert in_use(model) == {"compile": "eager, 3 breaks"}
    assert in_use(shaken("gpt")) == in_use(torch.nn.Linear(2, 2)) == {"compile": NONE}


def test_what_auto_means(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    compiled._problem.cache_clear()
    compiled._notice.cache_clear()
    assert chosen("auto", on_gpu=False) == chosen("none", on_gpu=True) == NONE
    monkeypatch.setattr(compiled, "_problem", lambda on_gpu: None)
    assert chosen("auto", on_gpu=True) == "inductor"
    monkeypatch.setattr(compiled, "_problem", lambda on_gpu: "there is no C compiler")
    assert chosen("auto", on_gpu=True) == NONE
    assert "compile=auto: blocks are not compiled, which is slower" in caplog.text
    with pytest.raises(UserError, match="compile=inductor cannot work here: there is no C"):
        chosen("inductor", on_gpu=True)
    assert chosen("aot_eager", on_gpu=True) == "aot_eager"
