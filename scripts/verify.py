"""Measure points of somebody's report again: `python scripts/verify.py reports=[crossover.json]`.

What the reports say of crossovers is put side by side, machine by machine. Then points are drawn at
random, by `seed`. Of each, both models are measured anew at that context
length, next to each other, and the ratio of their costs is compared with the report's interval.
"""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("verify", "scripts.verify:main")

import json
import sys
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from conf.schema import VerifyConf
from core import environment
from core.errors import UserError, shown
from core.files import write_text
from core.interval import Interval
from core.writable import check_writable
from probes.analysis.analysis import analyse
from probes.analysis.dataset import collect
from probes.measure.sweep import run_sweep
from probes.report import foreign_reports, verification
from probes.report.machines import show_crossings
from probes.report.summary_json import summarise
from probes.report.verification import Repeat, Target
from scripts.api import configure
from scripts.cli.model_spec import model_spec

PROCESSES = 10  # of a point, whatever a report says; processes= may ask for more
WINDOW = (1024, 8192)  # of slopes, which nobody asks for here


def main(conf: VerifyConf) -> None:
    """Repeat the points, say where they lie, and write `verify.json`.

    Raises `UserError` if no report is left to verify, or none has a point with a ratio.
    """
    reports, problems = foreign_reports.read_reports(conf.reports)
    for problem in problems:
        print(problem, file=sys.stderr, flush=True)
    if not reports:
        raise UserError(f"reports={shown(conf.reports, 200)}: none is left to verify")
    console = Console(markup=False, emoji=False)
    crossings = list(foreign_reports.crossings(reports))
    show_crossings(crossings, console)
    chosen = verification.drawn(reports, conf.points, conf.seed)
    if conf.points and not chosen:
        raise UserError(f"{', '.join(str(one.path) for one in reports)}: no ratio of two models")
    out = Path(conf.out)
    check_writable(out, "out")
    repeats = []
    for number, target in enumerate(chosen, 1):
        print(f"{number} of {len(chosen)}: {target.words}", flush=True)
        repeats.append(repeat(target, conf, out))
    said = verification.sentence(repeats)
    content = {
        "verdict": said if repeats else None,
        "left_out": problems,
        "crossovers": crossings,
        "machine": next((one.machine for one in repeats if one.machine), None),
        "points": [one.plain() for one in repeats],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "verify.json", json.dumps(content, indent=2) + "\n")
    if repeats:
        show(repeats, said, console)
    print(f"wrote {out / 'verify.json'}")


def repeat(target: Target, conf: VerifyConf, out: Path) -> Repeat:
    """Measure both models of a point, in the folder of the point below `out`.

    The same call goes on with a sweep that was interrupted there, and other measures of the same
    probe are taken from it.
    """
    measure = target.measure
    name = f"{measure.probe}-{measure.sweep}-{target.length}-{'-'.join(target.models)}"
    tidy = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    folder = out / "points" / f"{target.report.digest[:8]}-{tidy[:100]}"
    try:
        kind, theirs = environment.device_kind(conf.accelerator), target.report.machine.get("kind")
        if kind != theirs:
            raise UserError(f"measured on {shown(theirs, 40)}, and here on {kind}")
        confs = [
            configure("probe", *words_of(target, label, conf), f"runs_dir={json.dumps(str(out))}")[
                0
            ]
            for label in target.models
        ]
        specs = [model_spec(one.model, one.vocab_size) for one in confs]
        folder.mkdir(parents=True, exist_ok=True)
        run_sweep(specs, confs[0], folder / "probes.jsonl", lambda row: None)
        summary = summarise(analyse(collect([folder]), WINDOW))
    except UserError as error:
        return Repeat(target, None, str(error))
    found = summary["crossovers"][measure.key]
    ratio = found.get("ratios", {}).get(str(target.length))
    if ratio is None:
        return Repeat(target, None, str(found["reason"]), summary["machine"])
    ours = Interval(*(ratio[key] for key in ("value", "low", "high")))
    return Repeat(target, ours, machine=summary["machine"])


def words_of(target: Target, label: str, conf: VerifyConf) -> list[str]:
    """The words of a command line that measures one model of a point, as the report did.

    Raises `UserError` for what cannot be a word of one.
    """
    model, machine = target.model(label), target.report.machine
    config = {**model.config}
    vocabulary = config.pop("vocab_size", None)
    fields = {f"model.{name}": value for name, value in config.items()}
    processes = machine.get("processes_of_a_point")
    most = processes[-1] if isinstance(processes, list) and processes else 1
    most = min(most, PROCESSES) if type(most) is int else 1
    settings: dict[str, Any] = {
        "model": model.name, "model.size": model.size, **fields, "vocab_size": vocabulary,
        "lengths": [target.length], "probes": [target.measure.probe],
        "sweeps": [target.measure.sweep], "processes": [conf.processes or most],
        "seed": conf.seed, "accelerator": conf.accelerator, "unmatched": True,
    }  # fmt: skip
    for name in ("fixed_tokens", "decode_steps"):
        if machine.get(name) is not None:
            settings[name] = machine[name]
    if machine.get("precision") in ("float32", "bfloat16", "float16"):
        settings["precision"] = machine["precision"]
    threads = str(machine.get("threads"))
    if threads.isdigit() and int(threads) <= (psutil.cpu_count() or 1):
        settings["threads"] = threads
    return [f"{name}={_word(name, value)}" for name, value in settings.items()]


def _word(name: str, value: Any) -> str:
    if isinstance(value, str) and value.replace("-", "").replace(".", "").isalnum():
        return value  # the names of models and sizes may not be quoted
    text = json.dumps(value)
    if "${" in text or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{shown(name, 60)}={shown(text, 60)} of the report is no plain value")
    return text


def show(repeats: list[Repeat], said: str, console: Console) -> None:
    """One line for each point, and what is different about this machine."""
    table = Table("point", "there", "here", "verdict")
    for one in repeats:
        ours = _number(one.ours) if one.ours else one.reason
        table.add_row(one.target.words, _number(one.target.theirs), ours, one.verdict)
    console.print(table)
    for difference in dict.fromkeys(line for one in repeats for line in one.differences()):
        console.print(difference)
    console.print(said)


def _number(ratio: Interval) -> str:
    if ratio.value is None:
        return ""
    ends = f" ({ratio.low:.4g} to {ratio.high:.4g})" if ratio.ends else ""
    return f"{ratio.value:.4g}{ends}"
