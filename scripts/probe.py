"""Measure contestants: `python scripts/probe.py -m model=rwkv4,transformer`."""

from __future__ import annotations

from conf.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("probe", "scripts.probe:main", together=True)

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from conf.model_spec import model_spec
from conf.schema import ProbeConf
from probes import costs
from probes.flat import COLUMNS, flat
from probes.rows import Row
from probes.sweep import run_sweep
from training.folder import check_name
from training.tracking import PROBE_AXES, Tracker


def main(confs: list[ProbeConf]) -> None:
    """One interleaved sweep over every contestant of the command line, so that drift cancels."""
    conf = confs[0]
    specs = [model_spec(one.model, one.vocab_size) for one in confs]
    folder = Path(conf.runs_dir, check_name("group", conf.group))
    measured: list[Row] = []
    rows = run_sweep(specs, conf, folder / "probes.jsonl", measured.append)
    failed = sum(row.status != "ok" for row in rows)
    print(f"{folder / 'probes.jsonl'}: {len(rows)} measurements, {failed} of them failed")
    news = {identity(row) for row in measured}
    for key, own in by_identity(rows).items():
        path = folder / "wandb" / f"{key}.id"
        if key in news or not path.is_file():
            track(conf, path, own)


def track(conf: ProbeConf, identity: Path, rows: list[Row]) -> None:
    """The curves of one contestant as a wandb run with context length as the x axis."""
    name = rows[0].label.replace(" ", "-")
    with Tracker(
        conf.wandb,
        f"probe-{name}-{rows[0].size}",
        group=conf.group,
        job_type="probe",
        identity=identity,
        records=identity.parents[1],
        config={
            "precision": conf.precision,
            **{f"model.{key}": value for key, value in rows[0].config.items()},
            **{f"device.{key}": value for key, value in rows[0].device.items()},
        },
        axes=PROBE_AXES,
    ) as tracker:
        for length, metrics in sorted(curves(rows).items()):
            tracker.log_metrics({"context_length": length, **metrics})
        tracker.table("rows", COLUMNS, map(flat, rows))


def identity(row: Row) -> str:
    """Of the wandb run a row belongs to: one for each configuration of a contestant."""
    facts = json.dumps([row.target, row.config, row.precision, row.device], sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return f"probe-{row.contestant}-{row.size}-{digest}"


def by_identity(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each wandb run, in the order of the command line."""
    runs: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        runs[identity(row)].append(row)
    return runs


def curves(rows: Sequence[Row]) -> dict[int, dict[str, float]]:
    """Metrics by context length, medians over processes: `probe/PROBE/SWEEP/FIGURE`.

    Times that others disturbed are left out.
    """
    measured: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        point, prefix = measured[row.context_length], f"probe/{row.probe}/{row.sweep}"
        if row.seconds and not row.is_disturbed:
            seconds = median(row.undisturbed)
            single = row.probe in ("decode", "max_batch")
            tokens = (row.max_batch or row.batch) * (1 if single else row.context_length)
            point[f"{prefix}/seconds"].append(seconds)
            point[f"{prefix}/tokens_per_second"].append(tokens / seconds)
        for name in ("peak_bytes", "state_bytes", "flops", "flops_dense", "max_batch"):
            if (value := getattr(row, name)) is not None:
                point[f"{prefix}/{name}"].append(value)
        if (percentiles := costs.token_percentiles([row])) is not None:
            for name, value in zip(("p50_seconds", "p95_seconds"), percentiles, strict=True):
                point[f"{prefix}/{name}"].append(value)
        derived = {"mfu": costs.utilisation(row), "joules_per_token": costs.joules_per_token(row)}
        for name, known in derived.items():
            if known is not None:
                point[f"{prefix}/{name}"].append(known)
    return {
        length: {name: median(values) for name, values in point.items()}
        for length, point in measured.items()
    }
