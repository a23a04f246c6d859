"""Train what the evidence page needs, and write the page: `python scripts/evidence.py`.

Each recipe is a multirun of `scripts/train.py` and a group of its own, in wandb too. They run side
by side, a thread each, once costs have been measured alone; the same command goes on where they
were. What each prints goes to a file in `runs/evidence/logs/`, and one line says how many trainings
are left.
"""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("evidence", "scripts.evidence:main", together=True)

import contextlib
import csv
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import IO, Any

import psutil
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from conf.schema import FOLDER, EvidenceConf, WeightsConf
from core.errors import UserError
from core.files import appending, write_text
from core.units import clock
from core.writable import check_writable
from probes.analysis.dataset import Dataset, collect
from probes.analysis.evidence import Outcome, left_out, outcome
from probes.analysis.experiments import BY_NAME, Experiment
from probes.report import evidence_page
from probes.training_runs import TrainingRun, runs_in
from scripts.cli.stages import STOPPED, spelled, start, terminate
from scripts.evaluate import memory_of
from training.checkpoints.open_model import open_model

COSTS = "evidence_costs"
"""Group of the probe's rows."""
COST_WORDS = (
    "model.size=tiny", "vocab_size=512", "lengths=[512,2048]", "sweeps=[batch_1]",
    "probes=[train,decode]", "repeats=3", "repeat_seconds=1", "remeasure=0",
)  # fmt: skip
EVERY = 2.0  # seconds between two looks at what has finished
TOLD = 60.0  # seconds between two lines where there is no terminal
LAST = 3000  # characters of a log that a message shows
WINDOW = 256  # most tokens of a sequence in which it is asked how far back a model remembers


@dataclass
class Job:
    """One recipe, or the measurement of costs, that is to be run."""

    name: str
    command: tuple[str, ...]
    planned: int
    """Trainings that it has."""
    minutes: float
    process: Popen[bytes] | None = None
    status: int | None = None
    log: IO[Any] | None = field(default=None, repr=False)

    def finished(self, runs_dir: str) -> int:
        """How many of its trainings have a summary."""
        if self.name == COSTS:
            return int(self.status == 0)
        return min(self.planned, len(list(Path(runs_dir, self.name).glob("*/summary.json"))))


def main(confs: list[EvidenceConf]) -> None:
    """Run what is left within the time, then write the page."""
    (conf,) = confs
    signal.signal(signal.SIGTERM, terminate)
    out = Path(conf.out or Path(conf.runs_dir, "evidence"))
    check_writable(out, hint="choose another out=")
    failed: list[str] = []
    try:
        if conf.train:
            failed = run(jobs_of(conf), conf, out)
    finally:  # what there is, is shown even where it was stopped
        page = write(conf, out)
        print(f"{page.headline}\nopen {out / 'index.html'}", flush=True)
    if failed:
        raise UserError(
            f"{', '.join(failed)} ended with an error: see {out / 'logs'}; the same command goes on"
        )


def jobs_of(conf: EvidenceConf) -> list[Job]:
    """Everything that is to be run: costs, then the longest first."""
    jobs = []
    recipes = [recipe for name in conf.experiments for recipe in BY_NAME[name].recipes]
    for name, minutes in recipes:
        jobs.append(Job(name, command_of(name, conf), planned_of(name, conf), minutes))
    if conf.costs:
        models = dict.fromkeys(
            model for name, _ in recipes for model in values_of(sweep_of(name)["model"])
        )
        command = ("probe", "-m", f"model={','.join(models)}", f"group={COSTS}",
                   f"runs_dir={conf.runs_dir}", *COST_WORDS)  # fmt: skip
        jobs.append(Job(COSTS, command, 1, 6.0))
    return sorted(jobs, key=lambda job: (job.name != COSTS, -job.minutes))


def sweep_of(name: str) -> dict[str, str]:
    """The keys that a recipe sweeps, with their values: its own over those it stands on."""
    content = yaml.safe_load((FOLDER / "experiment" / f"{name}.yaml").read_text())
    sweep: dict[str, str] = {}
    for base in content.get("defaults", []):
        if isinstance(base, str):
            sweep |= sweep_of(base)
    own = content.get("hydra", {}).get("sweeper", {}).get("params", {})
    return sweep | {key: str(values) for key, values in own.items()}


def planned_of(name: str, conf: EvidenceConf) -> int:
    """Number of trainings of a recipe."""
    sweep = sweep_of(name)
    given = dict(word.split("=", 1) for word in conf.words if "=" in word)
    return math.prod(len(values_of(given.get(key, values))) for key, values in sweep.items())


def values_of(text: str) -> list[str]:
    """`a,'b,c'` as a and b,c."""
    return next(csv.reader([text], quotechar="'"))


def command_of(name: str, conf: EvidenceConf) -> tuple[str, ...]:
    """The command of a recipe's trainings."""
    place = () if conf.runs_dir == "runs" else (f"runs_dir={conf.runs_dir}",)
    return ("train", "-m", f"experiment={name}", *place, *conf.words)


