"""Measure contestants: `python scripts/probe.py -m model=rwkv4,transformer`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import wandb

from conf.launch import launch
from conf.model_spec import model_spec
from conf.schema import ProbeConf
from probes.collect import arms_of
from probes.rows import Row
from probes.sweep import run_sweep
from training.folder import check_name
from training.tracking import PROBE_AXES, define_axes, wandb_settings


def main(confs: list[ProbeConf]) -> None:
    """One interleaved sweep over every contestant of the command line, so that drift cancels."""
    conf = confs[0]
    specs = [model_spec(one.model, one.vocab_size) for one in confs]
    folder = Path(conf.runs_dir, check_name("group", conf.group))
    measured: list[Row] = []
    rows = run_sweep(specs, conf, folder / "probes.jsonl", measured.append)
    failed = sum(row.status != "ok" for row in rows)
    print(f"{folder / 'probes.jsonl'}: {len(rows)} measurements, {failed} of them failed")
    for arm in arms_of(rows):
        if conf.wandb.mode != "disabled" and any(row in measured for row in arm.rows):
            track(conf, folder, arm.label.replace(" ", "-"), arm.rows)


def track(conf: ProbeConf, folder: Path, name: str, rows: Sequence[Row]) -> None:
    """The curves of one arm as a wandb run with context length as the x axis."""
    run = wandb.init(
        **wandb_settings(conf.wandb, folder, f"probe-{name}", conf.group, "probe"),
        config={"model": rows[0].config, "precision": conf.precision, "device": rows[0].device},
    )
    try:
        define_axes(run, PROBE_AXES)
        for length, metrics in sorted(curves(rows).items()):
            run.log({"context_length": length, **metrics})
    finally:
        run.finish()


def curves(rows: Sequence[Row]) -> dict[int, dict[str, float]]:
    """Metrics by context length, medians over processes: `probe/PROBE/SWEEP/FIGURE`."""
    measured: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        point, prefix = measured[row.context_length], f"probe/{row.probe}/{row.sweep}"
        if row.seconds:
            seconds = median(row.seconds)
            tokens = 1 if row.probe == "decode" else row.batch * row.context_length
            point[f"{prefix}/seconds"].append(seconds)
            point[f"{prefix}/tokens_per_second"].append(tokens / seconds)
        for name in ("peak_bytes", "state_bytes", "flops", "flops_dense"):
            if (value := getattr(row, name)) is not None:
                point[f"{prefix}/{name}"].append(value)
    return {
        length: {name: median(values) for name, values in point.items()}
        for length, point in measured.items()
    }


if __name__ == "__main__":
    launch("probe", main, together=True)
