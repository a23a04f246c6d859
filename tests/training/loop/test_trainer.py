"""What any callback of Lightning's finds in a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning
import pytest
from lightning.pytorch.callbacks import EarlyStopping

from data.store import prepare
from models.registry import build
from tests.registered_models import spec_of
from tests.training.runs import run_conf, write_corpus
from training.distributed.local_processes import RankInfo
from training.loop.datamodule import Tokens
from training.loop.module import LanguageModel
from training.loop.monitor import Monitor
from training.loop.quiet_lightning import quiet
from training.loop.trainer import build_trainer


@pytest.mark.parametrize("metric", ["train/loss", "val/loss"])
def test_a_callback_can_monitor_the_losses(tmp_path: Path, metric: str) -> None:
    conf = run_conf(tmp_path, write_corpus(tmp_path), trainer__val_check_interval=2)
    corpus = prepare(conf.data)
    # The first value that is checked is below the threshold: nothing else could end it there.
    stopping = EarlyStopping(metric, stopping_threshold=1e9, check_on_train_epoch_end=False)
    monitor = Monitor(conf, corpus.meta.val_tokens_per_byte)
    with quiet():
        trainer = build_trainer(conf, RankInfo(), [], [monitor, stopping], [])
    lightning.seed_everything(0, verbose=False)
    spec = spec_of("rwkv4")
    model = build(replace(spec, config={**spec.config, "vocab_size": corpus.vocab_size}))
    module = LanguageModel(model, conf.optim, conf.trainer.max_steps)
    with quiet():
        trainer.fit(module, Tokens(corpus, conf.data, conf.seed, conf.training.val_windows))
    assert trainer.global_step == 2 < conf.trainer.max_steps
    expected = {"train/loss": float(module.losses[-1]), "val/loss": module.val_loss}
    assert float(trainer.callback_metrics[metric]) == pytest.approx(expected[metric])
