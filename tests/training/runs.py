"""Small real runs for the tests of the training loop."""

from __future__ import annotations

import random
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from conf.schema import CheckpointConf, DataConf, TrainConf, TrainerConf, TrainingConf, WandbConf
from tests.registered_models import spec_of
from training.run import train
from training.run_folder.folder import RunFolder


def write_corpus(folder: Path) -> Path:
    """A few kilobytes of text with something to learn in it."""
    words = random.Random(0).choices(["alpha", "beta", "gamma", "delta", "def", "(x):"], k=4000)
    path = folder / "corpus.txt"
    path.write_text(" ".join(words))
    return path


def write_library(folder: Path) -> Path:
    """Some of Python's standard library, for `data=stdlib` to be prepared in a second."""
    whole, some = Path(sysconfig.get_path("stdlib")), folder / "library"
    for package in ("asyncio", "json"):
        (some / package).mkdir(parents=True)
        for path in (whole / package).glob("*.py"):
            shutil.copy(path, some / package)
    return some


def run_conf(folder: Path, corpus: Path, **changes: Any) -> TrainConf:
    """A run of 8 steps on `corpus`; `changes` are dotted keys with `__` for the dot."""
    conf = TrainConf(
        name="run",
        runs_dir=str(folder),
        data=DataConf(
            corpus="text",
            paths=[str(corpus)],
            tokenizer="bytes",
            length=32,
            batch_size=4,
            val_fraction=0.1,
            cache_dir=str(corpus.parent / "cache"),
        ),
        trainer=TrainerConf(
            max_steps=8,
            accelerator="cpu",
            log_every_n_steps=1,
            val_check_interval=3,
            enable_progress_bar=False,
        ),
        training=TrainingConf(val_windows=4),
        checkpoint=CheckpointConf(every_n_train_steps=4, best=False),
        wandb=WandbConf(mode="disabled"),
    )
    for name, value in changes.items():
        *path, leaf = name.split("__")
        target: Any = conf
        for part in path:
            target = getattr(target, part)
        assert hasattr(target, leaf), name
        setattr(target, leaf, value)
    return conf


def run(conf: TrainConf, model: str = "rwkv4") -> tuple[dict[str, Any], RunFolder]:
    """Train; the summary and the folder."""
    folder = RunFolder.of(conf.runs_dir, conf.group, conf.name or "run")
    return train(conf, spec_of(model), folder), folder
