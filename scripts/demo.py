"""Two small models trained, measured and reported within minutes: `python scripts/demo.py`.

The stages are the commands a user would type, which are printed as they start. A first answer comes
from the training steps alone; then everything is measured, and again in further processes for as
long as the time allows. Each repetition narrows the intervals, and the same command goes on. Where
other processes compute, fewer processes measure each point at first, and both models train for
fewer steps, equally many.
"""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("demo", "scripts.demo:main", together=True)

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil
import torch

from conf.schema import DataConf, DemoConf
from core.parsing import read_yaml
from core.units import clock
from core.writable import check_writable
from models.ops.backends import build_for
from probes.analysis.costs import PAGE
from probes.analysis.crossovers import comparisons
from probes.analysis.dataset import collect
from probes.analysis.document import PAGES
from probes.report import answer
from scripts.cli.stages import finish, start, terminate
from training.run_folder.folder import check_name

MODELS = ("rwkv4", "transformer")
OPERATORS = ("pointwise", "step", "wkv4")  # whose kernels they use on a CPU
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
EARLY = 1024  # longest context of the first answer
SHORT = 512  # up to here a training step takes little, and its crossover lies near
MORE = 2  # times as many processes for those steps
BUSY = 0.25  # share of the cores that others use from which the machine counts as busy
STEPS = (160, 120, 80, 40)  # of training; as many as the time allows, the first ones if it does
# Time of later stages over that of the first answer's 27 processes for each model, when idle.
TRAINING = (0.6, 0.9)  # its fixed part, and that of STEPS[0] steps
AFTERWARDS = 1.2  # everything in one process, and the report
SHARED = 1.2  # times as much of both where others compute
DOCUMENT = PAGES * PAGE  # tokens that are read once, and written after
READ = 1.6  # of that document: time over that of everything in one process
LONG_STEPS = 0.6  # steps beyond EARLY in two processes: their time over that of everything in one
# Many processes with few repeats: what differs between processes is most of the noise.
SWEEP = ("sweeps=[batch_1]", "decode_steps=16", "repeat_seconds=0.3")
AGAIN, AGAIN_BUSY = 0.25, 0.1  # share of a sweep's time for measuring disturbed points again
SAMPLE = 0.5  # seconds over which the work of others is counted


