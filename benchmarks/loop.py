"""What the shared training loop costs over a bare PyTorch loop, and what saving costs within it:
`python benchmarks/loop.py`.

Both run the same model on the same batches with the same optimizer, schedule and clipping, in
turns. The model is nanoGPT's preset for a CPU. What the monitor alone costs is told apart by
switching it on and off in turns of the same training; so is, with `--off`, what remains of a
training's callbacks where profile, samples, figures, rows and saves are all switched off.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.loop:main")


import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import lightning
import numpy as np
import torch
import yaml

from benchmarks.harness import Row, Samples, interleave, parse, parser, publish, table
from conf.schema import FOLDER, CheckpointConf, DataConf, TrainConf, TrainerConf
from core.stop_signals import Signals
from data.batches import Batches
from data.store import Corpus, prepare
from models.registry import ModelSpec, build
from scripts.cli.model_spec import model_spec
from tracking.lightning_loggers import JsonlLogger
from tracking.throughput import Throughput
from training.checkpoints.callback import Checkpointer
from training.checkpoints.starting_point import Start
from training.distributed.local_processes import RankInfo
from training.loop.datamodule import Tokens
from training.loop.module import LanguageModel
from training.loop.monitor import Monitor
from training.loop.optim import build_optimizer
from training.loop.quiet_lightning import quiet
from training.loop.schedules import build_schedule
from training.loop.trainer import build_trainer
from training.run import Run
from training.run_folder.folder import RunFolder

PRESETS: dict[str, dict[str, Any]] = {
    "gpt": {"target": "models.gpt.GPT", "n_head": 4, "n_positions": 64},
    "rwkv4": {"target": "models.rwkv4.RWKV4"},
}


def main() -> None:
    """Run the rounds and print the tables."""
    made = parser(__doc__, rounds=5)
    made.add_argument("--text", help="a text file; default: Python's standard library")
    made.add_argument("--steps", type=int, default=200, help="of one round")
    made.add_argument(
        "--off", nargs="*", metavar="MODEL-SIZE", help="measure only this, of presets"
    )
    arguments = parse(made)
    rounds, steps = arguments.rounds, arguments.steps
    data = DataConf(corpus="stdlib", tokenizer="bytes", length=64, batch_size=12)
    if arguments.text:
        data.corpus, data.paths, data.tokenizer = "text", [arguments.text], "chars"
        data.val_fraction = 0.1
    corpus = prepare(data)
    conf = training_of(data, steps, every=10 * steps)
    if arguments.off:
        rows = (switched_off(name, corpus, rounds * steps) for name in arguments.off)
        columns = ("model", "steps", "ms/step", "with / without, median of pairs", "95 % interval",
                   "CPU share")  # fmt: skip
        publish("Switched off", table(columns, rows), arguments=arguments)
        return
    every = CheckpointConf().every_n_train_steps
    saved = training_of(data, 5 * every, every)
    publish(
        "The shared training loop",
        table(
            ("model", "bare loop, ms/step", "shared loop, ms/step", "ratio (min to max)"),
            (compare(name, conf, corpus, rounds) for name in PRESETS),
        ),
        table(
            ("model", "ms/step", "on / off, median of pairs (middle half)", "CPU share"),
            (monitor_cost(name, conf, corpus, 2 * rounds * steps) for name in PRESETS),
        ),
        table(
            ("model", "parameters", "saves", "loop held up, ms/save", "share of the time"),
            (saving(name, saved, corpus, width) for name in PRESETS for width in (128, 256)),
        ),
        arguments=arguments,
    )


def training_of(data: DataConf, steps: int, every: int) -> TrainConf:
    """A training of so many steps that saves after `every` of them and evaluates nothing."""
    trainer = TrainerConf(
        max_steps=steps,
        accelerator="cpu",
        log_every_n_steps=100,
        val_check_interval=0,
        enable_progress_bar=False,
    )
    checkpoint = CheckpointConf(every_n_train_steps=every)
    return TrainConf(data=data, trainer=trainer, checkpoint=checkpoint)


TURN = 20
"""Steps with the monitor on, or off, in a row: two rows of metrics at the default `log_every`."""


class Switched(lightning.Callback):
    """Callbacks in every second turn of steps, and a clock around all of them."""

    def __init__(self, *callbacks: lightning.Callback, turn: int) -> None:
        self.callbacks, self.turn, self.turns = callbacks, turn, [0.0]
        self.inside = self.spent = 0.0
        """CPU seconds of this thread: in the callbacks, and in all turns with them."""
        self._began = self._cpu = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        for callback in self.callbacks:
            callback.on_train_start(trainer, pl_module)
        self._began, self._cpu = perf_counter(), thread_time()

    def _call(self, hook: str, *args: Any) -> None:
        if len(self.turns) % 2:
            before = thread_time()
            for callback in self.callbacks:
                getattr(callback, hook)(*args)
            self.inside += thread_time() - before

    def on_train_batch_start(self, *args: Any) -> None:
        self._call("on_train_batch_start", *args)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        self._call("on_train_batch_end", trainer, pl_module, *args)
        if trainer.global_step % self.turn == 0:
            now = perf_counter()
            self.turns[-1], self._began = (now - self._began) / self.turn, now
            cpu = thread_time()
            self.spent += (cpu - self._cpu) * (len(self.turns) % 2)
            self._cpu = cpu
            self.turns.append(0.0)

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Seconds per step of each turn with the callbacks, and of the next one without; the first
        two warm up."""
        return list(zip(self.turns[2:-1:2], self.turns[3:-1:2], strict=False))


