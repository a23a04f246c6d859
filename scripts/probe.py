"""Measure models: `python scripts/probe.py -m model=rwkv4,transformer`, or `-m run=first,a.pth`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("probe", "scripts.probe:main", together=True)

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from conf.schema import ProbeConf
from core.writable import check_writable
from probes.analysis import derived_metrics
from probes.analysis.crossovers import rows_at
from probes.measure.sweep import run_sweep
from probes.report.rows_csv import COLUMNS, flat
from probes.rows import Row
from scripts.cli.probed_models import probed_models
from tracking.wandb_run import PROBE_AXES, Tracker
from training.run_folder.folder import check_name


def main(confs: list[ProbeConf]) -> None:
    """One interleaved sweep over every model of the command line, so that drift cancels."""
    conf = confs[0]
    specs = probed_models(confs)
    folder = Path(conf.runs_dir, check_name("group", conf.group))
    check_writable(folder, hint="choose another runs_dir")
    measured: list[Row] = []
    rows = run_sweep(specs, conf, folder / "probes.jsonl", measured.append)
    print(f"{folder / 'probes.jsonl'}: {ending(rows, conf.remeasure)}")
    news = {identity(row) for row in measured}
    runs: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        runs[identity(row)].append(row)
    for key, of_model in runs.items():
        path = folder / "wandb" / f"{key}.id"
        if key in news or not path.is_file():
            track(conf, path, of_model)


def ending(rows: Sequence[Row], remeasure: float) -> str:
    """How many measurements there are, and of how many nothing can be concluded."""
    failed = sum(row.status != "ok" for row in rows)
    text = f"{len(rows)} measurements, {failed} of them failed"
    count = sum(row.is_disturbed for row in rows)
    if not count:
        return text
    them = "them" if count > 1 else "it"
    again = f"the same command measures {them} again"
    if not remeasure > 0:
        again = f"remeasure=0 keeps {them}"
    return f"{text}, {count} {'are' if count > 1 else 'is'} disturbed by other processes: {again}"


def track(conf: ProbeConf, identity: Path, rows: list[Row]) -> None:
    """The curves of one model as a wandb run with context length as the x axis."""
    name = rows[0].label.replace(" ", "-")
    with Tracker(
        conf.wandb,
        f"probe-{name}-{rows[0].size}",
        group=conf.group,
        job_type="probe",
        identity=identity,
        records=identity.parents[1],
        config={
            "setting": f"probe {name} {rows[0].size}",  # by which a workspace groups runs
            "precision": rows[0].precision,
            **{f"model.{key}": value for key, value in rows[0].config.items()},
            **{f"device.{key}": value for key, value in rows[0].device.items()},
            **{f"weights.{key}": value for key, value in rows[0].weights.items()},
        },
        axes=PROBE_AXES,
    ) as tracker:
        for length, metrics in sorted(curves(rows).items()):
            tracker.log_metrics({"context_length": length, **metrics})
        tracker.table("rows", COLUMNS, map(flat, rows))


def identity(row: Row) -> str:
    """Name of the wandb run a row belongs to: one for each configuration of a model."""
    told = [row.target, row.config, row.precision, row.device]
    facts = json.dumps(told + ([row.weights] if row.weights else []), sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return f"probe-{row.model}-{row.size}-{digest}"


def curves(rows: Sequence[Row]) -> dict[int, dict[str, float]]:
    """Metrics by context length: `probe/PROBE/SWEEP/FIGURE`, figures as the report has them.

    A point that others disturbed has no times; one of which a process failed has nothing.
    """
    points: dict[int, dict[str, float]] = defaultdict(dict)
    for probe, sweep in dict.fromkeys((row.probe, row.sweep) for row in rows):
        for length, of_length in rows_at(rows, probe, sweep).items():
            metrics = derived_metrics.figures(list(of_length.values()))
            points[length] |= {f"probe/{probe}/{sweep}/{k}": value for k, value in metrics.items()}
    return dict(points)
