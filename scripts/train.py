"""Train a model, or continue where it stopped: `python scripts/train.py model=rwkv4`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("train", "scripts.train:main")

from typing import Any

from conf.schema import TrainConf
from scripts.cli.model_spec import model_spec
from training.run import train
from training.run_folder.folder import RunFolder
from training.run_folder.naming import default_name
from training.trunk import after_trunk

OBJECTIVES = {
    "val/loss": "val_loss",
    "val/bits_per_byte": "val_bits_per_byte",
    "val/accuracy": "val_accuracy",
    "val/exact_match": "val_exact_match",
}
"""What `objective=` names, in a summary."""
SHARES = ("val/accuracy", "val/exact_match")
"""Those of which a sweeper gets what is missing to 1."""


def main(conf: TrainConf) -> float | None:
    """One run; prints where it lies and how good it is, and returns its `objective`."""
    summary = run(conf)
    if summary is None:  # rank 0 says it
        return None
    folder = RunFolder.of(conf.runs_dir, conf.group, str(conf.name))
    print(
        f"{folder.path}: {summary['parameters']:,} parameters, step {summary['steps']}, "
        f"{_how_good(summary)}"
    )
    value = summary[OBJECTIVES[conf.objective]]
    if value is None:
        return None
    return 1 - float(value) if conf.objective in SHARES else float(value)


def _how_good(summary: dict[str, Any]) -> str:
    """The loss, if there is one, of a text with bits per byte, of a task with what is right."""
    if "val_formed" in summary:
        formed, right = summary["val_formed"], summary["val_exact_match"]
        return f"of the images that it makes {formed:.2%} have all parts, and {right:.2%} are right"
    if summary["val_loss"] is None:
        return "no validation loss: nothing was held out"
    loss = f"validation loss {summary['val_loss']:.4f} nats/token"
    if summary["val_bits_per_byte"] is None:
        exact = f"{summary['val_exact_match']:.2%} of the sequences all right"
        return f"{loss}, {summary['val_accuracy']:.2%} right, {exact}"
    return f"{loss}, {summary['val_bits_per_byte']:.4f} bits/byte"


def run(conf: TrainConf) -> dict[str, Any] | None:
    """Train, continue or find finished the run; its summary, and None in ranks other than 0.

    Gives the run its default name where it has none. Raises as `training.run.train` does.
    """
    spec = model_spec(conf.model, conf.data.vocab_size)
    conf.name = conf.name or default_name(conf, spec.name, spec.size)
    if conf.trunk:
        conf = after_trunk(conf, spec)
    return train(conf, spec, RunFolder.of(conf.runs_dir, conf.group, str(conf.name)))
