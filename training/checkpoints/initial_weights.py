"""Weights that a new training starts from: `from=` with `take=weights` or `weights,optimizer`.

`take=everything` continues a run of ours as a branch; `training.checkpoints.starting_point` does
that. Here a training begins at its own step 0, with its own schedule and order of batches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conf.schema import EVERYTHING, TrainConf
from core.errors import UserError, shown
from core.files import recorded_digest, sha256
from core.parsing import Unreadable, read_yaml
from data import foreign
from data.mixture import Data
from models.formats.crossover import AVERAGE, RAW, content_of
from models.formats.load import read as read_weights
from models.formats.run_checkpoints import PATTERN, is_sharded
from models.formats.weights import Weights, shapes_of
from models.meta import build_meta
from models.registry import ModelSpec, model_class, nature
from models.tuning import STATE
from training.checkpoints.find import read as read_checkpoint
from training.checkpoints.find import step_of
from training.checkpoints.frozen import is_tuned_alike
from training.checkpoints.plain import Unfit
from training.checkpoints.starting_point import check_optimizer
from training.checkpoints.validation import check_whole, fresh_loops
from training.checkpoints.weights_source import Source, find_source, recorded_tokenizer
from training.run_folder.begun import Begun, Parent
from training.run_folder.folder import RunFolder, find_place
from training.run_folder.identity import differences
from training.run_folder.ledger import Ledger

ROWS = ("emb.weight", "head.weight")
"""Tensors with one row per token of the vocabulary."""


@dataclass(frozen=True)
class Initial:
    """What a training takes over before its first step."""

    weights: Weights
    parent: Parent
    content: dict[str, Any] | None = None
    """The whole checkpoint, where the weights are those of a run of ours."""

    def put_state(self, model: nn.Module) -> None:
        """Give a model that learns its state the one that the weights begin with, if they do."""
        if self.weights.initial:
            model.load_state_dict(self.weights.initial, strict=False)

    def put(self, model: nn.Module) -> None:
        """Give the model these weights; rows of tokens that they lack keep their initial values."""
        tensors = {}
        for name, initial in model.state_dict().items():
            given = self.weights.tensors[name]
            if name in ROWS and given.shape != initial.shape:
                rows = min(len(given), len(initial))
                given = torch.cat([given[:rows].to(initial), initial[rows:]])
            tensors[name] = given.to(initial)
        model.load_state_dict(tensors)

    def ledger(self, ledger: Ledger) -> Ledger:
        """The sums of a training that begins, with what the run before it has read and computed."""
        before = (self.content or {}).get("crossover", {}).get("ledger")
        if before is None:
            return ledger
        return replace(
            ledger,
            tokens=before["tokens"],
            trained_tokens=before.get("trained_tokens", before["tokens"]),
            forward_flops=before["forward_flops"],
            spared_flops=before.get("spared_flops", 0),
            order=None,
        )

    @property
    def left_out(self) -> str:
        """What of the averages beside the weights a user should know, to end a line with."""
        if self.parent.take == AVERAGE or AVERAGE not in (self.content or {}):
            return ""
        return ", not with its averages (optim.ema), which take=ema would"

    def spent(self) -> dict[str, Any]:
        """What the steps of the run before took, as its `Monitor` kept it: seconds, and joules
        where it counted them. Zeros where no run of ours went before."""
        if self.content is None:
            return {"all_seconds": 0.0, "joules": 0.0}
        kept: dict[str, Any] = self.content.get("callbacks", {}).get("Monitor", {})
        return kept

    def with_optimizer(self) -> dict[str, Any] | None:
        """What to restore before the first step: the checkpoint as one that has not begun.

        None where only the weights are taken.
        """
        if self.parent.take != "weights,optimizer" or self.content is None:
            return None
        content, ours = self.content, self.content["crossover"]
        kept = ("state_dict", "optimizer_states", "pytorch-lightning_version", *ours["scales"])
        return {
            **{key: content[key] for key in kept},
            "epoch": 0,
            "global_step": 0,
            "loops": {**content["loops"], "fit_loop": fresh_loops()},
            "lr_schedulers": [],  # that of the new training begins
            "callbacks": {},
        }


def taken(conf: TrainConf, source: Source) -> str:
    """What `take=` means for a source: everything of a run of ours, the weights of anything else.

    Raises `UserError` if more is asked for than a file of weights holds.
    """
    is_ours = PATTERN.fullmatch(source.weights.name) is not None
    goes_on = is_ours and is_tuned_alike(conf, source.weights)
    if conf.take == "auto":
        return EVERYTHING if goes_on else "weights"
    if is_ours and conf.take in (EVERYTHING, "weights,optimizer") and not goes_on:
        raise UserError(
            f"take={conf.take}: {source.weights} is of a training of other parts of the model than "
            f"tune={conf.tune.mode} with these settings trains; use take=weights"
        )
    if conf.take != "weights" and not is_ours:
        raise UserError(
            f"take={conf.take}: {source.weights} holds weights and nothing else; use take=weights"
        )
    return conf.take


def averages_in_words(content: dict[str, Any] | None, decay: float) -> str:
    """What a branch makes of the averages in its parent's checkpoint, to end a line with."""
    has = AVERAGE in (content or {})
    if has and not decay:
        return ", without its averages (optim.ema=0)"
    return "; its averages begin with these weights" if decay and not has else ""


