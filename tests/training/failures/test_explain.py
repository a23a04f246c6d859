"""Faults of the machine during a real training: one message, nothing saved is lost, go on after."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.errors import UserError
from core.stop_signals import Preempted
from data.batches import Batches
from data.store import prepare
from models.meta import count_parameters
from models.step_trace import kept_bytes
from tests.registered_models import spec_of
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import newest, saved
from training.failures import oom_advice
from training.loop.datamodule import ValidationWindows
from training.loop.evaluate import full_validation
from training.loop.module import LanguageModel
from training.run_folder.folder import RunFolder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    return write_corpus(tmp_path / "text")


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Have something happen once, within the given optimizer step."""

    def arrange(step: int, happen: Callable[[], None]) -> None:
        honest = LanguageModel.training_step
        happened: list[bool] = []

        def training_step(module: LanguageModel, *args: Any) -> torch.Tensor:
            if module.trainer.global_step + 1 == step and not happened:
                happened.append(True)
                happen()
            return honest(module, *args)

        monkeypatch.setattr(LanguageModel, "training_step", training_step)

    return arrange


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def finish(conf: Any) -> dict[str, Any]:
    """The same command again: it continues and ends in the bits of a run without the fault."""
    summary, _ = run(conf)
    straight = run_conf(Path(conf.runs_dir).parent / "straight", Path(conf.data.paths[0]))
    assert run(straight)[0]["digest"] == summary["digest"]
    return summary


def test_a_disk_that_fills_while_saving(tmp_path: Path, corpus: Path, at_step: Any) -> None:
    conf = run_conf(tmp_path / "runs", corpus)
    folder = RunFolder(tmp_path / "runs" / "run")
    with largest_file(resource.RLIM_INFINITY):

        def fill() -> None:
            while not saved(folder):  # which is written meanwhile
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

        at_step(6, fill)
        with pytest.raises(
            UserError, match=r"8\.ckpt cannot be written: the disk is full"
        ) as stopped:
            run(conf)
    assert "\n" not in str(stopped.value)
    assert [path.name for path in saved(folder)] == ["step-00000004.ckpt"]
    assert newest(folder) == saved(folder)[0]
    assert not list(folder.path.rglob("*.tmp"))
    finish(conf)


def test_a_disk_too_full_for_the_weights_that_a_fine_tuning_keeps(
    tmp_path: Path, corpus: Path
) -> None:
    source = run_conf(tmp_path / "runs", corpus, name="source")
    run(source)
    conf = run_conf(tmp_path / "runs", corpus, name="tuned", init_from="source")
    conf.tune.mode = "lora"
    frozen = RunFolder.of(conf.runs_dir, conf.group, str(conf.name)).frozen
    with (
        largest_file(50_000),
        pytest.raises(UserError, match=r"frozen\.safetensors cannot be writ"),
    ):
        run(conf)
    assert not frozen.exists()
    run(conf)
    assert frozen.is_file()


def test_a_disk_that_fills_while_writing_metrics(
    tmp_path: Path, corpus: Path, at_step: Any
) -> None:
    conf = run_conf(tmp_path / "runs", corpus)
    folder = RunFolder(tmp_path / "runs" / "run")
    with largest_file(resource.RLIM_INFINITY):

        def fill() -> None:
            size = folder.metrics.stat().st_size + 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        at_step(6, fill)
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written.*step-00000004"):
            run(conf)
    finish(conf)
    steps = [row["step"] for row in read_rows(folder.metrics) if "train/loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_stop_while_a_loader_begins_is_no_failure(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning then fails to tidy up its loop, which had no loader yet."""

    def stop(_: object) -> None:
        raise Preempted

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", stop)
    with pytest.raises(Preempted):
        run(run_conf(tmp_path / "runs", corpus))


CHANGES: dict[str, Callable[[Path], object]] = {
    "disappeared": lambda path: path.unlink(),
    "changed": lambda path: path.write_bytes(path.read_bytes()[::-1]),
    "changed, cut short": lambda path: os.truncate(path, 10),
}


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        *((kind, 0) for kind in CHANGES),
        *(
            pytest.param(kind, 1, marks=pytest.mark.slow)
            for kind in ("disappeared", "changed, cut short")
        ),
    ],
)
def test_a_store_that_changes_stops_the_run(
    tmp_path: Path, corpus: Path, at_step: Any, kind: str, workers: int
) -> None:
    conf = run_conf(tmp_path / "runs", corpus, data__workers=workers)

    def change() -> None:
        time.sleep(0.02)  # beyond the grain of a file system's clock
        (path,) = (corpus.parent / "cache").glob("*/train.bin")
        CHANGES[kind](path)

    at_step(5, change)
    with pytest.raises(UserError, match=rf"train\.bin {kind.split(',')[0]} while") as stopped:
        run(conf)
    assert "\n" not in str(stopped.value)
    assert not multiprocessing.active_children()  # although the error is still at hand
    if kind == "disappeared":
        finish(conf)


