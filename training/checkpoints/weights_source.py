"""Where weights come from: a run's newest checkpoint, or any file or directory of weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import inside, own_digest
from core.parsing import Unreadable, plain, read_object, read_yaml
from data import foreign, tokenizer_files
from data.rwkv_world_tokenizer import VOCABULARY
from data.text import TextTokenizer
from models.formats.crossover import KEY, content_of, part
from models.formats.run_checkpoints import PATTERN, is_sharded
from tracking.configuration import flatten, today
from training.checkpoints.find import newest, step_of
from training.run_folder.begun import Begun, is_parent
from training.run_folder.folder import RunFolder, find_place
from training.run_folder.identity import TOKENIZER, another_model, another_run, deciding

SAMPLE = "In 1984, the user's 3 tests (all of them) didn't pass.\n\n\tdef f(x): return x + 10"
"""A text that different vocabularies hardly encode alike, in characters that all of them have."""


@dataclass(frozen=True)
class Source:
    """A path for `models.load`, and the tokenizer that lies with it, if one does."""

    weights: Path
    tokenizer: Path | None


def find_source(key: str, name: str, runs_dir: str) -> Source:
    """The run called `name` below `runs_dir`, or the run folder, file or directory of that path.

    Raises `UserError`, naming the configuration's `key`, if there is none, it has no checkpoint, or
    that is of another run than the one that is named.
    """
    path = find_place(key, name, runs_dir)
    if (path / "checkpoints").is_dir():
        folder = RunFolder(path)
        if (checkpoint := newest(folder)) is None:
            raise UserError(f"{folder.path} has no checkpoint yet: train it first")
        check_own(key, checkpoint)
        return Source(checkpoint, _if_file(folder.tokenizer))
    if path.is_dir() and not is_sharded(path):
        # RWKV's own vocabulary, which says more than what others make of it.
        vocabulary = _if_file(path / VOCABULARY) or _if_file(path / "tokenizer.json")
        others = None if tokenizer_files.find(path) is None else path
        return Source(path, vocabulary or others)
    if path.suffix == ".ckpt":
        if path != Path(name):  # RUN@STEP
            check_own(key, path)
        return Source(path, _if_file(RunFolder(path.parent.parent).tokenizer))
    return Source(path, None)


def check_own(key: str, path: Path) -> None:
    """Raise `UserError` if a checkpoint is of another run than the one in whose folder it lies.

    A resuming run asks the same (`check_continues`). Here the folder answers: its configuration,
    with which checkpoint it began, and of which corpus its summary is. What it does not say is not
    asked, and nothing is asked of a file that is named itself.
    """
    folder = RunFolder(path.parent.parent)
    try:
        described, begun = read_yaml(folder.config), Begun.read(folder)
        content = content_of(path)
        run, model, left = (
            plain(part(content, KEY, *keys))
            for keys in (("run",), ("identity", "model"), ("ledger", "parent"))
        )
        corpus = part(content, KEY, "identity", "data")
    except (UserError, KeyError, ValueError):  # older, or told of where more is read of it
        return
    known = all(isinstance(each, dict) for each in (run, model, described.get("model")))
    if not known or not (left is None or is_parent(left)):
        return
    ours = deciding(today(flatten(described))) | {TOKENIZER: run.get(TOKENIZER)}
    theirs: dict[str, Any] = {
        "crossover": {"run": run, "ledger": {"parent": left}},
        "global_step": step_of(path),
    }
    parent = asdict(begun.parent) if begun and begun.parent else None
    different = another_model(model, described["model"])
    different = different or another_run(theirs, ours, parent)
    if not different and _corpus_of(folder) not in (None, corpus):
        different = "another corpus"
    if different:
        raise UserError(
            f"{key}: checkpoint {path} is of another run than its folder ({different}): move it "
            f"away, or name it itself, {key}={path}"
        )


def _corpus_of(folder: RunFolder) -> Any:
    """The fingerprint of the corpus in a run's summary, if it has one that nobody has changed."""
    try:
        summary = read_object(folder.summary_path)
    except Unreadable:
        return None
    return summary.get("data_fingerprint") if summary.get("sha256") == own_digest(summary) else None


def recorded_tokenizer(source: Source) -> str | None:
    """The fingerprint of the tokenizer that a run's checkpoint knows; None if it knows none."""
    if not PATTERN.fullmatch(source.weights.name):
        return None
    try:
        return str(part(content_of(source.weights), KEY, "run", TOKENIZER))
    except KeyError:  # another program's, or written before this was recorded
        return None


def check_tokenizer(source: Source, tokenizer: TextTokenizer, given: Path | None = None) -> None:
    """Raise `UserError` unless a tokenizer is the one that a run's checkpoint knows.

    `given` is where it was read, if that is not what lies beside the checkpoint.
    """
    path = given or source.tokenizer
    if path is not None and recorded_tokenizer(source) not in (None, tokenizer.fingerprint):
        way_out = "give the right one with tokenizer=PATH, or resume the run, which writes it again"
        if given is not None and source.tokenizer is not None:
            way_out = f"leave tokenizer= out, and {source.tokenizer} is used"
        raise UserError(
            f"{path} is not the tokenizer that {source.weights} was trained with: {way_out}"
        )


def check_alike(source: Source, tokenizer: TextTokenizer, given: Path) -> None:
    """Raise `UserError` if the tokenizer beside weights of others encodes texts differently."""
    if source.tokenizer is None or PATTERN.fullmatch(source.weights.name):
        return
    try:
        theirs = foreign.load(source.tokenizer, [SAMPLE]).encode(SAMPLE)
    except UserError:  # which may be why another one is given
        return
    if theirs != tokenizer.encode(SAMPLE):
        raise UserError(
            f"{given} encodes text differently from {source.tokenizer}, which lies beside the "
            f"weights: leave tokenizer= out, or take {source.tokenizer.name} away if it is wrong"
        )


def _if_file(path: Path) -> Path | None:
    return inside(path) if path.is_file() else None
