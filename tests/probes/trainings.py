"""Summaries of trainings whose losses follow a known law of parameters and tokens."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from conf.schema import TrainConf
from tests.probes.synthetic import make_summary
from tests.registered_models import spec_of

SIZES = (2.5e5, 6e5, 1.2e6, 2.4e6)
BUDGETS = (2.6e5, 5.2e5, 1.05e6)


def loss(parameters: Any, tokens: Any) -> Any:
    """Nats per token."""
    return 1.4 * (parameters / 1e6) ** -0.15 + 2.4 * (tokens / 1e6) ** -0.25


def training(
    model: str, parameters: float, tokens: float, value: float, **changes: Any
) -> dict[str, Any]:
    """The summary of one training; forward, a parameter costs two operations a token."""
    facts = {
        "name": f"{model}-{parameters:.0f}-{tokens:.0f}",
        "size": f"{parameters / 1e6:g}m",
        "config": {},
        "parameters": int(parameters),
        "tokens": int(tokens),
        "forward_flops": int(2 * parameters * tokens),
        "order_hash": f"order of {tokens:.0f}",
    }
    return make_summary(model, value, **(facts | changes))


def grid(model: str, factor: float, noise: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    """Every size on every budget."""
    rng = np.random.default_rng(seed)
    return [
        training(model, n, d, float(factor * loss(n, d) * np.exp(rng.normal(0, noise))))
        for n in SIZES
        for d in BUDGETS
    ]


def write_training(
    group: Path, model: str, loss: float | None, seed: int = 0, **changes: Any
) -> Path:
    """The folder of a training as `scripts/train.py` leaves it: configuration, summary and rows.

    `changes` are dotted keys with `__` for the dot, and fields of the summary after `summary`:
    None instead of all of them for a training that did not finish. Its loss falls to `loss` from 3
    above; rows are those of every tenth of 100 steps, with validations at every 20th.
    """
    fields = changes.pop("summary", {})
    priced = changes.pop("priced", None)
    words = [f"{key.rpartition('__')[2]}{value}" for key, value in changes.items()]
    name = "-".join([model, *words, f"s{seed}"]).replace("/", "_")
    folder = group / name
    folder.mkdir(parents=True)
    conf = asdict(TrainConf(name=name, group=group.name, seed=seed))
    conf["data"]["corpus"] = "stdlib"
    spec = spec_of(model)
    conf["model"] = asdict(spec)
    for key, value in changes.items():
        *path, leaf = key.split("__")
        place = conf
        for part in path:
            place = place[part]
        place[leaf] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(conf))
    end = 4.0 if loss is None else loss
    rows = []
    for step in range(10, 101, 10):
        spent = {"train/tokens": 1024 * step, "train/flops": 10**9 * step,
                 "train/seconds": 0.5 * step}  # fmt: skip
        if priced is not None:
            spent["train/cost"] = spent["train/seconds"] / 3600 * priced
        now = end + 3 * (1 - step / 100)
        both = {"loss": now, "bits_per_byte": now / 2}
        rows.append({"step": step} | {f"train/{key}": each for key, each in both.items()} | spent)
        if step % 20 == 0:
            rows.append({"step": step} | {f"val/{key}": each for key, each in both.items()} | spent)
    if loss is None:
        rows = rows[:6]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if loss is not None and fields is not None:
        facts = {"name": name, "size": spec.size, "tokens": 102_400, "forward_flops": 10**11 // 3,
                 "val_bits_per_byte": loss / 2, "train_seconds": 50.0}  # fmt: skip
        summary = make_summary(model, loss, **(facts | fields))
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder
