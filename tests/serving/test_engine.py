"""Answers of the engine: those of the model alone, whatever else it is answering."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.decoding.generate import generate
from models.decoding.settings import Sampling
from serving.engine import Engine
from serving.requests import Drawn, Failed, Finished, Read, Request, Spent
from tests.registered_models import shaken, spec_of

GREEDY = Sampling(temperature=0)
NAMES = ["rwkv4", "rwkv7", "lstm", "transformer", "gpt"]


def run(engine: Engine, *requests: Request) -> dict[int, list[int]]:
    """The tokens of every request, each of which must end well."""
    answers, ended = defaultdict(list), set()
    events = [event for request in requests for event in engine.add(request)]
    while engine.sequences:
        events += engine.step()
    for event in events:
        assert not isinstance(event, Failed), event
        if isinstance(event, Drawn):
            answers[event.id].append(event.token)
        elif isinstance(event, Finished):
            ended.add(event.id)
    assert ended == {request.id for request in requests}
    return answers


def asked(number: int, length: int = 5, most: int = 12, **other: Any) -> Request:
    tokens = torch.randint(0, 97, (length,), generator=torch.Generator().manual_seed(number))
    return Request(number, tuple(tokens.tolist()), most, **{"sampling": GREEDY, **other})


@pytest.mark.parametrize("name", ["transformer", "hull"])
def test_room_is_for_the_tokens_that_come_not_for_those_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shaken(name).eval()
    engine = Engine(model)
    assert not engine.add(asked(1, most=1 << 30))
    drawn = next(event for event in engine.step() + engine.step() if isinstance(event, Drawn))
    assert drawn.state_bytes < 1 << 28
    long = next(generate(model, torch.tensor([1, 2, 3]), 1 << 30, GREEDY))
    assert long == next(generate(model, torch.tensor([1, 2, 3]), 1, GREEDY))
    expected = run(Engine(model), asked(2, most=40))
    monkeypatch.setattr("serving.engine.RESERVED", 1)
    assert run(Engine(model), asked(2, most=40)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_that_of_the_model_alone(name: str) -> None:
    model = shaken(name).eval()
    engine = Engine(model, chunk=8)
    requests = [asked(number, length=3 + 5 * number) for number in range(5)]
    answers = run(engine, *requests)
    for request in requests:
        text = list(request.prompt)
        with torch.no_grad():
            for token in answers[request.id]:
                logits, _ = model(torch.tensor([text]))
                # The likeliest, up to the rounding of another order of sums.
                assert logits[0, -1, token] >= logits[0, -1].max() - 1e-4
                text.append(token)


@pytest.mark.parametrize("name", NAMES)
def test_company_changes_no_token(name: str) -> None:
    model = shaken(name).eval()
    kinds = {
        0: GREEDY,
        1: Sampling(seed=3),
        2: Sampling(1.5, top_k=20, seed=4),
        3: Sampling(0.9, top_p=0.8, presence_penalty=0.5, frequency_penalty=0.1, seed=5),
    }
    requests = [
        asked(n, length=1 + n, most=3 + n, sampling=kinds[n % 4], logprobs=n % 3) for n in range(23)
    ]
    together = run(Engine(model, chunk=8), *requests)
    for request in requests:
        assert run(Engine(model, chunk=8), request)[request.id] == together[request.id]
        assert len(together[request.id]) == request.most


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=7, frequency_penalty=0.3)])
def test_another_worker_finishes_an_answer_with_the_same_tokens(
    name: str, sampling: Sampling
) -> None:
    model = shaken(name).eval()
    request = asked(1, length=21, most=40, sampling=sampling)
    whole = run(Engine(model, chunk=8), request)[1]
    for done in (1, 16, 39, 40):
        rest = run(Engine(model, chunk=8), replace(request, answered=tuple(whole[:done])))[1]
        assert whole[:done] + rest == whole


def test_answers_begun_elsewhere_go_on_one_after_the_other() -> None:
    """One that is read again goes on before the next is, and before a new prompt."""
    engine = Engine(shaken("rwkv7").eval(), chunk=8)
    for number, begun in ((1, ()), (2, (3,) * 20), (3, (4,) * 20)):
        engine.add(replace(asked(number, length=20, most=30), answered=begun))
    assert engine.at_work == {2}
    drawn: list[int] = []
    read: list[int] = []
    while engine.sequences:
        at_work = engine.at_work
        events = engine.step()
        assert {event.id for event in events} <= at_work
        drawn += [event.id for event in events if isinstance(event, Drawn)]
        read += [event.id for event in events if isinstance(event, Read)]
    assert [*dict.fromkeys(read)] == [*dict.fromkeys(drawn)] == [2, 3, 1]
    assert read == sorted(read, key=[2, 3, 1].index)


def test_a_prompt_with_a_known_beginning_is_not_read_again() -> None:
    model = shaken("rwkv7").eval()
    engine = Engine(model, chunk=8)
    first = asked(1, length=20)
    alone = run(Engine(model, chunk=8), replace(first, prompt=(*first.prompt[:17], 1, 2, 3)))[1]
    run(engine, first)
    engine.add(replace(first, id=2, prompt=(*first.prompt[:17], 1, 2, 3)))
    reads, tokens = [], []
    while engine.sequences:
        for event in engine.step():
            reads += [event] if isinstance(event, Read) else []
            tokens += [event.token] if isinstance(event, Drawn) else []
    assert [(read.tokens, read.cached) for read in reads] == [(20, 16)]
    assert tokens == alone


def test_the_cache_keeps_within_its_room() -> None:
    engine = Engine(shaken("transformer").eval(), chunk=8, cache=100_000)
    run(engine, *(asked(number, length=30) for number in range(9)))
    assert 0 < engine._cache.bytes <= 100_000


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_as_the_whole_text_does(name: str, tmp_path: Path) -> None:
    model = shaken(name).eval()
    request = asked(1, length=11, most=9)
    whole = run(Engine(model), request)[1]
    part = replace(request, most=4, save=tmp_path / "a.safetensors")
    assert run(Engine(model), part)[1] == whole[:4]
    rest = Request(2, (), 5, GREEDY, begin=tmp_path / "a.safetensors")
    assert run(Engine(model), rest)[2] == whole[4:]
    # And with more text after it, as often as one likes.
    more = replace(rest, prompt=(5, 6, 7))
    read = Request(3, (*request.prompt, *whole[:4], 5, 6, 7), 5, GREEDY)
    assert run(Engine(model), more)[2] == run(Engine(model), read)[3] == run(Engine(model), more)[2]


@pytest.mark.parametrize("window", [4, 12, 13, 40])
def test_a_state_of_a_window_goes_on_too(window: int, tmp_path: Path) -> None:
    engine = Engine(shaken("transformer", window=window).eval())
    path, text = tmp_path / "a.safetensors", asked(1, length=7, most=25)
    whole = run(engine, text)[1]
    run(engine, replace(text, most=5, save=path))
    for done in (5, 10, 15, 20):  # each continues what the one before has saved
        assert (
            run(engine, Request(2, (), 5, GREEDY, begin=path, save=path))[2]
            == (whole[done : done + 5])
        )


SPOILED: dict[str, Any] = {
    "not a number": lambda leaf: torch.full_like(leaf, float("nan")),
    "infinite": lambda leaf: torch.full_like(leaf, float("inf")),
    "another type": lambda leaf: leaf.double(),
    "whole numbers": lambda leaf: leaf.long(),
    "longer": lambda leaf: torch.cat((leaf, leaf), -2 if leaf.ndim > 1 else 0),
    "shorter": lambda leaf: leaf[..., :1, :] if leaf.ndim > 1 else leaf[:-1],
    "empty": lambda leaf: leaf[..., :0, :] if leaf.ndim > 1 else leaf[:0],
    "two sequences": lambda leaf: torch.cat((leaf, leaf)),
    "flat": lambda leaf: leaf.reshape(-1)[:, None],
}
COUNTERS = {"one more": 1, "far away": 10**12, "one less": -1, "negative": -(10**6)}
SAID = ("", "null", "[]", "[" * 100_000, '{"kind":1e9999}', '{"kind":[]}', "9" * 5000)
NUMBERS = (0, -1, 7, 9, 10**12, 10**30, float("inf"), 8.0, None, [8], True, "8.0", "\u0668", "x")


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [("transformer", {}), ("transformer", {"window": 4}), ("hybrid", {}), ("rwkv7", {}),
     ("rwkv4", {}), ("lstm", {}), ("mamba2", {})],
)  # fmt: skip
def test_a_state_that_the_model_cannot_have_is_refused(
    name: str, by_hand: dict[str, Any], tmp_path: Path
) -> None:
    """Kernels believe sizes and counters: a wrong one would let them read other memory."""
    engine = Engine(shaken(name, **by_hand).eval())
    good, path = tmp_path / "good.safetensors", tmp_path / "spoiled.safetensors"
    run(engine, asked(1, length=5, most=3, save=good))
    with safe_open(good, framework="pt") as file:
        leaves = {leaf: file.get_tensor(leaf) for leaf in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["crossover"])
    attempts: dict[str, tuple[dict[str, Any], str]] = {}
    for leaf, value in leaves.items():
        rest = {other: tensor for other, tensor in leaves.items() if other != leaf}
        attempts[f"{leaf} gone"] = (rest, json.dumps(about))
        changes = SPOILED if value.is_floating_point() else {}
        changed = {way: change(value) for way, change in changes.items()}
        if not value.is_floating_point():
            changed = {way: value + more for way, more in COUNTERS.items()}
        for way, other in changed.items():
            if other.shape == value.shape and way in ("shorter", "longer", "empty"):
                continue  # of one row
            attempts[f"{leaf} {way}"] = ({**rest, leaf: other.contiguous()}, json.dumps(about))
    for said in SAID:
        attempts[f"says {said[:20]}"] = (leaves, said)
    counted = any(not leaf.is_floating_point() for leaf in leaves.values())
    for number in NUMBERS:
        if counted or number not in (7, 9, 10**12):  # nothing else in it says how many there were
            attempts[f"after {number!r}"] = (leaves, json.dumps({**about, "tokens": number}))
    assert len(run(engine, Request(2, (), 3, GREEDY, begin=good))[2]) == 3
    for what, (tensors, said) in attempts.items():
        path.unlink(missing_ok=True)
        save_file(tensors, path, metadata={"crossover": said})
        (failed, *_) = engine.add(Request(3, (), 3, GREEDY, begin=path)) or [None]
        assert isinstance(failed, Failed) and failed.status == 400, what
        assert "not a state of this model" in failed.message or (
            "not a file of a state" in failed.message
        ), (what, failed)


def test_reading_without_an_answer_saves_a_state_of_constant_size(tmp_path: Path) -> None:
    engine, sizes = Engine(shaken("rwkv7").eval()), []
    for length in (5, 500):
        path = tmp_path / f"{length}.safetensors"
        run(engine, asked(length, length=length, most=0, save=path))
        sizes.append(path.stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 32  # the number of tokens has another number of digits


def test_a_state_that_does_not_fit_on_the_disk_ends_its_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    engine, path = Engine(shaken("rwkv7").eval()), tmp_path / "a.safetensors"
    assert not engine.add(asked(1, most=2, save=path))
    with monkeypatch.context() as patch:
        patch.setattr("serving.state_files.save_file", full)
        events = [event for _ in range(4) for event in engine.step()]
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.status == 500 and "No space left on device" in failed.message
    assert not [*tmp_path.iterdir()]
    run(engine, asked(2, most=2, save=path))


def test_an_end_is_not_part_of_the_answer() -> None:
    model = shaken("rwkv4").eval()
    whole = run(Engine(model), asked(1))[1]
    engine = Engine(model)
    engine.add(asked(1, ends=frozenset({whole[3]})))
    events = []
    while engine.sequences:
        events += engine.step()
    first = whole.index(whole[3])
    assert [event.token for event in events if isinstance(event, Drawn)] == whole[:first]
    assert isinstance(end := events[-1], Finished)
    assert replace(end, spent=Spent()) == Finished(1, "stop", read=5)


def test_what_cannot_be_answered_is_said(tmp_path: Path) -> None:
    model = shaken("gpt").eval()
    engine = Engine(model)
    (failed,) = engine.add(Request(1, (), 5))
    assert isinstance(failed, Failed) and "the prompt has no token" in failed.message
    (failed,) = engine.add(asked(2, length=90, most=10_000))
    assert isinstance(failed, Failed) and "reads at most" in failed.message
    (failed,) = engine.add(Request(3, (), 5, begin=tmp_path / "none.safetensors"))
    assert isinstance(failed, Failed) and failed.message == "no state is saved as 'none'"
    other = Engine(shaken("rwkv4").eval())
    run(other, asked(4, save=tmp_path / "other.safetensors"))
    (failed,) = engine.add(Request(5, (), 5, begin=tmp_path / "other.safetensors"))
    assert isinstance(failed, Failed)
    assert failed.message == "the state 'other' belongs to other weights"
    (tmp_path / "broken.safetensors").write_bytes(b"\x08" + bytes(30))
    (failed,) = engine.add(Request(6, (), 5, begin=tmp_path / "broken.safetensors"))
    assert isinstance(failed, Failed) and "not a file of a state" in failed.message
    assert engine.sequences == 0


@pytest.mark.parametrize("name", ["hull", "hybrid layers=rwkv7,hull"])
def test_states_that_no_file_can_be_trusted_with_are_refused(name: str, tmp_path: Path) -> None:
    engine = Engine(shaken(name).eval(), chunk=8)
    run(engine, asked(1, length=20))
    for asks in ("save", "begin"):
        (failed,) = engine.add(asked(2, **{asks: tmp_path / "one.safetensors"}))
        assert isinstance(failed, Failed) and failed.status == 400
        assert "are kept in memory alone" in failed.message
    assert not [*tmp_path.iterdir()]


def test_a_model_of_source_and_target_is_asked_with_a_separator() -> None:
    """In the middle of the prompt too: what follows is the beginning of the target."""
    model = shaken("seq2seq", separator=96).eval()
    engine = Engine(model, chunk=4)
    prompts = [(5, 3, 9, 1, 7, 96), (2, 96, 4, 4)]
    answers = run(engine, *(Request(n, p, 6, sampling=GREEDY) for n, p in enumerate(prompts)))
    for number, prompt in enumerate(prompts):
        assert answers[number] == [*generate(model, torch.tensor(prompt), 6, GREEDY)]
    (failed,) = engine.add(Request(2, (1, 2, 3), 6, sampling=GREEDY))
    assert isinstance(failed, Failed) and failed.status == 400
    assert "separator that ends its source, token 96, and the prompt has none" in failed.message


def test_numbers_that_are_not_finite_end_one_request_and_not_the_others() -> None:
    model = shaken("rwkv4").eval()
    bad = 13
    with torch.no_grad():
        model.emb.weight[bad] = float("nan")
    engine = Engine(model)
    good = Request(1, (1, 2, 3), 6, GREEDY, ends=frozenset())
    engine.add(good)
    engine.add(Request(2, (1, bad), 6, GREEDY))
    events = []
    while engine.sequences:
        events += engine.step()
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.id for event in failed] == [2] and "not finite" in failed[0].message
    assert sum(isinstance(event, Drawn) and event.id == 1 for event in events) == 6


def test_a_cancelled_request_leaves_the_others_alone() -> None:
    model = shaken("rwkv7").eval()
    engine = Engine(model)
    expected = run(Engine(model), asked(2, most=20))[2]
    for number in (1, 2, 3):
        engine.add(asked(number, most=20))
    tokens = []
    for turn in range(60):
        if turn == 6:
            engine.cancel(1)
            engine.cancel(3)
        tokens += [e.token for e in engine.step() if isinstance(e, Drawn) and e.id == 2]
    assert tokens == expected and engine.sequences == 0


def test_likelihoods_are_the_models() -> None:
    model = shaken("rwkv4").eval()
    engine = Engine(model)
    engine.add(asked(1, most=1, logprobs=4))
    events = []
    while engine.sequences:
        events += engine.step()
    (drawn,) = (event for event in events if isinstance(event, Drawn))
    logits, _ = model(torch.tensor([asked(1).prompt]))
    logs = logits[0, -1].detach().log_softmax(-1)
    assert drawn.logprob == pytest.approx(float(logs.max()), abs=1e-4)
    assert [token for token, _ in drawn.likeliest] == logs.topk(4).indices.tolist()
    assert drawn.position == 5 and drawn.state_bytes == sum(
        leaf.numel() * leaf.element_size() for leaf in _leaves(model.init_state(1))
    )


def _leaves(state: dict[str, Any]) -> list[torch.Tensor]:
    return [
        leaf
        for value in state.values()
        for leaf in (_leaves(value) if isinstance(value, dict) else [value])
    ]


def test_the_digest_tells_weights_apart() -> None:
    model = shaken("rwkv4").eval()
    before = Engine(model).digest
    assert Engine(shaken("rwkv4").eval()).digest == before
    with torch.no_grad():
        model.head.weight[-1, -1] += 1e-3
    assert Engine(model).digest != before
    assert spec_of("rwkv4").name == "rwkv4"


def test_a_request_without_memory_fails_alone() -> None:
    model = shaken("rwkv4").eval()
    engine, honest = Engine(model), model.init_state
    expected = run(Engine(model), asked(1))
    assert not engine.add(asked(1))
    model.init_state = lambda *_, **__: torch.empty(1 << 60, dtype=torch.int8)
    (failed,) = engine.add(asked(2))
    model.init_state = honest
    assert isinstance(failed, Failed)
    assert (failed.id, failed.status, failed.cause) == (2, 503, "out_of_memory")
    events = [event for _ in range(20) for event in engine.step()]
    assert [event.token for event in events if isinstance(event, Drawn)] == expected[1]
    assert sum(event.spent.seconds for event in events) > 0


def test_attention_advances_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five answers, whose caches have a length each, in one pass for each token."""
    model = shaken("transformer").eval()
    requests = [asked(number, length=3 * number, most=6) for number in range(1, 6)]
    expected = {number: run(Engine(model), each)[number] for number, each in enumerate(requests, 1)}
    rows: list[int] = []
    original = type(model).step_apart

    def counted(self: Any, tokens: Any, states: Any) -> Any:
        rows.append(len(tokens))
        return original(self, tokens, states)

    monkeypatch.setattr(type(model), "step_apart", counted)
    assert run(Engine(model), *requests) == expected
    assert max(rows) >= 4 and sum(rows) == 5 * 5  # the first token of each is drawn from its prompt
