"""Small trainings that are interrupted, and must end in the bits of one that was not."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conf.schema import FOLDER, TrainConf, register
from core.errors import UserError
from core.files import damage
from core.stop_signals import STOPPED
from models.formats.run_checkpoints import PATTERN
from scripts.cli.console import REFUSED, setup_logging
from scripts.train import main
from tests.faults.child import Child, Ended
from tracking.jsonl import read_rows
from training.run_folder.folder import RunFolder

NAME = "run"
STEPS = 24
COMMON = (
    f"name={NAME}", "data=text", "data.tokenizer=bytes", "data.length=16", "data.val_fraction=0.1",
    "data.batch_size=2", "model.size=tiny", "model.n_layer=1", "model.n_embd=64",
    f"trainer.max_steps={STEPS}", "trainer.accelerator=cpu", "checkpoint.every_n_train_steps=3",
    "trainer.val_check_interval=7", "training.val_windows=2", "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false", "wandb.mode=disabled",
)  # fmt: skip
VARIANTS = (
    ("model=rwkv4",),
    ("model=transformer", "trainer.accumulate_grad_batches=2", "model.n_head=2"),
    ("model=rwkv7", "training.gradient_checkpointing=true"),
    ("model=rwkv4", "data.workers=1", "trainer.precision=bf16-mixed"),
)


@dataclass
class Tally:
    """One row of the table."""

    fault: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    """What went wrong, one entry per loss."""

    def count(self, problem: str | None) -> None:
        self.tried += 1
        if problem:
            self.lost.append(problem)


@dataclass(frozen=True)
class Reference:
    """An uninterrupted training, and the configuration that starts it."""

    conf: TrainConf
    digest: str
    losses: list[tuple[Any, ...]]
    seconds: float


class Lab:
    """Where trainings are run: one text, one cache, a new folder for every trial."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder.resolve()
        self.draw = random.Random(seed)
        self._trials = 0
        words = self.draw.choices(["alpha", "beta", "gamma", "delta", "def", "(x):"], k=800)
        self.folder.mkdir(parents=True)
        self._text = self.folder / "text.txt"
        self._text.write_text(" ".join(words))

    def conf(self, variant: tuple[str, ...]) -> TrainConf:
        """What the words of a command line ask for, of this text."""
        place = (f"data.paths=[{self._text}]", f"data.cache_dir={self.folder / 'cache'}")
        register("train")
        with initialize_config_dir(str(FOLDER), version_base="1.3"):
            composed = compose("train", overrides=[*COMMON, *variant, *place])
        conf: Any = OmegaConf.to_object(composed)
        return conf

    def reference(self, variant: tuple[str, ...]) -> Reference:
        """Train without interruption. Raises `UserError` if that fails."""
        conf = self.conf(variant)
        for _ in range(2):  # the first also prepares the corpus and compiles what is missing
            runs = self.trial()
            done = self.start(conf, runs).wait()
            if done.status:
                raise UserError(f"the training to be tortured fails by itself:\n{done.text}")
        folder = run_folder(runs)
        return Reference(conf, digest_of(folder), losses(folder), done.seconds)

    def trial(self) -> Path:
        """A new folder for runs."""
        self._trials += 1
        return self.folder / f"trial-{self._trials:04d}"

    def start(self, conf: TrainConf, runs: Path, largest_file: int | None = None) -> Child:
        """What `scripts/train.py` does once it has read its command line."""
        conf = replace(conf, runs_dir=str(runs))
        return Child(runs.with_suffix(".console"), train, conf, largest_file)

    def finish(self, reference: Reference, runs: Path) -> str | None:
        """The same command until it has finished; what is lost, or None. Removes what is sound."""
        ended = self.start(reference.conf, runs).wait()
        problem = verdict(reference, runs, ended)
        if problem is None:
            shutil.rmtree(runs)
        return problem

    def kill(self, reference: Reference) -> str | None:
        """SIGKILL at random instants, once or twice, then the same command."""
        runs = self.trial()
        for _ in range(self.draw.choice((1, 1, 2))):
            self._strike(reference, runs, signal.SIGKILL)
        return self.finish(reference, runs)

    def terminate(self, reference: Reference) -> str | None:
        """SIGTERM at a random instant: nothing that was logged may be missing in the checkpoint."""
        runs = self.trial()
        ended = self._strike(reference, runs, signal.SIGTERM)
        folder = run_folder(runs)
        trained = max((row["step"] for row in read_rows(folder.metrics)), default=0)
        kept = max((step for step, _ in sound(folder)), default=0)
        if ended.traceback or ended.status not in (STOPPED, -signal.SIGTERM):
            return f"status {ended.status} after SIGTERM: {last_line(ended.text)}"
        if kept < trained:
            return f"SIGTERM lost {trained - kept} steps"
        return self.finish(reference, runs)

    def _strike(self, reference: Reference, runs: Path, number: int) -> Ended:
        """Start, and send a signal at an instant drawn from the time that an undisturbed run takes.

        One that was faster than that is not a trial: it is taken back.
        """
        for _ in range(20):
            before = runs.with_name(f"{runs.name}.before")
            if runs.exists():
                shutil.copytree(runs, before)
            child = self.start(reference.conf, runs)
            ended = child.signal_after(self.draw.uniform(0, reference.seconds), number)
            finished = run_folder(runs).summary() is not None
            if not finished:
                shutil.rmtree(before, ignore_errors=True)
                return ended
            shutil.rmtree(runs)
            if before.exists():
                before.rename(runs)
        raise UserError("every training ended before it could be interrupted: raise STEPS")

    def stopped(self, reference: Reference) -> Path:
        """Runs with one training that was stopped after its second checkpoint, before its last."""
        for _ in range(20):
            runs = self.trial()
            child = self.start(reference.conf, runs)
            while child.process.exitcode is None and len(sound(run_folder(runs))) < 2:
                child.process.join(0.02)
            child.signal_after(0, signal.SIGTERM)
            steps = [step for step, _ in sound(run_folder(runs))]
            if len(steps) >= 2 and max(steps) < STEPS:  # else there is nothing left to write
                return runs
        raise UserError("no training could be stopped between two checkpoints and its end")

    def disk_full(self, reference: Reference, stopped: Path) -> str | None:
        """Files cannot grow beyond a random size: no sound checkpoint may be lost."""
        runs = self.trial()
        shutil.copytree(stopped, runs)
        folder = run_folder(runs)
        before = {step for step, _ in sound(folder)}
        size = max(path.stat().st_size for _, path in sound(folder))
        limit = self.draw.randrange(size // 50, size)
        ended = self.start(reference.conf, runs, limit).wait()
        after = {step for step, _ in sound(folder)}
        if ended.status == 0 or ended.traceback or "error:" not in ended.text:
            return f"full disk: status {ended.status}: {last_line(ended.text)}"
        if not after or max(after) < max(before):
            return f"full disk: sound checkpoints {sorted(before)} became {sorted(after)}"
        return self.finish(reference, runs)


def train(conf: TrainConf, largest_file: int | None) -> None:
    """One run, ending as the script would; no file may outgrow `largest_file` bytes."""
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    setup_logging()
    try:
        main(conf)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(REFUSED)


def run_folder(runs: Path) -> RunFolder:
    return RunFolder(runs / NAME)


def digest_of(folder: RunFolder) -> str:
    return (folder.summary() or {}).get("digest", "")


def losses(folder: RunFolder) -> list[tuple[Any, ...]]:
    """Every loss that was logged, with its step."""
    rows = read_rows(folder.metrics)
    return [(row["step"], key, row[key]) for row in rows for key in row if key.endswith("/loss")]


def sound(folder: RunFolder) -> list[tuple[int, Path]]:
    """Step and path of each checkpoint that can be trusted, judged by its manifest."""
    found = [(PATTERN.fullmatch(path.name), path) for path in folder.checkpoints.glob("*.ckpt")]
    return sorted((int(match[1]), path) for match, path in found if match and not damage(path))


def verdict(reference: Reference, runs: Path, ended: Ended) -> str | None:
    """What distinguishes a finished run from the uninterrupted one, or None."""
    folder = run_folder(runs)
    if ended.status:
        return f"{runs.name}: status {ended.status}: {last_line(ended.text)}"
    if not reference.digest or digest_of(folder) != reference.digest:
        return f"{runs.name}: another digest"
    if losses(folder) != reference.losses:
        return f"{runs.name}: other losses in metrics.jsonl"
    return None


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return json.dumps(lines[-1][:200]) if lines else "nothing said"