class Demo:
    """The stages, and the time they have."""

    def __init__(self, conf: DemoConf) -> None:
        self.begin = time.monotonic()
        self.conf = conf
        self.folder = Path(conf.runs_dir, check_name("group", conf.group))
        self.where = (f"group={conf.group}", f"runs_dir={conf.runs_dir}")
        self.stages = 4 + len([*self.sweeps()])
        self.stage = 0
        self.is_busy = psutil.cpu_percent(SAMPLE) / 100 >= BUSY
        self.unit = 0.0
        """Seconds that the first answer takes with `MORE`."""

    @property
    def left(self) -> float:
        """Seconds until the demo should end."""
        return 60 * self.conf.minutes - (time.monotonic() - self.begin)

    def announce(self, title: str) -> None:
        self.stage += 1
        left = f"{clock(self.left)} left" if self.left > 0 else f"{clock(-self.left)} over time"
        print(f"\n[{self.stage}/{self.stages}] {title} ({left})", flush=True)

    def compile(self) -> None:
        """The native kernels of both models, all at once; a machine without a compiler goes on."""
        self.announce("compile the kernels, side by side (20 to 60 s the first time)")
        build_for("cpu", OPERATORS)

    def train(self) -> None:
        """Both models; side by side on a CPU with a core for each, where that wastes least."""
        commands: list[tuple[str, ...]] = [
            ("train", f"experiment=demo_{model}", f"name={model}", *self.where) for model in MODELS
        ]
        together = not torch.cuda.is_available() and torch.get_num_threads() >= len(MODELS)
        how = "side by side, each on its share of the cores" if together else "one after the other"
        steps = self.steps()
        if steps != STEPS[0]:
            how += f", for {steps} steps instead of {STEPS[0]}: more would take too long here"
            commands = [(*command, f"trainer.max_steps={steps}") for command in commands]
        self.announce(f"train {' and '.join(MODELS)}, {how}")
        if together:
            share = torch.get_num_threads() // len(MODELS)
            finish([start(command, threads=share) for command in commands])
        else:
            for command in commands:
                finish([start(command)])

    def steps(self) -> int:
        """Steps of the training that the time allows; those it was begun with, if it was."""
        for model in MODELS:
            config = self.folder / model / "config.yaml"
            if config.is_file():
                return int(read_yaml(config)["trainer"]["max_steps"])
        fixed, varying = TRAINING
        unit = self.unit * (SHARED if self.is_busy else 1.0)
        for steps in STEPS:
            training = fixed + varying * steps / STEPS[0]
            if unit * (training + AFTERWARDS) <= self.left:
                return steps
        return STEPS[-1]

    def measure_steps(self) -> None:
        """Training steps up to the length `EARLY`, in all their processes."""
        lengths = [length for length in LENGTHS if length <= EARLY]
        passes, began = self.conf.passes, time.monotonic()
        full = [passes * (MORE if length <= SHORT else 1) for length in lengths]
        processes = [passes] * len(lengths) if self.is_busy else full
        self._probe(lengths, processes, "probes=[train]")
        self.unit = (time.monotonic() - began) * sum(full) / sum(processes)

    def sweeps(self) -> Iterator[tuple[str, Callable[[], None], float]]:
        """What is measured after the training: title, work, and its time over that of the first.

        What is there already is kept, so each adds processes.
        """
        passes = self.conf.passes
        for number in range(1, passes + 1):
            title = f"measure everything, process {number} of {passes} of every point"
            yield title, partial(self._probe, LENGTHS, [number]), 1.0
            if number == 1 < passes:
                lengths = [length for length in LENGTHS if length > EARLY]
                title = f"measure training steps beyond {EARLY:,} tokens in {passes} processes"
                work = partial(self._probe, lengths, [passes] * len(lengths), "probes=[train]")
                yield title, work, LONG_STEPS
            if number == 1:
                yield f"read {PAGES} pages and write on", self._read, READ

    def _read(self) -> None:
        """Once, without a warm-up: attention takes a while."""
        self._probe([DOCUMENT], [1], "probes=[prefill,decode]", "warmup=0", repeats=1)

    def _probe(
        self, lengths: Sequence[int], processes: Sequence[int], *more: str, repeats: int = 2
    ) -> None:
        models = f"model={','.join(MODELS)}"
        numbers = (
            f"lengths=[{listed(lengths)}]",
            f"processes=[{listed(processes)}]",
            f"repeats={repeats}",
        )
        again = f"remeasure={AGAIN_BUSY if self.is_busy else AGAIN}"
        finish([start(("probe", "-m", models, *self.where, *SWEEP, again, *numbers, *more))])

    def answer(self) -> None:
        """What the rows measured so far say, in one sentence."""
        dataset = collect([self.folder])
        print(f"\nfirst answer: {answer.headline(dataset, comparisons(dataset))}", flush=True)

    def report(self) -> None:
        self.announce("write the report")
        finish([start(("report", f"runs=[{self.folder}]"))])


def main(confs: list[DemoConf]) -> None:
    """Run the stages in order; sweeps that the time does not allow are left out."""
    (conf,) = confs
    signal.signal(signal.SIGTERM, terminate)
    demo = Demo(conf)
    check_places(demo.folder)
    demo.compile()
    demo.announce(f"measure training steps of up to {EARLY:,} tokens, for a first answer")
    demo.measure_steps()
    demo.answer()
    demo.train()
    took = 0.0  # by everything in one process
    for title, work, share in demo.sweeps():
        demo.announce(title)
        if took and demo.left < 1.2 * share * took:  # the first of them always runs
            about = clock(share * took)
            print(f"left out: it would take about {about}; the same command goes on from here")
            continue
        began = time.monotonic()
        work()
        took = max(took, (time.monotonic() - began) / share)
    demo.report()


def check_places(folder: Path) -> None:
    """Raise `UserError` if runs or the prepared text cannot be stored, minutes before they are."""
    check_writable(folder, hint="start the demo with another runs_dir=")
    check_writable(Path(DataConf().cache_dir), hint="start the demo in another folder")


def listed(numbers: Sequence[int]) -> str:
    """`64,128`."""
    return ",".join(map(str, numbers))