def switched_off(preset: str, corpus: Corpus, steps: int) -> Row:
    """What the monitor and the saver of a training cost per step where nothing is asked of them: no
    profile, samples, figures, rows of metrics or saves; two steps with them, two without."""
    name, _, size = preset.partition("-")
    group = yaml.safe_load((FOLDER / "model" / f"{name}.yaml").read_text())
    spec = model_spec({**group, "size": size}, corpus.vocab_size)
    data = DataConf(length=128, batch_size=1)
    trainer = TrainerConf(max_steps=steps, accelerator="cpu", log_every_n_steps=10**9,
                          val_check_interval=0, enable_progress_bar=False)  # fmt: skip
    conf = TrainConf(data=data, trainer=trainer, checkpoint=CheckpointConf(every_n_train_steps=0))
    lightning.seed_everything(conf.seed, verbose=False)
    with tempfile.TemporaryDirectory() as place, quiet():
        folder = RunFolder(Path(place))
        monitor = Monitor(conf, corpus.meta.val_tokens_per_byte)
        saver = Checkpointer(folder, conf, {}, {}, Signals(), RankInfo(), None)
        module = LanguageModel(build(spec), conf.optim, steps)
        switched = Switched(monitor, saver, turn=2)
        fitted = build_trainer(conf, RankInfo(), [], [switched], [])
        fitted.fit(module, Tokens(corpus, conf.data, conf.seed, 1))
        saver.close()
    ratios = np.array([on / off for on, off in switched.pairs])
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    milliseconds = 1e3 * float(np.median([off for _, off in switched.pairs]))
    cells = (f"{steps:,}", f"{milliseconds:.2f}", f"{np.median(ratios):.4f}",
             f"{low:.4f} to {high:.4f}", f"{switched.inside / switched.spent:.3%}")  # fmt: skip
    return Row(preset, cells)


def monitor_cost(name: str, conf: TrainConf, corpus: Corpus, steps: int) -> Row:
    """Seconds per step with the monitor over those of the next turn without it."""
    every = TrainerConf().log_every_n_steps
    conf = replace(conf, trainer=replace(conf.trainer, max_steps=steps, log_every_n_steps=every))
    lightning.seed_everything(conf.seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder, quiet():
        switched = Switched(Monitor(conf, corpus.meta.val_tokens_per_byte), turn=TURN)
        metrics = JsonlLogger(Path(folder) / "metrics.jsonl")
        trainer = build_trainer(conf, RankInfo(), [metrics], [switched], [])
        module = LanguageModel(build(spec_of(name, corpus)), conf.optim, steps)
        trainer.fit(module, Tokens(corpus, conf.data, conf.seed, 1))
    on, off = (Samples(turns) for turns in zip(*switched.pairs, strict=True))
    share = f"{switched.inside / switched.spent:.3%}"
    return Row(name, (f"{1e3 * off.median:.2f}", on.over(off).middle(".4f"), share))


def spec_of(name: str, corpus: Corpus, width: int = 128) -> ModelSpec:
    """The preset with the corpus's vocabulary."""
    config = {"vocab_size": corpus.vocab_size, "n_layer": 4, "n_embd": width, **PRESETS[name]}
    target = config.pop("target")
    return ModelSpec(name, "nano", target, config)


def compare(name: str, conf: TrainConf, corpus: Corpus, rounds: int) -> Row:
    """Medians over the rounds, and the ratio round by round."""
    spec = spec_of(name, corpus)
    pieces = {
        "bare": lambda: bare_loop(spec, conf, corpus),
        "shared": lambda: shared_loop(spec, conf)[0],
    }
    seconds = interleave(pieces, rounds, warmup=0)
    times = [f"{1e3 * seconds[which].median:.2f}" for which in pieces]
    return Row(name, (*times, seconds["shared"].over(seconds["bare"]).spread(".3f")))


def saving(name: str, conf: TrainConf, corpus: Corpus, width: int) -> Row:
    """Saving at the default interval, in the shared loop.

    The loop is held up while the state is copied, and at the end until the last file is safe.
    """
    spec = spec_of(name, corpus, width)
    model: Any = build(spec)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    step, held = shared_loop(spec, conf)
    saves = conf.trainer.max_steps // conf.checkpoint.every_n_train_steps
    share = 100 * held / (held + step * conf.trainer.max_steps)
    figures = (f"{parameters:,}", f"{saves}", f"{1e3 * held / saves:.1f}", f"{share:.2f} %")
    return Row(name, figures)


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
