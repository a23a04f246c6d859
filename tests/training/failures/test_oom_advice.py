"""A model that cannot fit is refused with the figures, before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.meta import sketch
from scripts.cli.check import problems_of
from tests.registered_models import spec_of
from tests.training.runs import run_conf
from training.failures import oom_advice

GIB = 1 << 30


def test_the_figures_are_those_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = run_conf(tmp_path, tmp_path, data__batch_size=2, data__length=32)
    spec = spec_of("rwkv4", n_layer=3, n_embd=96)
    count = sketch(spec).parameters
    least = 16 * count + 2 * 32 * 3 * 96 * 4 + oom_advice.PROCESS
    monkeypatch.setattr(oom_advice, "capacity", lambda on_gpu: least)
    assert oom_advice.too_large(conf, spec, False) is None
    monkeypatch.setattr(oom_advice, "capacity", lambda on_gpu: least - 1)
    assert "lower data.batch_size or data.length" in (oom_advice.too_large(conf, spec, False) or "")
    monkeypatch.setattr(oom_advice, "capacity", lambda on_gpu: 16 * count - 1)
    text = oom_advice.too_large(conf, spec, True) or ""
    assert text.startswith(f"the model has {count:,} parameters: ")
    assert text.endswith("choose a smaller model.size, model.n_layer or model.n_embd")


def test_processes_share_what_their_strategy_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("rwkv4", n_layer=1, n_embd=4096)  # whose weights are nearly all
    least = {}
    for strategy in ("ddp", "deepspeed_1", "deepspeed_2", "fsdp"):
        conf = run_conf(
            tmp_path, tmp_path, trainer__devices=4, trainer__strategy=strategy, data__batch_size=4
        )
        low, high = 0, 1 << 40
        while high - low > 1:
            middle = (low + high) // 2
            monkeypatch.setattr(oom_advice, "capacity", lambda on_gpu, room=middle: room)
            low, high = (middle, high) if oom_advice.too_large(conf, spec, True) else (low, middle)
        least[strategy] = high / sketch(spec).parameters
    assert least == pytest.approx(
        {"ddp": 16, "deepspeed_1": 10, "deepspeed_2": 7, "fsdp": 4}, rel=0.01
    )


@pytest.mark.parametrize(
    ("script", "words", "way"),
    [
        ("train", ["model=rwkv7", "model.size=14b"], "choose a smaller model.size"),
        ("train", ["data.batch_size=1048576", "data.length=1048576"], "lower data.batch_size"),
        ("train", ["trainer.devices=64", "data.batch_size=64"], "lower trainer.devices"),
        ("probe", ["model=transformer", "model.size=14b"], "choose a smaller model.size"),
    ],
)
def test_what_cannot_fit_is_refused(
    script: str, words: list[str], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oom_advice, "capacity", lambda on_gpu: 8 * GIB)
    monkeypatch.setattr("scripts.cli.shared_checks.number_of_gpus", lambda: 0)
    (problem,) = problems_of(script, words)
    assert problem.startswith("the model has ") and "this machine has 8.00 GiB" in problem
    assert way in problem
    assert problems_of(script, ["hydra/launcher=submitit_slurm", *words]) == []


def test_a_limit_on_the_group_of_processes_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Path("/proc/self/cgroup")
    if not group.is_file():
        pytest.skip("Linux only")
    monkeypatch.setattr(oom_advice, "CGROUPS", tmp_path)
    monkeypatch.setattr(Path, "read_text", read := Path.read_text)
    monkeypatch.setattr(
        Path, "read_text", lambda path, *a: "0::/a/b\n" if path == group else read(path, *a)
    )
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    assert oom_advice.capacity(False) > 5 << 20
    (tmp_path / "a" / "memory.max").write_text(f"{5 << 20}\n")
    assert oom_advice.capacity(False) == 5 << 20
