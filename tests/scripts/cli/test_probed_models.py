"""`probe.py run=`: trained and foreign weights, measured as fresh models are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conf.schema import ProbeConf
from core.files import write_manifest
from models.formats.save import save
from models.formats.weights import Weights
from probes.rows import OK, read_rows
from probes.trained import trained
from scripts.cli.cross_checks import memory_problems
from tests.official_weights import VOCAB, official_weights
from tests.registered_models import shaken, spec_of
from tests.scripts.commands import ONCE, run_script
from training.failures import oom_advice

Capture = pytest.CaptureFixture[str]
POINTS = ("lengths=[16]", "probes=[decode]", "repeats=1", "decode_steps=2", "threads=1", *ONCE)


def test_a_run_and_a_foreign_file_side_by_side(capfd: Capture, tmp_path: Path) -> None:
    weights = Weights(spec_of("rwkv4"), shaken("rwkv4").state_dict())
    checkpoint = tmp_path / "first/checkpoints/step-00000400.ckpt"
    checkpoint.parent.mkdir(parents=True)
    state = {f"model.{name}": tensor for name, tensor in weights.tensors.items()}
    identity = {"model": vars(weights.spec)}
    torch.save({"state_dict": state, "crossover": {"identity": identity}}, checkpoint)
    write_manifest(checkpoint)
    save(weights, tmp_path / "b.pth", "official")
    where = [f"runs_dir={tmp_path}", "group=g"]
    done = run_script(capfd, "probe", "-m", f"run=first,{tmp_path / 'b.pth'}", *POINTS, *where)
    assert done.status == 0, done.err
    rows = read_rows(tmp_path / "g/probes.jsonl")
    assert {row.status for row in rows} == {OK}
    assert {row.label for row in rows} == {"rwkv4 first@400", "rwkv4 b.pth"}
    assert {row.config["vocab_size"] for row in rows} == {VOCAB}


def test_what_cannot_be_measured_together_is_one_message(capfd: Capture, tmp_path: Path) -> None:
    torch.save(official_weights("rwkv4"), tmp_path / "a.pth")
    small = Weights(spec_of("rwkv4"), shaken("rwkv4").state_dict())
    save(small, tmp_path / "small.pth", "official")
    other = Weights(spec_of("rwkv4", vocab=VOCAB + 1), {})
    other = Weights(other.spec, {n: torch.zeros(t.shape) for n, t in small.tensors.items()})
    for name in ("emb.weight", "head.weight"):
        other.tensors[name] = torch.zeros(VOCAB + 1, 64)  # type: ignore[index]
    save(other, tmp_path / "other.pth", "official")
    a, b, c = (tmp_path / f"{name}.pth" for name in ("a", "small", "other"))
    short = Weights(spec_of("gpt", n_positions=16), shaken("gpt", n_positions=16).state_dict())
    save(short, tmp_path / "short.safetensors", "safetensors")
    cases = [
        ([f"run={tmp_path}/short.safetensors"], "n_positions=16 is shorter than the longest of"),
        ([f"run={a}", "model=rwkv4"], "model: the models of run= have their own sizes"),
        ([f"run={a}", "model.size=tiny"], "model.size: the models of run="),
        (["run=nothing"], "run='nothing': no such run"),
        (["-m", f"run={a},{b}"], "differ by more than 1 % in their numbers of parameters"),
        (["-m", f"run={b},{c}"], "vocabularies of different sizes"),
    ]
    for words, message in cases:
        done = run_script(capfd, "probe", *words, *POINTS, f"runs_dir={tmp_path}", "group=g")
        assert done.status == 2 and message in done.err, done.err
        assert done.err.count("\n") == 1 and not (tmp_path / "g").exists()


def test_the_size_that_must_fit_is_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Weights(spec_of("rwkv4"), shaken("rwkv4").state_dict())
    save(weights, tmp_path / "a.safetensors", "safetensors")
    monkeypatch.setattr("models.formats.load.read", None)  # its tensors are not needed for that
    assert trained(tmp_path / "a.safetensors", "a").config == weights.spec.config
    count = sum(tensor.numel() for tensor in weights.tensors.values())
    conf = ProbeConf(run=str(tmp_path / "a.safetensors"))
    monkeypatch.setattr(oom_advice, "capacity", lambda on_gpu: 4 * count)
    assert memory_problems(conf) == []
    monkeypatch.setattr(oom_advice, "capacity", lambda on_gpu: 4 * count - 1)
    (problem,) = memory_problems(conf)
    assert f"the model has {count:,} parameters" in problem
