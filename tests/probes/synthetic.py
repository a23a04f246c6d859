"""Probe rows with known curves, for the tests of the report.

By default training costs `2 + 1e-3 T` seconds for a recurrent model and `1 + 5e-4 T + 3e-7 T^2` for
an attention model, which cross at about 2,840 tokens. Prefill and decoding cross too, memory and
state never do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from models.registry import nature
from probes.rows import Row, append_rows
from tests.registered_models import FOREIGN, NAMES, spec_of

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
REPEATS = (0.99, 1.0, 1.01, 1.02, 1.005)  # the lower quartile is 1
FIXED_TOKENS = 8192
TRAIN_CROSSOVER = 2839.0  # root of 1 + 5e-4 T - 3e-7 T^2

Cost = Callable[[int], float]
COSTS: dict[tuple[str, str], Cost] = {
    ("recurrent", "train"): lambda length: 2 + 1e-3 * length,
    ("attention", "train"): lambda length: 1 + 5e-4 * length + 3e-7 * length**2,
    ("recurrent", "prefill"): lambda length: 4e-4 * length,
    ("attention", "prefill"): lambda length: 1.5e-4 * length + 1.2e-7 * length**2,
    ("recurrent", "decode"): lambda length: 4e-3,
    ("attention", "decode"): lambda length: 3e-3 + 5e-7 * length,
    ("recurrent", "ttft"): lambda length: 3e-4 * length,
    ("attention", "ttft"): lambda length: 1.2e-4 * length + 1e-7 * length**2,
    ("recurrent", "generate"): lambda length: 4e-3 * length,
    ("attention", "generate"): lambda length: 3e-3 * length + 2.5e-7 * length**2,
    ("recurrent", "layer"): lambda length: 2e-4 * length,
    ("attention", "layer"): lambda length: 1e-4 * length + 6e-8 * length**2,
    ("recurrent", "operator"): lambda length: 2e-5 * length,
    ("attention", "operator"): lambda length: 6e-8 * length**2,
    ("recurrent", "max_batch"): lambda length: 1.0,
    ("attention", "max_batch"): lambda length: 1.0,
    ("recurrent", "max_batch_train"): lambda length: 2.0,
    ("attention", "max_batch_train"): lambda length: 2.0,
}
BUDGET = 2**30
ONE_SWEEP = ("ttft", "decode", "generate", "layer", "operator", "max_batch", "max_batch_train")


@cache
def target_of(model: str) -> str:
    """Its class path; reading YAML takes a while."""
    return spec_of(model).target


def said(model: str, config: dict[str, Any]) -> dict[str, Any]:
    """What the model of that name says it is; one of another name attends."""
    if model in (*NAMES, *FOREIGN):
        return asdict(nature(target_of(model), config))
    return {"recurrent": False, "title": model, "options": {}}


def make_row(model: str, probe: str, length: int, **changes: Any) -> Row:
    """One row of batch 1 with the default costs; `changes` replace its fields."""
    of_class = said(model, changes.get("config", {}))
    recurrent = changes.get("recurrent", of_class["recurrent"])
    cost = COSTS["recurrent" if recurrent else "attention", probe](length)
    memory = 5e7 + 4e4 * length if recurrent else 4e7 + 3e4 * length
    state = 184_320 if recurrent else 36_864 * length
    values: dict[str, Any] = {
        "probe": probe,
        "sweep": "batch_1",
        "model": model,
        "size": "tiny",
        "target": f"models.{model}.Model",
        "config": {"vocab_size": 4096, "n_embd": 256},
        "parameters": 10_000_000 if recurrent else 10_050_000,
        "context_length": length,
        "batch": 1,
        "status": "ok",
        "error": None,
        "seconds": [cost * repeat for repeat in REPEATS],
        "peak_bytes": int(memory),
        "peak_method": "resident set of the process, minus imports",
        "state_bytes": None if probe == "train" else state,
        "flops": 10**9,
        "flops_dense": 10**9,
        "backends": {"wkv": "cpu"} if recurrent else {"attention": "flash"},
        "precision": "float32",
        "seed": 0,
        "device": {"kind": "cpu", "name": "Test CPU", "threads": 2, "memory_bytes": 2**34},
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "commit": "0123456789abcdef",
        "load_before": 0.1,
        "started": "2026-01-01T00:00:00+00:00",
        "command": "python scripts/probe.py -m model=rwkv4,gpt",
    }
    if probe == "decode":
        values["token_seconds"] = [cost * repeat for repeat in REPEATS for _ in range(20)]
    if probe.startswith("max_batch"):
        each = memory / 1000 if recurrent else 36_864 * length
        values |= {"budget_bytes": BUDGET, "max_batch": int(BUDGET / each)}
        values["tried"] = [{"batch": 1, "status": "ok", "peak_bytes": int(memory), "error": None}]
    return Row(**(values | of_class | changes))


def make_rows(
    models: tuple[str, ...] = ("rwkv4", "gpt"),
    probes: tuple[str, ...] = ("train", "prefill", "decode"),
    fixed: bool = True,
) -> list[Row]:
    """Every model, probe and length, batch 1; with `fixed` the second sweep too."""
    rows = []
    for length in LENGTHS:
        for model in models:
            for probe in probes:
                one = make_row(model, probe, length)
                rows.append(one)
                if fixed and probe not in ONE_SWEEP:
                    batch = FIXED_TOKENS // length
                    times = [seconds * batch for seconds in one.seconds]
                    more = {"sweep": "fixed_tokens", "batch": batch, "seconds": times}
                    rows.append(make_row(model, probe, length, **more))
    return rows


def undecided_rows() -> list[Row]:
    """Three processes in which prefill costs both the same within noise of a quarter."""
    noise = (1.0, 1.25, 0.8)
    return [
        make_row(
            model, "prefill", length, process=process,
            seconds=[1e-4 * length * noise[(process + place + shift) % 3]] * 3,
        )
        for process in range(3)
        for place, length in enumerate((256, 512, 1024, 2048))
        for shift, model in enumerate(("rwkv4", "gpt"))
    ]  # fmt: skip


def failed(model: str, probe: str, length: int, status: str, **changes: Any) -> Row:
    """A point that did not finish."""
    lost: dict[str, Any] = {
        "seconds": [],
        "peak_bytes": None,
        "state_bytes": None,
        "parameters": None,
    }
    why = {"status": status, "error": f"{status} at {length}", "backends": {}}
    return make_row(model, probe, length, **(lost | why | changes))


def make_summary(model: str, loss: float, **changes: Any) -> dict[str, Any]:
    """The summary of a finished training."""
    values: dict[str, Any] = {
        "name": f"{model}-tiny",
        "model": model,
        "size": "tiny",
        "parameters": 10_000_000,
        "steps": 200,
        "tokens": 409_600,
        "val_loss": loss,
        "val_bits_per_byte": loss / 1.6,
        "unigram_entropy": 6.5,
        "gzip_bits_per_byte": 2.4,
        "xz_bits_per_byte": 2.0,
        "order_hash": "abc",
        "data_fingerprint": "def",
        "tokens_per_second": 5000.0,
        "train_seconds": 82.0,
        "precision": "32-true",
        "backends": {},
        "peak_bytes": 10**8,
    }
    values |= said(model, changes.get("config", {}))
    return values | changes


def write_run(folder: Path, rows: list[Row], *summaries: dict[str, Any]) -> Path:
    """A group folder with its rows, and one sub-folder per training."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        append_rows(folder / "probes.jsonl", [row])
    for summary in summaries:
        (folder / summary["name"]).mkdir()
        (folder / summary["name"] / "summary.json").write_text(json.dumps(summary))
    return folder
