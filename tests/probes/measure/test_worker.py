from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from conf.schema import PROBES
from models.ops import intercept
from models.registry import ModelSpec, build
from probes.measure import isolated, worker
from probes.measure.counters import energy
from probes.measure.isolated import Outcome
from probes.measure.tasks import decode, layer, timing
from probes.measure.tasks.max_batch import repeated
from probes.measure.tasks.timing import Task
from probes.rows import ERROR, OK
from tests.probes import works
from tests.probes.specs import VOCAB, rwkv4, transformer
from tests.registered_models import NAMES, spec_of

MIB = 1 << 20

TASK = Task(
    spec=transformer(),
    probe="prefill",
    batch=2,
    length=48,
    vocab_size=VOCAB,
    seed=0,
    repeats=3,
    warmup=1,
    decode_steps=8,
    precision="float32",
    device="cpu",
    threads=1,
    memory_bytes=1 << 30,
    baseline_bytes=0,
)


def built(spec: ModelSpec) -> Any:
    """The model as the module it is."""
    return build(spec)


def run(**changes: Any) -> Outcome:
    return isolated.run(worker.measure, (replace(TASK, **changes),), 120)


@pytest.fixture(scope="module")
def baseline() -> int:
    return isolated.run(worker.calibrate, ("cpu", 1, "float32"), 120).facts["baseline_bytes"]


@pytest.mark.parametrize("spec", [rwkv4(), transformer()], ids=["rwkv4", "transformer"])
@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_of_every_model(spec: ModelSpec, probe: str) -> None:
    outcome = run(spec=spec, probe=probe)
    assert (outcome.status, outcome.error) == (OK, None)
    facts = outcome.facts
    model = built(spec)
    assert len(facts["seconds"]) == 3
    assert min(facts["seconds"]) > 0
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert set(facts["backends"]) == set(model.backends())
    assert facts["peak_bytes"] > 0
    assert facts["memory"]["resident"] > facts["peak_bytes"] / 2
    assert ("state_bytes" in facts) == (probe not in timing.TRAINING)
    assert facts["energy_method"]  # which counter, or why none
    assert (facts["energy_joules"] is None) == facts["energy_method"].startswith("unavailable")


def test_decode_keeps_the_time_of_every_token() -> None:
    facts = run(probe="decode").facts
    each, means = facts["token_seconds"], facts["seconds"]
    assert len(each) == 3 * 8 and len(means) == 3
    for place, mean in enumerate(means):
        own = each[8 * place : 8 * place + 8]
        assert min(own) > 0
        assert sum(own) / 8 == pytest.approx(mean, rel=0.2, abs=2e-5)  # less the loop around them


@pytest.mark.parametrize("probe", ["train", "decode"])
def test_slow_points_are_repeated_less(probe: str) -> None:
    facts = run(probe=probe, repeat_seconds=0.0).facts
    assert len(facts["seconds"]) == 1
    assert len(facts.get("token_seconds", [])) == (8 if probe == "decode" else 0)


def test_generate_is_the_whole_text_and_stops_repeating() -> None:
    many = run(probe="generate", spec=rwkv4(), length=32).facts
    assert len(many["seconds"]) == 3
    once = run(probe="generate", spec=rwkv4(), length=32, repeat_seconds=0.0).facts
    assert len(once["seconds"]) == 1
    assert many["flops"] == built(rwkv4()).flops(2, 32)


@pytest.mark.parametrize("spec", [rwkv4(), transformer()], ids=["rwkv4", "transformer"])
def test_generate_feeds_every_token_back_and_starts_empty(spec: ModelSpec) -> None:
    model, seen = built(spec), []

    def record(
        _module: torch.nn.Module, arguments: tuple[Any, ...], output: tuple[Tensor, Any]
    ) -> None:
        seen.append((arguments[0].clone(), output[0][:, -1:].argmax(-1)))

    model.register_forward_hook(record)
    task = replace(TASK, probe="generate", spec=spec, length=20, repeats=2)
    decode.generate(model, task, energy.find("cpu"))
    warm, first, second = seen[:16], seen[16:36], seen[36:]
    assert len(second) == 20
    for text in (warm, first, second):
        for (_, likeliest), (token, _) in pairwise(text):
            assert torch.equal(token, likeliest)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    whole, _ = built(spec)(torch.cat([token for token, _ in first], dim=1))
    assert whole.shape[1] == 20


