from dataclasses import replace

import pytest
import torch

from models.registry import build
from probes import child, measure
from probes.measure import Task
from probes.rows import ERROR, OK
from tests.probes.specs import VOCAB, rwkv4, transformer

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


def run(**changes):
    return child.run(measure.measure, (replace(TASK, **changes),), 120)


@pytest.fixture(scope="module")
def baseline() -> int:
    return child.run(measure.calibrate, ("cpu", 1), 120).facts["baseline_bytes"]


@pytest.mark.parametrize("spec", [rwkv4(), transformer()], ids=["rwkv4", "transformer"])
@pytest.mark.parametrize("probe", ["train", "prefill", "decode"])
def test_every_probe_of_every_contestant(spec, probe):
    outcome = run(spec=spec, probe=probe)
    assert (outcome.status, outcome.error) == (OK, None)
    facts = outcome.facts
    model = build(spec)
    assert len(facts["seconds"]) == 3
    assert min(facts["seconds"]) > 0
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert set(facts["backends"]) == set(model.backends())
    assert ("state_bytes" in facts) == (probe != "train")


def test_flops_are_those_of_one_entry_of_seconds():
    model = build(TASK.spec)
    forward = model.flops(2, 48)
    assert run(probe="prefill").facts["flops"] == forward
    assert run(probe="train").facts["flops"] == 3 * forward
    assert run(probe="train").facts["flops_dense"] == 3 * model.flops(2, 48, dense=True)
    one_by_one = sum(model.flops(2, 1, past=48 + step) for step in range(8))
    assert run(probe="decode").facts["flops"] == one_by_one // 8


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_cache_bytes_follow_length_and_precision(precision, width):
    """Keys and values of 2 layers, 64 channels, 2 sequences; and one 8-byte length."""
    per_token = 2 * 2 * 64 * 2 * width
    prefill = run(probe="prefill", precision=precision).facts["state_bytes"]
    assert prefill == 48 * per_token + 8
    decode = run(probe="decode", precision=precision).facts["state_bytes"]
    assert decode == (48 + 8) * per_token + 8


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_lower_precision(precision):
    outcome = run(probe="train", precision=precision)
    assert (outcome.status, outcome.error) == (OK, None)


def test_peak_of_a_model_of_known_size(baseline):
    """80 MiB of weights: once in prefill, with their gradients in training."""
    spec = transformer(n_embd=512, n_layer=6, n_head=8)
    weights = 4 * sum(p.numel() for p in build(spec).parameters())
    assert weights > 75 * MIB
    changes = {"spec": spec, "batch": 1, "length": 8, "baseline_bytes": baseline}
    prefill = run(probe="prefill", **changes).facts["peak_bytes"]
    assert prefill == pytest.approx(weights, rel=0.1)
    train = run(probe="train", **changes).facts["peak_bytes"]
    assert train == pytest.approx(2 * weights, rel=0.15)


def test_decode_peak_leaves_the_prefill_out(baseline):
    """The logits of a long prefill are far larger than everything decoding holds."""
    changes = {"batch": 1, "length": 4096, "baseline_bytes": baseline, "vocab_size": 4096}
    changes["spec"] = transformer(vocab_size=4096, n_layer=1)
    logits = 4096 * 4096 * 4
    assert run(probe="prefill", **changes).facts["peak_bytes"] > logits
    assert run(probe="decode", **changes).facts["peak_bytes"] < logits / 2


def test_another_vocabulary_is_an_error():
    outcome = run(vocab_size=VOCAB + 1)
    assert outcome.status == ERROR
    assert "vocabulary" in outcome.error


def test_decode_starts_every_repeat_at_the_same_position():
    model = build(TASK.spec)
    calls = []

    def record(_module, arguments):
        tokens, state = arguments
        calls.append((int(state["length"]), tokens.shape[1]))

    model.register_forward_pre_hook(record)
    measure._decode(model, TASK)
    steps = [(48 + step, 1) for step in range(8)]
    passes = TASK.warmup + TASK.repeats
    assert calls == [(0, 48), *steps, (0, 48), *steps * passes]


def test_state_bytes_counts_what_is_kept_alive():
    whole = torch.zeros(10, 4)
    state = {"a": {"b": whole[-1]}, "c": whole[0], "d": torch.zeros(3, dtype=torch.float16)}
    assert measure.state_bytes(state) == 10 * 4 * 4 + 3 * 2
