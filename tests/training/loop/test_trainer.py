"""What any callback of Lightning's finds in a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from data.store import prepare
from models.ops.backends import build_for
from models.registry import build
from tests.registered_models import spec_of
from tests.training.runs import run, run_conf, write_corpus
from tracking.throughput import Throughput
from training.distributed.local_processes import RankInfo
from training.loop.datamodule import Tokens
from training.loop.module import LanguageModel
from training.loop.monitor import Monitor
from training.loop.quiet_lightning import quiet
from training.loop.trainer import build_trainer


def fitted(
    folder: Path, callback: lightning.Callback, name: str = "rwkv4"
) -> tuple[Any, LanguageModel]:
    """The trainer and module of a run of 8 steps, or fewer, with a callback of Lightning's."""
    conf = run_conf(folder, write_corpus(folder), trainer__val_check_interval=2)
    corpus = prepare(conf.data)
    monitor = Monitor(conf, corpus.meta.val_tokens_per_byte)
    spec = spec_of(name, vocab=corpus.vocab_size)
    lightning.seed_everything(0, verbose=False)
    module = LanguageModel(build(spec), conf.optim, conf.trainer.max_steps)
    with quiet():
        trainer = build_trainer(conf, RankInfo(), [], [monitor, callback], [])
        trainer.fit(module, Tokens(corpus, conf.data, conf.seed, conf.training.val_windows))
    return trainer, module


class Temperatures(lightning.Callback):
    """Those that the first layer had in each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.seen.append(module.model.blocks[0].mixer.temperature)


def test_a_model_that_anneals_knows_how_far_the_training_is(tmp_path: Path) -> None:
    callback = Temperatures()
    fitted(tmp_path, callback, "hull")
    expected = [0.3 * (0.02 / 0.3) ** (step / 8) for step in range(8)]
    assert callback.seen == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["train/loss", "val/loss"])
def test_a_callback_can_monitor_the_losses(tmp_path: Path, metric: str) -> None:
    # The first value that is checked is below the threshold: nothing else could end it there.
    stopping = EarlyStopping(metric, stopping_threshold=1e9, check_on_train_epoch_end=False)
    trainer, module = fitted(tmp_path, stopping)
    assert trainer.global_step == 2
    expected = {"train/loss": float(module.losses[-1]), "val/loss": module.val_loss}
    assert float(trainer.callback_metrics[metric]) == pytest.approx(expected[metric])


def test_lightning_keeps_its_best_checkpoint(tmp_path: Path) -> None:
    saver = ModelCheckpoint(
        tmp_path / "best", "{step}", monitor="val/loss", save_on_train_epoch_end=False
    )
    trainer, module = fitted(tmp_path, saver)
    assert trainer.global_step == 8
    assert saver.best_model_score is not None
    assert float(saver.best_model_score) <= module.val_loss + 1e-6
    assert [str(path) for path in (tmp_path / "best").iterdir()] == [saver.best_model_path]


def test_kernels_are_compiled_before_the_clock_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first use took minutes that counted as seconds, and as cost, of training."""
    events: list[object] = []
    monkeypatch.setattr(
        "training.loop.module.build_for", lambda device, names: events.append((device, [*names]))
    )
    start = Throughput.start
    monkeypatch.setattr(Throughput, "start", lambda self: (events.append("clock"), start(self))[1])
    run(run_conf(tmp_path, write_corpus(tmp_path), trainer__max_steps=1), "rwkv7")
    assert events[:2] == [("cpu", ["pointwise", "wkv7"]), "clock"]
    assert build_for("cpu", ["of a model of somebody else's"]) == {}