def test_the_peak_does_not_depend_on_what_was_before() -> None:
    """Where freed blocks are not returned to the system, it differs by 11 MiB here; where the heap
    cannot grow in place and its free end is kept, by 24 MiB."""
    spec = rwkv4(vocab_size=2048, n_layer=4, n_embd=128, n_ffn=512)
    task = replace(TASK, spec=spec, batch=1, length=2048, vocab_size=2048)
    later = (works.measure_later, works.measure_later_in_a_fixed_heap)
    fresh, *others = (isolated.run(work, (task,), 120) for work in (works.measure_at_once, *later))
    for outcome in (fresh, *others):
        assert outcome.status == "ok", outcome.error
    for outcome in others:
        assert abs(fresh.facts["peak_bytes"] - outcome.facts["peak_bytes"]) < 4 * MIB


def test_time_to_first_token_leaves_the_other_logits_out() -> None:
    """At 4096 tokens and 8192 entries all logits are 128 MiB."""
    changes: dict[str, Any] = {"batch": 1, "length": 4096, "vocab_size": 8192}
    changes["spec"] = transformer(vocab_size=8192, n_layer=1)
    logits = 4096 * 8192 * 4
    first, every = (run(probe=probe, **changes).facts for probe in ("ttft", "prefill"))
    # Not all of them: the peak of the first is inside of a block, whose tensors are gone by then.
    assert every["peak_bytes"] - first["peak_bytes"] > 0.85 * logits
    assert every["flops"] - first["flops"] == 2 * 64 * 8192 * 4095
    assert first["state_bytes"] - every["state_bytes"] == 2 * 64 * 4  # room for the new token


