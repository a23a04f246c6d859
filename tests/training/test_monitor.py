"""The lines a training prints: its run, the step of how many, the time left, and a mean loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts.commands import run_script
from training.monitor import Line


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
    def losses_shown(name: str, every: int) -> list[float]:
        done = run_script(
            capfd, "train", f"name={name}", f"runs_dir={tmp_path}", "model.size=tiny",
            f"data.cache_dir={tmp_path}/cache", "data.tokenizer=bytes", "data.length=32",
            "data.batch_size=1", "data.val_fraction=0.002", "training.val_windows=1",
            f"training.log_every={every}", "trainer.max_steps=4", "wandb.mode=disabled",
        )  # fmt: skip
        assert done.status == 0, done.err
        lines = [line for line in done.err.splitlines() if line.startswith(f"{name}  step ")]
        return [float(line.split("loss ")[1].split()[0]) for line in lines if "loss " in line]

    single = losses_shown("single", 1)
    (mean,) = losses_shown("mean", 4)
    assert len(single) == 4
    assert mean == pytest.approx(sum(single) / 4, abs=1.1e-3)
