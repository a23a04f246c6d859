"""Prepare a corpus before any training: `python scripts/prepare.py data=files data.paths=[...]`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("prepare", "scripts.prepare:main")

from dataclasses import replace
from pathlib import Path

from conf.schema import PrepareConf
from core.errors import UserError
from core.units import counted
from core.writable import check_writable, writing
from data.export import write_binidx
from data.mixture import Mixture, heldout, open_data
from data.parts import validation_confs
from data.store import Corpus
from data.tasks.task_data import TaskData


def main(conf: PrepareConf) -> None:
    """Prepare what a training with these words reads, say what it is, write it on request."""
    prefix = Path(conf.binidx) if conf.binidx else None
    if prefix is not None:
        if prefix.is_dir() or str(conf.binidx).endswith("/"):
            raise UserError(
                f"binidx={conf.binidx} is a folder: name the files too, as in "
                f"binidx={prefix / 'train'} for train.bin and train.idx"
            )
        if prefix.suffix in (".bin", ".idx"):
            raise UserError(f"binidx={prefix}: leave out {prefix.suffix}; both files get theirs")
        check_writable(prefix.parent, "binidx")
        for path in (prefix.with_name(f"{prefix.name}.{end}") for end in ("bin", "idx")):
            if path.exists() and not conf.overwrite:
                raise UserError(f"{path} is there already: overwrite=true replaces it")
    # What is written for others is no training: it may be shorter than a sequence.
    data = open_data(replace(conf.data, length=1) if prefix is not None else conf.data)
    if isinstance(data, TaskData):
        raise UserError(f"data={data.name} is made while it is trained on: nothing is prepared")
    if isinstance(data, Mixture):
        for part in sorted(data.parts, key=lambda part: part.name):
            print(f"{part.name}: {described(part.corpus)}")
    else:
        print(described(data))
    if validating := validation_confs(conf.data):
        for text in heldout(conf.data, data):
            if text.name in validating:
                assert isinstance(text.corpus, Corpus)  # a task has been refused
                print(f"{text.name}: {described(text.corpus)}")
    if prefix is not None:
        assert not isinstance(data, Mixture)  # it has been refused
        with writing(prefix, "binidx"):
            count = write_binidx(data, conf.part, prefix)
        print(f"wrote {prefix}.bin and {prefix}.idx: {count:,} tokens")


def described(corpus: Corpus) -> str:
    """Where a prepared corpus lies, and how much of it is there on each side of its split."""
    meta = corpus.meta

    def side(documents: int, tokens: int, learned: int | None) -> str:
        of_which = "" if learned is None else f" ({learned:,} learned)"
        return f"{counted(documents, 'document')} with {tokens:,} tokens{of_which}"

    train = side(meta.train_documents, meta.train_tokens, meta.train_learned)
    val = side(meta.val_documents, meta.val_tokens, meta.val_learned)
    return f"{corpus.folder}: training {train}, validation {val}, vocabulary {meta.vocab_size:,}"