def resume_of(conf: TrainConf, folder: RunFolder) -> str:
    """What `resume=` amounts to: everything that `from=` names is continued as a branch.

    Raises `UserError` if there is no such thing, or both keys name one.
    """
    if not conf.init_from:
        return conf.resume
    if conf.resume not in ("auto", "never", conf.init_from):
        raise UserError(f"from={conf.init_from} and resume={conf.resume}: give one of them")
    begun = Begun.read(folder) if conf.resume != "never" else None
    if begun is not None and begun.parent is not None:
        take = begun.parent.take  # its source may be gone
    else:
        take = taken(conf, find_source("from", conf.init_from, conf.runs_dir))
    return conf.init_from if take == EVERYTHING else conf.resume


def check_early(conf: TrainConf) -> None:
    """Raise `UserError` if `from=` names a run whose tokenizer the corpus of `conf` cannot have, as
    far as their configurations say so, or one without the averages that `take=ema` asks for: before
    the corpus is prepared, which may take minutes."""
    if conf.take == AVERAGE:
        source = find_source("from", str(conf.init_from), conf.runs_dir)
        if taken(conf, source) and AVERAGE not in content_of(source.weights):
            raise UserError(
                f"take=ema: {source.weights} has no averages: it was trained without optim.ema; "
                "use take=weights"
            )
    place = find_place("from", str(conf.init_from), conf.runs_dir)
    run = RunFolder(place.parent.parent if PATTERN.fullmatch(place.name) else place)
    try:
        theirs = read_yaml(run.config)["data"]
        before = {key: theirs[key] for key in ("tokenizer", "corpus", "vocab_size")}
    except (Unreadable, KeyError, TypeError):
        return  # other files say what they are when they are read
    now = {key: getattr(conf.data, key) for key in before}
    decides = {"bytes": 1, "chars": 2, "bpe": 3}  # how many of the words above
    if not {now["tokenizer"], before["tokenizer"]} <= decides.keys():
        return  # a file, which is compared when it is read
    keys = [*before][: decides[now["tokenizer"]]]
    different = differences(before, now, keys, "there", "here")
    if different:
        words = {"data": theirs["corpus"]} | {
            f"data.{key}": theirs.get(key) for key in ("paths", "tokenizer", "vocab_size")
        }
        given = " ".join(f"{key}={value}" for key, value in words.items() if value)
        raise UserError(
            f"from={conf.init_from} has another tokenizer than this corpus would get "
            f"({different}). Give the data words of its run ({shown(given, 400)}), or another "
            f"corpus with data.tokenizer={run.tokenizer}"
        )


