"""Is anything ever lost? `python -m tests.faults.torture runs=100`.

Interrupts small trainings at random instants, damages their checkpoints, fills the disk, and feeds
bad command lines and damaged, foreign and malicious files of every kind that is read; then the same
command must end in the same bits, or a plain message must say why not. Prints a table; the exit
status is 1 if anything was lost.
"""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("torture", "tests.faults.torture:main", together=True)


import itertools
import math
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch

from conf.schema import TortureConf
from scripts.cli.console import CRASHED
from tests.faults import corpora, edges, places, reports, runs
from tests.faults.checkpoints import WAYS, corrupt
from tests.faults.refusals import command_lines, weight_files
from tests.faults.trainings import VARIANTS, Lab, Reference, Tally
from tests.faults.trial import Trials

SHOWN = 10  # losses of one kind that are printed


@dataclass(frozen=True)
class Kind:
    """Inputs that are generated from their formats, one trial each."""

    name: str
    """Among `conf.schema.FAULTS`."""
    told: str
    share: float
    """Trials, as a multiple of `runs`."""
    trials: Trials


KINDS = (
    Kind("edges", "command lines at and beyond the edges of every key's type", 10, edges.trials),
    Kind("corpora", "damaged or hostile prepared corpora, texts, tokenizers", 2, corpora.trials),
    Kind("runs", "damaged, foreign or hostile files in the folder of a run", 1.5, runs.trials),
    Kind("reports", "damaged or hostile rows and trainings given to the report", 1, reports.trials),
    Kind("places", "places that cannot be written or read", 0.6, places.trials),
)


def main(confs: list[TortureConf]) -> None:
    """Provoke every kind of fault that was asked for, and say what was lost."""
    (conf,) = confs
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    begin = time.monotonic()
    tallies = []
    for tally in torture(conf, folder):
        print(f"{row(tally)}   ({time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
        for problem in tally.lost[:SHOWN]:
            print(f"  lost: {problem}", file=sys.stderr)
        tallies.append(tally)
    print("| fault | tried | lost |\n|---|--:|--:|")
    print("\n".join(map(row, tallies)))
    print(f"\n{circumstances(conf, time.monotonic() - begin)}")
    if any(tally.lost for tally in tallies):
        print(f"what was lost lies in {folder}", file=sys.stderr)
        sys.exit(CRASHED)
    shutil.rmtree(folder)


def torture(conf: TortureConf, folder: Path) -> Iterator[Tally]:
    """A tally for each kind of fault, as it is done."""
    lab = Lab(folder / "lab", conf.seed)
    references: list[Reference] = []

    def repeated(fault: str, count: float, trial: Callable[[Reference], str | None]) -> Tally:
        if not references:
            references.extend(map(lab.reference, VARIANTS[: conf.runs]))
        tally = Tally(fault)
        for number in range(math.ceil(count)):
            tally.count(trial(references[number % len(references)]))
        return tally

    if "kill" in conf.faults:
        yield repeated("SIGKILL at a random instant, then the same command", conf.runs, lab.kill)
    if "terminate" in conf.faults:
        yield repeated("SIGTERM at a random instant", conf.runs / 2, lab.terminate)
    if "corrupt" in conf.faults:
        ways = itertools.cycle(WAYS)
        halted = Halted(lab)
        yield repeated(
            "newest checkpoint corrupted, in ten ways",
            conf.runs / 2,
            lambda reference: corrupt(lab, reference, halted.of(reference), next(ways)),
        )
    if "disk" in conf.faults:
        halted = Halted(lab)
        yield repeated(
            "disk full (a size limit) during a save",
            conf.runs / 5,
            lambda reference: lab.disk_full(reference, halted.of(reference)),
        )
    if "lines" in conf.faults:
        tally = Tally("bad configurations and command lines, generated from the schema")
        command_lines(5 * conf.runs, conf.seed, folder, tally)
        yield tally
    for kind in (one for one in KINDS if one.name in conf.faults):
        tally = Tally(kind.told)
        own = folder / kind.name
        own.mkdir(parents=True)
        for description, problem in kind.trials(math.ceil(kind.share * conf.runs), conf.seed, own):
            tally.count(problem and f"{description}: {problem}")
        yield tally
    if "weights" in conf.faults:
        tally = Tally("malicious or foreign weight files")
        weight_files(folder, tally)
        yield tally


class Halted:
    """One stopped training of each kind, made when first asked for; trials copy it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._runs: dict[str, Path] = {}

    def of(self, reference: Reference) -> Path:
        key = reference.digest
        if key not in self._runs:
            self._runs[key] = self._lab.stopped(reference)
        return self._runs[key]


def row(tally: Tally) -> str:
    return f"| {tally.fault} | {tally.tried} | {len(tally.lost)} |"


def circumstances(conf: TortureConf, seconds: float) -> str:
    """When, with what and how, in one line."""
    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.system()} on {platform.machine()}, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"Lightning {lightning.__version__}, {seconds / 60:.1f} minutes: "
        f"`python -m tests.faults.torture runs={conf.runs} seed={conf.seed}`"
    )
