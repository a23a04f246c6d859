"""What the shared training loop costs over a bare PyTorch loop, and what saving costs within it:
`python benchmarks/loop.py`.

Both run the same model on the same batches with the same optimizer, schedule and clipping, in
alternating rounds of one process, so that drift of the machine falls on both. The model is
nanoGPT's preset for a CPU. Prints a table in Markdown, and what the monitor alone costs: it is
switched on and off in turns of the same training.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.loop:main")


import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, thread_time
from typing import Any

import lightning
import torch

from conf.schema import CheckpointConf, DataConf, TrainConf, TrainerConf
from core.environment import commit, cpu_name
from core.stop_signals import Signals
from data.batches import Batches
from data.store import Corpus, prepare
from models.registry import ModelSpec, build
from tracking.lightning_loggers import JsonlLogger
from tracking.throughput import Throughput
from training.checkpoints.starting_point import Start
from training.distributed.local_processes import RankInfo
from training.loop.datamodule import Tokens
from training.loop.module import LanguageModel
from training.loop.monitor import Monitor
from training.loop.optim import build_optimizer, build_schedule
from training.loop.quiet_lightning import quiet
from training.loop.trainer import build_trainer
from training.run import Run
from training.run_folder.folder import RunFolder

PRESETS: dict[str, dict[str, Any]] = {
    "gpt": {"target": "models.gpt.GPT", "n_head": 4, "n_positions": 64},
    "rwkv4": {"target": "models.rwkv4.RWKV4"},
}


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", help="a text file; default: Python's standard library")
    parser.add_argument("--steps", type=int, default=200, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    data = DataConf(corpus="stdlib", tokenizer="bytes", length=64, batch_size=12)
    if arguments.text:
        data.corpus, data.paths, data.tokenizer = "text", [arguments.text], "chars"
        data.val_fraction = 0.1
    corpus = prepare(data)
    conf = TrainConf(
        data=data,
        trainer=TrainerConf(
            max_steps=arguments.steps,
            accelerator="cpu",
            log_every_n_steps=100,
            val_check_interval=0,
            enable_progress_bar=False,
        ),
        checkpoint=CheckpointConf(every_n_train_steps=10 * arguments.steps),
    )
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {commit()}")
    print("\n| model | bare loop, ms/step | shared loop, ms/step | ratio (min to max) |")
    print("|---|--:|--:|--:|")
    for name, preset in PRESETS.items():
        print(compare(name, preset, conf, corpus, arguments.rounds), flush=True)
    print("\n| model | ms/step | on / off, median of pairs (middle half) | CPU share |")
    print("|---|--:|--:|--:|")
    for name, preset in PRESETS.items():
        print(monitor_cost(name, preset, conf, corpus, 2 * arguments.rounds * arguments.steps))
    conf.checkpoint.every_n_train_steps = CheckpointConf().every_n_train_steps
    conf.trainer.max_steps = 5 * conf.checkpoint.every_n_train_steps
    print("\n| model | parameters | saves | loop held up, ms/save | share of the time |")
    print("|---|--:|--:|--:|--:|")
    for name, preset in PRESETS.items():
        for width in (128, 256):
            print(saving(name, preset, conf, corpus, width), flush=True)


TURN = 20
"""Steps with the monitor on, or off, in a row: two rows of metrics at the default `log_every`."""


class Switched(lightning.Callback):
    """The monitor in every second turn of steps, and a clock around all of them."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor, self.turns = monitor, [0.0]
        self.inside = self.spent = 0.0
        """CPU seconds of this thread: in the monitor, and in all turns with it."""
        self._began = self._cpu = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.monitor.on_train_start(trainer, pl_module)
        self._began, self._cpu = perf_counter(), thread_time()

    def on_train_batch_start(self, *args: Any) -> None:
        if len(self.turns) % 2:
            self.monitor.on_train_batch_start(*args)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        if len(self.turns) % 2:
            before = thread_time()
            self.monitor.on_train_batch_end(trainer, pl_module, *args)
            self.inside += thread_time() - before
        if trainer.global_step % TURN == 0:
            now = perf_counter()
            self.turns[-1], self._began = (now - self._began) / TURN, now
            cpu = thread_time()
            self.spent += (cpu - self._cpu) * (len(self.turns) % 2)
            self._cpu = cpu
            self.turns.append(0.0)