def test_a_text_that_disappears_is_not_missed(tmp_path: Path, corpus: Path, at_step: Any) -> None:
    conf = run_conf(tmp_path / "runs", corpus)
    text = corpus.read_text()
    at_step(5, corpus.unlink)
    summary, _ = run(conf)
    corpus.write_text(text)
    assert summary["digest"] == finish(conf)["digest"]


def test_a_loader_process_that_is_killed(tmp_path: Path, corpus: Path, at_step: Any) -> None:
    conf = run_conf(tmp_path / "runs", corpus, data__workers=1)

    def kill() -> None:
        worker = max(multiprocessing.active_children(), key=lambda child: child.pid or 0)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    at_step(6, kill)
    with pytest.raises(UserError, match="a loader process died") as stopped:
        run(conf)
    assert "\n" not in str(stopped.value) and "step-00000004.ckpt" in str(stopped.value)
    finish(conf)


def test_out_of_memory_names_what_would_fit(
    tmp_path: Path, corpus: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = run_conf(tmp_path / "runs", corpus, data__batch_size=64)
    at_step(6, lambda: torch.empty(1 << 60, dtype=torch.uint8))
    spec = spec_of("rwkv4")
    weights = oom_advice.WEIGHT * count_parameters(spec)
    half = weights + 32 * kept_bytes(spec, 32, False, "32-true")
    monkeypatch.setattr(
        "training.failures.explain.room", lambda: int(1.1 * half / oom_advice.SPARE)
    )
    with pytest.raises(UserError, match=r"^out of memory \(.*can't allocate memory") as stopped:
        run(conf)
    text = str(stopped.value)
    assert "\n" not in text and "step-00000004.ckpt" in text
    assert "training.gradient_checkpointing=true (about" in text
    assert "data.batch_size=32 trainer.accumulate_grad_batches=2 (about" in text
    assert "data.length=16 (about" in text


def test_a_clock_set_back_makes_no_negative_rate(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = time.time, []

    def jumping() -> float:
        calls.append(1)
        return honest() + (-1) ** len(calls) * 86_400 * len(calls)

    monkeypatch.setattr(time, "time", jumping)
    summary, folder = run(run_conf(tmp_path / "runs", corpus))
    rows = read_rows(folder.metrics)
    rates = [row["train/tokens_per_second"] for row in rows if "train/tokens_per_second" in row]
    assert calls and rates and all(rate > 0 for rate in rates)
    assert 0 < summary["train_seconds"] < 600


def test_a_stopped_clock_gives_no_rate(tmp_path: Path, corpus: Path) -> None:
    from tracking.throughput import Throughput

    times = iter([10.0, 11.0, 9.0, 9.5])
    watch = Throughput(warmup=0, clock=lambda: next(times))
    watch.start()
    watch.step(8)
    watch.step(8)
    assert watch.tokens_per_second == 16.0
    watch.step(8)
    assert watch.tokens_per_second == 16.0


def test_batches_read_after_a_change_are_never_returned(tmp_path: Path, corpus: Path) -> None:
    conf = run_conf(tmp_path / "runs", corpus).data
    prepared = prepare(conf)
    batches = Batches(prepared, conf, 0)
    assert re.fullmatch(r"\d+", str(int(batches[0].sum())))
    time.sleep(0.02)
    path = prepared.folder / "train.bin"
    with path.open("r+b") as file:
        file.write(b"\0\0")
    with pytest.raises(UserError, match="changed while it was in use"):
        batches[1]


@pytest.mark.parametrize("reader", ["windows", "full"])
def test_validation_tokens_cut_between_two_batches_stop_it_with_a_message(
    tmp_path: Path, corpus: Path, reader: str
) -> None:
    conf = run_conf(tmp_path / "runs", corpus).data
    prepared = prepare(conf)
    _ = prepared.val
    messages = multiprocessing.get_context("fork").Queue()

    def cut(*args: Any) -> torch.Tensor:
        os.truncate(prepared.folder / "val.bin", 0)
        return torch.zeros(())

    def read() -> None:
        try:
            if reader == "windows":
                for _ in ValidationWindows(prepared, conf, windows=8, rank=0, world=1):
                    cut()
            else:
                reading: Any = SimpleNamespace(summed=lambda *args: (cut(*args).item(), 1))
                model: Any = torch.nn.Linear(1, 1)
                full_validation(model, prepared, conf.length, conf.batch_size, reading)
        except UserError as error:
            messages.put(str(error))

    # In a process of its own: reading beyond the end of a map ends it with SIGBUS.
    child = multiprocessing.get_context("fork").Process(target=read)
    child.start()
    child.join()
    assert child.exitcode == 0
    message = messages.get(timeout=10)
    assert "val.bin changed while it was in use" in message and "The same command" in message