def has_operator(name: str) -> bool:
    calls = []

    def record(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        calls.append(function)
        return function(*arguments)

    with intercept.intercept(record):
        built(spec_of(name)).hidden(torch.zeros(1, 2, dtype=torch.long))
    return any(function in intercept.MIXERS for function in calls)


@pytest.mark.parametrize("name", [name for name in NAMES if not has_operator(name)])
def test_a_model_without_an_operator_is_measured_by_layers_only(name: str) -> None:
    """Its tokens are mixed by a matrix with parameters, as the LSTM's are: nothing to cut out."""
    spec = spec_of(name, vocab_size=VOCAB)
    assert run(probe="layer", spec=spec).status == OK
    outcome = run(probe="operator", spec=spec)
    assert outcome.status == ERROR and f"{name} has no operator to measure" in outcome.error


@pytest.mark.parametrize(
    "variant", [*(name for name in NAMES if has_operator(name)), "transformer window"]
)
def test_layer_and_operator_are_those_of_the_model(variant: str) -> None:
    """What the parts are given is what they see inside a training step of the whole model."""
    name = variant.split()[0]
    extra = {"window": 16} if "window" in variant else {}
    spec = spec_of(name, n_layer=3, **extra)
    model = built(spec)
    changes = {"vocab_size": spec.config["vocab_size"], "spec": spec}
    task = replace(TASK, probe="operator", **changes)
    block, stream = layer.middle(model, task)
    assert block is model.layers[1]
    mixer, operands = layer.mixing(model, task)
    seen: dict[str, Any] = {}
    block.register_forward_pre_hook(lambda _, inputs: seen.update(stream=inputs[0]))

    def record(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if function is mixer and "stream" in seen and "operands" not in seen:
            seen["operands"] = arguments
        return function(*arguments)

    with intercept.intercept(record):
        model.hidden(timing.tokens(task, task.length))
    inside = seen["stream"] if isinstance(seen["stream"], tuple) else (seen["stream"],)
    outside = stream if isinstance(stream, tuple) else (stream,)
    for mine, real in zip([*outside, *operands], [*inside, *seen["operands"]], strict=True):
        if isinstance(real, torch.Tensor):
            torch.testing.assert_close(mine, real)
    grads = [one.requires_grad for one in operands if isinstance(one, torch.Tensor)]
    assert grads.count(True) >= 3, "keys, values and queries or receptances learn"
    for probe in ("layer", "operator"):
        outcome = run(probe=probe, **changes)
        assert (outcome.status, outcome.error) == (OK, None)
    assert outcome.facts["flops"] is None
    assert run(probe="layer", **changes).facts["flops"] == 3 * block.flops(2, 48, 0, False)


def test_a_repeated_state_is_that_of_equal_sequences() -> None:
    for spec in (rwkv4(), transformer(), spec_of("rwkv7", vocab_size=VOCAB)):
        model = built(spec).eval()
        prompt = timing.tokens(replace(TASK, spec=spec), 12, batch=1)
        with torch.no_grad():
            _, single = model.next_logits(prompt, model.init_state(1, 16))
            _, real = model.next_logits(prompt.repeat(5, 1), model.init_state(5, 16))
            wide = repeated(model, single, 5)
            assert timing.state_bytes(wide) == timing.state_bytes(real)
            token = prompt[:, :1].repeat(5, 1)
            torch.testing.assert_close(
                model(token, wide)[0], model(token, real)[0], rtol=1e-4, atol=1e-5
            )


def test_flops_are_those_of_one_entry_of_seconds() -> None:
    model = built(TASK.spec)
    forward = model.flops(2, 48)
    assert run(probe="prefill").facts["flops"] == forward
    assert run(probe="train").facts["flops"] == 3 * forward
    assert run(probe="train").facts["flops_dense"] == 3 * model.flops(2, 48, dense=True)
    one_by_one = sum(model.flops(2, 1, past=48 + step) for step in range(8))
    assert run(probe="decode").facts["flops"] == one_by_one // 8


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_cache_bytes_follow_length_and_precision(precision: str, width: int) -> None:
    """Keys and values of 2 layers, 64 channels, 2 sequences; and one 8-byte length."""
    per_token = 2 * 2 * 64 * 2 * width
    prefill = run(probe="prefill", precision=precision).facts["state_bytes"]
    assert prefill == 48 * per_token + 8
    decode = run(probe="decode", precision=precision).facts["state_bytes"]
    assert decode == (48 + 8) * per_token + 8


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_lower_precision(precision: str) -> None:
    outcome = run(probe="train", precision=precision)
    assert (outcome.status, outcome.error) == (OK, None)


def test_peak_of_a_model_of_known_size(baseline: int) -> None:
    """80 MiB of weights: once in prefill, with their gradients in training."""
    spec = transformer(n_embd=512, n_layer=6, n_head=8, n_ffn=None)
    weights = 4 * sum(p.numel() for p in built(spec).parameters())
    assert weights > 75 * MIB
    changes = {"spec": spec, "batch": 1, "length": 8, "baseline_bytes": baseline}
    prefill = run(probe="prefill", **changes).facts["peak_bytes"]
    assert prefill == pytest.approx(weights, rel=0.1)
    train = run(probe="train", **changes).facts["peak_bytes"]
    assert train == pytest.approx(2 * weights, rel=0.15)


def test_decode_peak_leaves_the_prefill_out(baseline: int) -> None:
    """The logits of a long prefill are far larger than everything decoding holds."""
    changes: dict[str, Any] = {
        "batch": 1,
        "length": 4096,
        "baseline_bytes": baseline,
        "vocab_size": 4096,
    }
    changes["spec"] = transformer(vocab_size=4096, n_layer=1)
    logits = 4096 * 4096 * 4
    assert run(probe="prefill", **changes).facts["peak_bytes"] > logits
    assert run(probe="decode", **changes).facts["peak_bytes"] < logits / 2


def test_another_vocabulary_is_an_error() -> None:
    outcome = run(vocab_size=VOCAB + 1)
    assert outcome.status == ERROR
    assert "vocabulary" in outcome.error


def test_decode_starts_every_repeat_at_the_same_position() -> None:
    model = built(TASK.spec)
    calls = []

    def record(_module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        decode, state = arguments
        calls.append((int(state["length"]), decode.shape[1]))

    model.register_forward_pre_hook(record)
    decode.decode(model, TASK, energy.find("cpu"))
    steps = [(48 + step, 1) for step in range(8)]
    assert calls == steps * (1 + TASK.warmup + TASK.repeats)


def test_state_bytes_counts_what_is_kept_alive() -> None:
    whole = torch.zeros(10, 4)
    state = {"a": {"b": whole[-1]}, "c": whole[0], "d": torch.zeros(3, dtype=torch.float16)}
    assert timing.state_bytes(state) == 10 * 4 * 4 + 3 * 2