def run(jobs: Sequence[Job], conf: EvidenceConf, out: Path) -> list[str]:
    """Run the jobs side by side until they have ended or the time has; the names that failed."""
    cores = psutil.cpu_count(logical=False) or 1
    workers = conf.workers or (1 if torch.cuda.is_available() else cores)
    (out / "logs").mkdir(parents=True, exist_ok=True)
    # Finished ones too: what lies there may be of other settings, and each tells in seconds.
    waiting = list(jobs)
    display, began, stopping = Display(jobs, conf), time.monotonic(), False
    try:
        while waiting or any(job.status is None and job.process for job in jobs):
            running = [job for job in jobs if job.process and job.status is None]
            if not stopping and time.monotonic() - began > 60 * conf.minutes:
                stopping, waiting = True, []
                for job in running:
                    job.process.terminate()  # type: ignore[union-attr]
            while waiting and len(running) < workers and COSTS not in [job.name for job in running]:
                job = waiting.pop(0)
                job.log = appending(out / "logs" / f"{job.name}.txt")
                threads = None if job.name == COSTS else 1  # it has the machine to itself
                job.process = start(job.command, threads=threads, output=job.log)
                running.append(job)
            for job in running:
                job.status = job.process.poll()  # type: ignore[union-attr]
            display.show()
            time.sleep(EVERY)
    except (KeyboardInterrupt, SystemExit) as stop:
        for job in jobs:
            if job.process and job.status is None:
                if isinstance(stop, SystemExit):  # Ctrl-C has reached them already
                    job.process.terminate()
                job.process.wait()
        raise
    finally:
        display.close()
        for job in jobs:
            if job.log:
                job.log.close()
    if stopping:
        print(f"stopped after {conf.minutes:g} minutes; the same command goes on", flush=True)
    return [job.name for job in jobs if job.status not in (None, 0, *STOPPED, -signal.SIGTERM)]


class Display:
    """One line: trainings that have finished, what runs, and the time left."""

    def __init__(self, jobs: Sequence[Job], conf: EvidenceConf) -> None:
        self._jobs, self._runs_dir = jobs, conf.runs_dir
        self._console, self._began, self._told = Console(stderr=True), time.monotonic(), -TOLD
        self._before = self._work()
        self._progress = Progress(
            TextColumn("evidence"), BarColumn(), TextColumn("{task.fields[text]}"),
            console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=sum(job.minutes for job in jobs), text="")
        self._progress.start()

    def _work(self) -> float:
        """Minutes of work that are done, as planned for an idle core."""
        return sum(job.minutes * job.finished(self._runs_dir) / job.planned for job in self._jobs)

    def text(self) -> str:
        """`34 of 210 trainings, about 41 min left: recall, copying`."""
        done = sum(job.finished(self._runs_dir) for job in self._jobs)
        every = sum(job.planned for job in self._jobs)
        running = [job.name for job in self._jobs if job.process and job.status is None]
        work, spent = self._work() - self._before, time.monotonic() - self._began
        rest = sum(job.minutes for job in self._jobs) - self._before - work
        left = f", about {clock(spent * rest / work)} left" if work > 0 else ""
        return f"{done} of {every} done{left}: {', '.join(running)}"

    def show(self) -> None:
        self._progress.update(self._task, completed=self._work(), text=self.text())
        now = time.monotonic()
        if not self._console.is_terminal and now - self._told >= TOLD:
            print(f"evidence  {self.text()}", file=sys.stderr, flush=True)
            self._told = now

    def close(self) -> None:
        self._progress.stop()


def write(conf: EvidenceConf, out: Path) -> evidence_page.Page:
    """The page and its record, of whatever there is."""
    shown = [BY_NAME[name] for name in conf.experiments]
    runs = {
        one.name: [run for group, _ in one.recipes for run in runs_in(Path(conf.runs_dir, group))]
        for one in shown
    }
    outcomes = {one.name: outcome_of(one, runs[one.name], conf) for one in shown}
    commands = {
        one.name: [spelled(command_of(recipe, conf)) for recipe, _ in one.recipes] for one in shown
    }
    costs, warnings = costs_of(Path(conf.runs_dir, COSTS))
    problems = [problem for group in runs.values() for run in group if (problem := left_out(run))]
    facts = facts_of(outcomes)
    memories, unread = memories_of(outcomes)
    page = evidence_page.page(
        outcomes, commands, costs, facts, (*warnings, *problems, *unread), memories
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "evidence.json", json.dumps(page.plain(), indent=2) + "\n")
    write_text(out / "index.html", evidence_page.html(page))
    return page


def outcome_of(experiment: Experiment, runs: Sequence[TrainingRun], conf: EvidenceConf) -> Outcome:
    """What the finished trainings of an experiment show."""
    planned = sum(planned_of(recipe, conf) for recipe, _ in experiment.recipes)
    return outcome(runs, experiment.claims, experiment.main, planned)


def memories_of(
    outcomes: dict[str, Outcome],
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[str]]:
    """By experiment and model, how far back the first run of its best rate remembers; and, a
    message each, those whose weights cannot be read."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    problems = []
    for name in evidence_page.REMEMBERING:
        for one in outcomes[name].contestants if name in outcomes else ():
            place = str(one.best.runs[0].path)
            try:
                opened = open_model(WeightsConf(run=place, accelerator="cpu"))
                found.setdefault(name, {})[one.label] = memory_of(opened, WINDOW)
            except UserError as error:
                problems.append(f"{place}: left out of what is remembered: {error}")
    return found, problems


def costs_of(folder: Path) -> tuple[Dataset | None, tuple[str, ...]]:
    """The probe's rows, if there are any, and what is wrong with them."""
    if not (folder / "probes.jsonl").is_file():
        return None, ()
    with contextlib.suppress(UserError):
        dataset = collect([folder])
        return dataset, dataset.damaged
    return None, (f"{folder} cannot be read: costs are left out",)


def facts_of(outcomes: dict[str, Outcome]) -> list[str]:
    """What the page says of all trainings together."""
    trainings = sum(one.finished for one in outcomes.values())
    return [f"{trainings} trainings", f"PyTorch {torch.__version__}"]
