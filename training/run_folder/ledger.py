"""What a run has really done, over all its starts; it travels with every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conf.schema import DataConf, TrainConf
from core.parsing import Unreadable, read_yaml
from models.contract import TRAINING_FACTOR


@dataclass
class Ledger:
    """Sums over optimizer steps, whatever configuration each was made with.

    None stands for what is not known: of steps made before these sums were kept, by a run that had
    itself left another one.
    """

    tokens: int | None = 0
    """Read for training, skipped steps included."""
    trained_tokens: int | None = 0
    """Those of them that were learned, and not only read."""
    forward_flops: int | None = 0
    order: dict[str, Any] | None = None
    """What the order of all batches so far follows from; None if they follow from no single one."""
    parent: dict[str, Any] | None = None
    """The `path`, `step`, `sha256` and `take` of the checkpoint that this branch has left."""
    max_steps: int | None = None
    spared_flops: int | None = 0
    """Operations of gradients that were not computed, because the weights were frozen."""
    inherited_flops: int | None = 0
    """Those of `forward_flops` that the runs before this one have spent."""
    schedule_changes: list[str] = field(default_factory=list)
    """What happened to the learning rate where a start continued with another schedule."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the steps since the last start are made with, by dotted key."""
    parts: dict[str, int] = field(default_factory=dict)
    """Those of `tokens` that were read of each part of a mixture, by its name."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Where a start continued with other settings: `step`, the last one made with the old ones, and
    `changed`, each key's old and new value."""

    @classmethod
    def of(
        cls,
        conf: TrainConf,
        data: str,
        content: dict[str, Any] | None,
        path: Path | None,
        flops: int,
    ) -> Ledger:
        """At the start of `conf`, from the checkpoint `content` read from `path`, if there is one.

        `data` is the fingerprint of the corpus. `flops` are those of the forward passes of one
        optimizer step as `conf` has it; they are used for steps of checkpoints that hold no sums,
        if they were made alike.
        """
        ours = order_of(conf)
        if content is None or path is None:
            return cls(order=ours)
        recorded = content["crossover"].get("ledger")
        if recorded is not None:
            before = 0 if recorded["parent"] is None else None  # of older versions
            # Before there were masks, every token was learned.
            added = {"inherited_flops": before, "trained_tokens": recorded["tokens"]}
            ledger = cls(**{**added, **recorded})
        else:
            theirs, steps = _configured(path), int(content["global_step"])
            ledger = cls(None, None, None, theirs)
            if theirs is not None:
                ledger.tokens = ledger.trained_tokens = steps * tokens_of(theirs)
                ledger.forward_flops = steps * flops if theirs == ours else None
        if ledger.order != ours or content["crossover"]["identity"]["data"] != data:
            ledger.order = None
        return ledger

    def continue_with(
        self, settings: dict[str, Any], step: int, recorded: dict[str, Any] | None = None
    ) -> None:
        """A start goes on after `step` with `settings`; the ones before are in the ledger or, as
        far as a version that wrote it did not know them yet, `recorded`."""
        before = {**(recorded or {}), **self.settings}
        changed = {
            key: [before[key], value]
            for key, value in settings.items()
            if key in before and before[key] != value
        }
        if changed and step:
            self.changes = [*self.changes, {"step": step, "changed": changed}]
        self.settings = settings

    @property
    def operations(self) -> int | None:
        """Those of forward and backward passes, without gradients that were not computed."""
        if self.forward_flops is None or self.spared_flops is None:
            return None
        return TRAINING_FACTOR * self.forward_flops - self.spared_flops

    @property
    def own_flops(self) -> int | None:
        """Operations of the forward passes that this run has made itself."""
        if self.forward_flops is None or self.inherited_flops is None:
            return None
        return self.forward_flops - self.inherited_flops

    def leave(self, parent: dict[str, Any] | None) -> None:
        """Count from here on for the run that begins at `parent`, or goes on after it."""

        def place(of: dict[str, Any] | None) -> Any:
            return of and (of["step"], of["sha256"])

        if place(parent) != place(self.parent):
            self.inherited_flops = self.forward_flops
        self.parent = parent

    def add(
        self, tokens: int, forward_flops: int, trained: int | None = None, spared_flops: int = 0
    ) -> None:
        """One optimizer step has been made; it learned `trained` of its tokens, or all."""
        if self.spared_flops is not None:
            self.spared_flops += spared_flops
        if self.tokens is not None:
            self.tokens += tokens
        if self.trained_tokens is not None:
            self.trained_tokens += tokens if trained is None else trained
        if self.forward_flops is not None:
            self.forward_flops += forward_flops

    def add_parts(self, tokens: Mapping[str, int]) -> None:
        """So many tokens of a step were of these parts of a mixture."""
        for name, count in tokens.items():
            self.parts[name] = self.parts.get(name, 0) + count

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def order_of(conf: TrainConf) -> dict[str, Any]:
    """What decides which tokens a step reads, besides the corpus."""
    growing = {key: getattr(conf.data, key) for key in ("batch_warmup", "length_warmup")}
    other = conf.data.order != DataConf.order
    prime = {key: getattr(conf.data, key) for key in ("order", "magic_prime")} if other else {}
    return {
        "seed": conf.seed,
        "length": conf.data.length,
        "batch_size": conf.data.batch_size,
        "accumulate": conf.trainer.accumulate_grad_batches,
        **{key: steps for key, steps in growing.items() if steps},
        **prime,
    }


def tokens_of(order: dict[str, Any]) -> int:
    """Tokens of one optimizer step."""
    return int(order["accumulate"] * order["batch_size"] * order["length"])


def _configured(path: Path) -> dict[str, Any] | None:
    """The order that the run around a checkpoint is configured for, if all its steps follow it."""
    try:
        conf = read_yaml(path.parent.parent / "config.yaml")
        if conf["resume"] not in ("auto", "never"):  # its first steps were those of another run
            return None
        return {
            "seed": conf["seed"],
            "length": conf["data"]["length"],
            "batch_size": conf["data"]["batch_size"],
            "accumulate": conf["trainer"]["accumulate_grad_batches"],
        }
    except (Unreadable, KeyError, TypeError):
        return None