def monitor_cost(
    name: str, preset: dict[str, Any], conf: TrainConf, corpus: Corpus, steps: int
) -> str:
    """One row: seconds per step with the monitor over those of the next turn without it."""
    conf = replace(
        conf,
        trainer=replace(
            conf.trainer, max_steps=steps, log_every_n_steps=TrainerConf().log_every_n_steps
        ),
    )
    lightning.seed_everything(conf.seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder, quiet():
        switched = Switched(Monitor(conf, corpus.meta.val_tokens_per_byte))
        metrics = JsonlLogger(Path(folder) / "metrics.jsonl")
        trainer = build_trainer(conf, RankInfo(), [metrics], [switched], [])
        module = LanguageModel(build(spec_of(name, preset, corpus)), conf.optim, steps)
        trainer.fit(module, Tokens(corpus, conf.data, conf.seed, 1))
    on, off = switched.turns[2:-1:2], switched.turns[3:-1:2]  # the first pair warms up
    ratios = [with_monitor / without for with_monitor, without in zip(on, off, strict=False)]
    low, middle, high = quantiles(ratios, n=4)
    share = f"{switched.inside / switched.spent:.3%}"
    return (
        f"| {name} | {1e3 * median(off):.2f} | {middle:.4f} ({low:.4f} to {high:.4f}) | {share} |"
    )


def spec_of(name: str, preset: dict[str, Any], corpus: Corpus, width: int = 128) -> ModelSpec:
    """The preset with the corpus's vocabulary."""
    fields = {key: value for key, value in preset.items() if key != "target"}
    config = {"vocab_size": corpus.vocab_size, "n_layer": 4, "n_embd": width, **fields}
    return ModelSpec(name, "nano", preset["target"], config)


def compare(name: str, preset: dict[str, Any], conf: TrainConf, corpus: Corpus, rounds: int) -> str:
    """One row of the table: medians over the rounds, ratio round by round."""
    spec = spec_of(name, preset, corpus)
    bare, shared = [], []
    for _ in range(rounds):
        bare.append(bare_loop(spec, conf, corpus))
        shared.append(shared_loop(spec, conf)[0])
    ratios = [ours / theirs for ours, theirs in zip(shared, bare, strict=True)]
    return (
        f"| {name} | {1e3 * median(bare):.2f} | {1e3 * median(shared):.2f} | "
        f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
    )


def saving(name: str, preset: dict[str, Any], conf: TrainConf, corpus: Corpus, width: int) -> str:
    """One row of the second table: saving at the default interval, in the shared loop.

    The loop is held up while the state is copied, and at the end until the last file is safe.
    """
    spec = spec_of(name, preset, corpus, width)
    model: Any = build(spec)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    step, held = shared_loop(spec, conf)
    saves = conf.trainer.max_steps // conf.checkpoint.every_n_train_steps
    share = held / (held + step * conf.trainer.max_steps)
    return f"| {name} | {parameters:,} | {saves} | {1e3 * held / saves:.1f} | {100 * share:.2f} % |"


def bare_loop(spec: ModelSpec, conf: TrainConf, corpus: Corpus) -> float:
    """Seconds per step of the loop one would write by hand."""
    lightning.seed_everything(conf.seed, verbose=False)
    model: Any = build(spec)
    optimizer = build_optimizer(model, conf.optim)
    schedule = build_schedule(optimizer, conf.trainer.max_steps, conf.optim)
    batches, meter = Batches(corpus, conf.data, conf.seed), Throughput()
    meter.start()
    for step in range(conf.trainer.max_steps):
        batch = batches[step]
        loss, _ = model.loss(batch[:, :-1], batch[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), conf.trainer.gradient_clip_val)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        meter.step(1)
    return meter.seconds / meter.tokens


def shared_loop(spec: ModelSpec, conf: TrainConf) -> tuple[float, float]:
    """Seconds per step of `training.run`, with its loggers and callbacks, without saving; and the
    seconds for which saving held it up."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = JsonlLogger(Path(folder) / "metrics.jsonl")
        fitted = Run(conf, spec, RunFolder(Path(folder))).fit(Start(None), Signals(), [metrics])
    throughput = fitted.monitor.throughput
    steps = throughput.tokens / (conf.data.batch_size * conf.data.length)
    return throughput.seconds / steps, fitted.saver.seconds
