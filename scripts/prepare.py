"""Prepare a corpus before any training: `python scripts/prepare.py data=files data.paths=[...]`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("prepare", "scripts.prepare:main")

from pathlib import Path

from conf.schema import PrepareConf
from core.errors import UserError
from core.writable import check_writable
from data.export import write_binidx
from data.mixture import Mixture, open_data
from data.tasks.task_data import TaskData


def main(conf: PrepareConf) -> None:
    """Prepare what a training with these words reads, say what it is, write it on request."""
    prefix = Path(conf.binidx) if conf.binidx else None
    if prefix is not None:
        check_writable(prefix.parent, "binidx")
        for path in (prefix.with_name(f"{prefix.name}.{end}") for end in ("bin", "idx")):
            if path.exists() and not conf.overwrite:
                raise UserError(f"{path} is there already: overwrite=true replaces it")
    data = open_data(conf.data)
    if isinstance(data, TaskData):
        raise UserError(f"data={data.name} is made while it is trained on: nothing is prepared")
    for corpus in [part.corpus for part in data.parts] if isinstance(data, Mixture) else [data]:
        meta = corpus.meta
        print(
            f"{corpus.folder}: {meta.train_documents:,} + {meta.val_documents:,} documents, "
            f"{meta.train_tokens:,} + {meta.val_tokens:,} tokens of {meta.vocab_size:,}"
        )
    if prefix is not None:
        assert not isinstance(data, Mixture)  # it has been refused
        count = write_binidx(data, conf.part, prefix)
        print(f"wrote {prefix}.bin and {prefix}.idx: {count:,} tokens")