def initial_weights(
    conf: TrainConf, spec: ModelSpec, corpus: Data, begun: Parent | None
) -> Initial:
    """Read and check what `from=` names; `begun` is what an earlier start of this run has taken.

    Raises `UserError` if it is of another model, tokenizer or vocabulary, or changed meanwhile.
    """
    if begun is not None:
        if not Path(begun.path).exists():
            raise UserError(
                f"{begun.path}, with which this run began, is gone, and nothing is saved yet: "
                "bring it back, or resume=never begins with what from= names now"
            )
        source = find_source("from", begun.path, conf.runs_dir)
    else:
        source = find_source("from", str(conf.init_from), conf.runs_dir)
    parent = Parent(
        str(source.weights), step_of(source.weights), _digest(source.weights), taken(conf, source)
    )
    if begun is not None and begun.sha256 != parent.sha256:
        raise UserError(
            f"{source.weights} is not what this run began with: it has changed since. Bring it "
            "back, or resume=never starts again from what it is now"
        )
    weights = read_weights(source.weights, AVERAGE if parent.take == AVERAGE else RAW)
    if weights.initial and conf.tune.mode != STATE:
        raise UserError(
            f"from={source.weights} begins with a state that tune=state has trained, and tune="
            f"{conf.tune.mode} would lose it: use tune=state, or from= what that run began with"
        )
    _check_tokenizer(source, corpus)
    _check_fits(source.weights, weights, spec, conf.resize_vocab)
    content = None
    if PATTERN.fullmatch(source.weights.name):
        content = read_checkpoint(source.weights)
        if parent.take == "weights,optimizer":
            check_optimizer(source.weights, content, conf)
            try:
                check_whole(content, spec, None)
            except Unfit as error:
                raise UserError(
                    f"{source.weights}: {error}: its optimizer cannot be restored"
                ) from None
    return Initial(weights, parent, content)


def _check_tokenizer(source: Source, corpus: Data) -> None:
    """Raise `UserError` if the corpus has another tokenizer than the weights, as far as is known.

    What the checkpoint of a run recorded decides, and else what lies beside the weights.
    """
    ours, recorded = corpus.tokenizer.fingerprint, recorded_tokenizer(source)
    if recorded == ours or (recorded is None and source.tokenizer is None):
        return
    beside = None if source.tokenizer is None else foreign.load(source.tokenizer).fingerprint
    theirs = recorded or beside
    if theirs != ours:
        right = f"={source.tokenizer}" if beside == theirs else " with the one it was trained with"
        raise UserError(
            f"{source.weights} was trained with another tokenizer than the corpus is prepared "
            f"with: use data.tokenizer{right}"
        )


def _check_fits(path: Path, weights: Weights, spec: ModelSpec, resize: bool) -> None:
    """Raise `UserError` unless the model that `spec` builds can hold the weights."""
    rows, needed = weights.spec.config["vocab_size"], spec.config["vocab_size"]
    if weights.spec.target != spec.target:
        different = f"{weights.spec.target} there, {spec.target} here"
    else:
        theirs, ours = (vars(build_meta(each).config) for each in (weights.spec, spec))
        given = {key for key in ours if None not in (theirs[key], ours[key])}
        keys = given - {"vocab_size", *model_class(spec.target).options}
        different = differences(theirs, ours, keys, "there", "here")
    if different:
        raise UserError(f"from={path} is another model: {different}")
    _check_options(path, weights.spec, spec)
    tied = bool(spec.config.get("tie_embeddings"))
    if tied and not torch.equal(*(weights.tensors[name] for name in ROWS)):
        raise UserError(
            f"from={path} has a head of its own, which model.tie_embeddings=true would lose: leave "
            "that key out"
        )
    if rows != needed and not resize:
        raise UserError(
            f"from={path} has a vocabulary of {rows}, and the tokenizer of the corpus one of "
            f"{needed}: give the tokenizer it was trained with as data.tokenizer=PATH, or "
            "resize_vocab=true adds or cuts rows at the end of embedding and head"
        )


def _check_options(path: Path, theirs: ModelSpec, ours: ModelSpec) -> None:
    """Raise `UserError` if options of the model ask for weights that the file has not, or lose
    some that it has: options may differ where they only change how a model computes."""
    if shapes_of(theirs).keys() == shapes_of(ours).keys():
        return
    there, here = (nature(spec.target, spec.config).options for spec in (theirs, ours))
    options = set(model_class(ours.target).options)
    different = differences(there, here, options, "there", "here")
    raise UserError(f"from={path} has other weights: model.{different}: leave that out")


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of the files in a folder."""
    if is_sharded(path) and (recorded := recorded_digest(path)):
        return recorded
    if path.is_file():
        return recorded_digest(path) or sha256(path)
    total = hashlib.sha256()
    for each in sorted(path.iterdir()):
        if each.is_file():
            total.update(f"{each.name} {sha256(each)}\n".encode())
    return total.hexdigest()
