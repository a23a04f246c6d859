"""Train a contestant, or continue where it stopped: `python scripts/train.py model=rwkv4`."""

from __future__ import annotations

from conf.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("train", "scripts.train:main")

from conf.model_spec import model_spec
from conf.schema import TrainConf
from training.folder import RunFolder
from training.naming import default_name
from training.run import train


def main(conf: TrainConf) -> None:
    """One run; prints where it lies and how good it is."""
    spec = model_spec(conf.model, conf.data.vocab_size)
    conf.name = conf.name or default_name(conf, spec.name, spec.size)
    folder = RunFolder.of(conf.runs_dir, conf.group, conf.name)
    summary = train(conf, spec, folder)
    if summary is None:  # process 0 says it
        return
    print(
        f"{folder.path}: {summary['parameters']:,} parameters, step {summary['steps']}, "
        f"validation loss {summary['val_loss']:.4f} nats/token, "
        f"{summary['val_bits_per_byte']:.4f} bits/byte"
    )
