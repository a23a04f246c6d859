"""The lines a training prints: its run, the step of how many, the time left, and a mean loss."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.scripts.commands import run_script
from tests.training.runs import write_corpus
from tracking.progress import Windows
from training.loop.evaluate import full_validation, number_of_windows
from training.loop.monitor import Line


def test_a_line_names_run_step_and_time_left(capfd: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    line = Line("first", clock=lambda: now[0])
    line.start(20, 100)
    now[0] = 30.0
    line.show(40, {"mean/loss": 5.1234, "mean/bits_per_byte": 2.5})
    now[0] = 120.0
    line.show(100, {})
    line.stop()
    early, late = capfd.readouterr().err.splitlines()
    assert early == "first  step 40 of 100  1:30 left  loss 5.123  2.500 bits/byte"
    assert late.startswith("first  step 100 of 100  loss 5.123")


def test_the_loss_shown_is_the_mean_since_the_last_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path)

    def losses_shown(name: str, every: int) -> list[float]:
        done = run_script(
            capfd, "train", f"name={name}", f"runs_dir={tmp_path}", "model.size=tiny",
            "data=text", f"data.paths=[{corpus}]", f"data.cache_dir={tmp_path}/cache",
            "data.tokenizer=bytes", "data.length=32",
            "data.batch_size=1", "data.val_fraction=0.1", "training.val_windows=1",
            f"trainer.log_every_n_steps={every}", "trainer.max_steps=4", "wandb.mode=disabled",
        )  # fmt: skip
        assert done.status == 0, done.err
        lines = [line for line in done.err.splitlines() if line.startswith(f"{name}  step ")]
        return [float(line.split("loss ")[1].split()[0]) for line in lines if "loss " in line]

    single = losses_shown("single", 1)
    (mean,) = losses_shown("mean", 4)
    assert len(single) == 4
    assert mean == pytest.approx(sum(single) / 4, abs=1.1e-3)


class Tokens(list[int]):
    """In place of a file of tokens."""

    def rows(self, starts: list[int], width: int) -> np.ndarray:
        return np.array([self[start : start + width] for start in starts], np.uint16)


def validated(seconds: float, console: Console | None = None) -> None:
    """Ten windows, the last one shorter, in batches of two that take so many seconds each."""
    now = [0.0]

    def summed(*args: Any) -> tuple[float, int]:
        now[0] += seconds
        return 0.0, args[-1].numel()

    corpus: Any = SimpleNamespace(val=Tokens(range(9 * 8 + 4)), masked=False)
    model: Any = torch.nn.Linear(1, 1)
    reading: Any = SimpleNamespace(summed=summed)
    total = number_of_windows(corpus, 8)
    with Windows("first  final validation", total, lambda: now[0], console) as progress:
        full_validation(model, corpus, 8, 2, reading, progress.show)


def test_a_long_final_validation_says_how_far_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    validated(7.0)  # the last full window and the short one are batches of their own
    assert capfd.readouterr().err.splitlines() == [
        "first  final validation, 4 of 10 windows  0:21 left",
        "first  final validation, 8 of 10 windows  0:07 left",
    ]
    validated(1.6)
    assert capfd.readouterr().err == ""


def test_on_a_terminal_it_is_a_line_that_goes_away() -> None:
    def shown(seconds: float) -> str:
        screen = io.StringIO()
        validated(seconds, Console(file=screen, force_terminal=True, width=100))
        return screen.getvalue()

    assert "first  final validation, 2 of 10 windows  0:28 left" in shown(7.0)
    assert shown(7.0).endswith("\x1b[2K")  # the line is cleared
    assert shown(1.6) == ""
