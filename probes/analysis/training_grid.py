"""Trainings as a grid: settings (runs that differ in nothing but the seed), and the best per model.

The band of a setting reaches from the lowest to the highest final loss of its seeds. Two settings
are decided only where their bands lie apart, and where chance would part the bands of so many seeds
less often than in `LEVEL` of cases if the settings were equal: of n + m losses in random order, the
n lowest are those of one setting in 2 / C(n + m, n) of cases, whichever setting that is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import comb
from statistics import fmean
from typing import Any

from conf.schema import HOUSEKEEPING, READING, is_in
from models.contract import TRAINING_FACTOR
from probes.analysis.tuning import Search, same, search_of, shown, varying
from probes.training_runs import TrainingRun

LEVEL = 0.05  # of chance
MOST_KEYS = 4  # that the name of a setting lists
SIZE_TOLERANCE = 0.01  # relative difference of parameters within which models are matched
# What a corpus's fingerprint decides.
CORPUS_KEYS = (
    "data.corpus", *READING, "data.tokenizer", "data.vocab_size", "data.val_fraction",
    "data.special_tokens", "data.mix", "data.parts",
)  # fmt: skip
UNKNOWN = "unknown"
LOSS = ("val_loss", "nats per token", "loss")
BITS = ("val_bits_per_byte", "bits per byte", "bits_per_byte")
"""A field of summaries, its unit, and the name of the same figure in rows of metrics."""


@dataclass(frozen=True)
class Setting:
    """Trainings that differ in nothing but the seed."""

    name: str
    """Unique on the page: the model, and what distinguishes it from other settings."""
    values: dict[str, Any]
    """Those of the searched keys."""
    runs: tuple[TrainingRun, ...]
    counted: tuple[TrainingRun, ...]
    """Those that were trained to their last step, one of each seed: only their losses compare."""
    losses: tuple[float, ...]
    """Final losses of the counted ones."""

    @property
    def mean(self) -> float | None:
        return fmean(self.losses) if self.losses else None

    @property
    def band(self) -> tuple[float, float] | None:
        """The lowest and the highest loss of its seeds; None with one seed alone."""
        return (min(self.losses), max(self.losses)) if len(self.losses) > 1 else None

    @property
    def tokens(self) -> float:
        """Tokens that it was trained on; 0 where nothing has finished or nobody counted."""
        return max((run.figure("tokens") or 0.0 for run in self.counted), default=0.0)


@dataclass(frozen=True)
class Verdict:
    """Whether one setting's loss is lower than another's."""

    decided: bool
    bands: bool
    """Whether both have a band, which takes two seeds."""
    apart: bool
    chance: float
    """How often chance alone would part the bands of so many seeds."""

    def plain(self) -> dict[str, Any]:
        return dict(vars(self))


def verdict(first: Setting, second: Setting) -> Verdict:
    """Compare two settings that both have losses."""
    n, m = len(first.losses), len(second.losses)
    bands = n > 1 and m > 1
    apart = max(first.losses) < min(second.losses) or max(second.losses) < min(first.losses)
    chance = 2 / comb(n + m, n)
    return Verdict(bands and apart and chance <= LEVEL, bands, apart, chance)


@dataclass(frozen=True)
class Arm:
    """All trainings of one model, size and corpus."""

    name: str
    label: str
    size: str
    title: str
    recurrent: bool | None
    corpus: str
    text: str
    """What identifies the held-out text: losses on different texts do not compare."""
    settings: tuple[Setting, ...]
    search: Search
    ranked: tuple[Setting, ...]
    """Settings with a loss on the most tokens any was trained on, the lowest mean first."""

    @property
    def best(self) -> Setting | None:
        return self.ranked[0] if self.ranked else None

    @property
    def runs(self) -> list[TrainingRun]:
        return [run for setting in self.settings for run in setting.runs]

    @property
    def parameters(self) -> float | None:
        return max((run.figure("parameters") or 0.0 for run in self.runs), default=0.0) or None

    @property
    def at_the_edge(self) -> list[str]:
        """Searched numbers whose best value is the smallest or the largest that was tried."""
        if self.best is None:
            return []
        edges = []
        for key, tried in self.search.tried.items():
            numbers = [value for value in tried if type(value) in (int, float)]
            if len(numbers) > 1 and self.best.values.get(key) in (numbers[0], numbers[-1]):
                edges.append(key)
        return edges


@dataclass(frozen=True)
class Pair:
    """The best settings of two models, the lower loss first, and why they may not be compared."""

    lower: Arm
    higher: Arm
    obstacles: tuple[str, ...]
    verdict: Verdict


@dataclass(frozen=True)
class Grid:
    """Everything a page says of trainings."""

    runs: tuple[TrainingRun, ...]
    arms: tuple[Arm, ...]
    pairs: tuple[Pair, ...]
    keys: tuple[str, ...]
    """Searched keys, as on a command line."""
    measure: tuple[str, str, str]
    """`LOSS`, or `BITS` where tokenizers differ."""
    corpora: tuple[str, ...]
    texts: int
    """Different held-out texts among the corpora, as far as is known."""


def grid(runs: Sequence[TrainingRun]) -> Grid:
    """Sort trainings into settings and arms, and compare the best of each."""
    corpora = {run.path: _corpus(run, runs) for run in runs}
    named = tuple(dict.fromkeys(corpora[run.path] for run in runs))
    measure = LOSS if len({*named} - {UNKNOWN}) < 2 else BITS
    configs = {run.path: decisive(run) for run in runs}
    arms: dict[tuple[str, str, str], list[TrainingRun]] = defaultdict(list)
    for run in runs:
        arms[run.label, run.size, corpora[run.path]].append(run)
    keys = _searched(configs.values(), [[configs[run.path] for run in of] for of in arms.values()])
    sizes = len({size for _, size, _ in arms}) > 1
    texts = {
        corpus: _text_of([run for run in runs if corpora[run.path] == corpus]) or corpus
        for corpus in named
    }
    made = []
    for (label, size, corpus), members in arms.items():
        data = f"data {corpus[:8]}" if corpus.isalnum() else "other data"
        parts = [label, size if sizes else "", data if len(named) > 1 else ""]
        name = " ".join(filter(None, parts))
        settings = _settings(name, members, configs, keys, measure[0])
        longest = max((one.tokens for one in settings), default=0.0)
        ranked = [one for one in settings if one.mean is not None and one.tokens == longest]
        first = members[0]
        made.append(
            Arm(
                name, label, size, first.title, first.recurrent, corpus,
                texts[corpus], settings,
                search_of(members, [configs[run.path] for run in members], keys),
                tuple(sorted(ranked, key=lambda one: (one.mean or 0.0, one.name))),
            )
        )  # fmt: skip
    made.sort(key=lambda arm: (not arm.recurrent, arm.name))
    validated = {arm.text for arm in made if arm.best is not None}
    return Grid(tuple(runs), tuple(made), _pairs(made), tuple(keys), measure, named, len(validated))


def compute(run: TrainingRun) -> float | None:
    """Operations of the whole training, forward and backward."""
    flops = run.figure("forward_flops")
    return None if flops is None else TRAINING_FACTOR * flops - (run.figure("spared_flops") or 0)


def decisive(run: TrainingRun) -> dict[str, Any]:
    """What a training follows from, besides seed, model and corpus, by its key's command word."""
    if not run.config:  # nothing is known: it is like no other
        return {"run": str(run.path)}
    kept = {}
    for key, value in run.config.items():
        if is_in(key, (*HOUSEKEEPING, *CORPUS_KEYS, "seed", "model.config.vocab_size")):
            continue
        is_model = key == "model" or key.startswith("model.")
        if is_model and not key.startswith("model.config."):
            continue
        kept[key.replace("model.config.", "model.")] = value
    return kept


def _searched(
    every: Iterable[dict[str, Any]], of_arms: Sequence[Sequence[dict[str, Any]]]
) -> list[str]:
    """Keys that differ between settings: those of a model within an arm, others anywhere."""
    anywhere = [key for key in varying(_known(every)) if not key.startswith("model.")]
    within = [key for arm in of_arms for key in varying(_known(arm)) if key.startswith("model.")]
    return [*anywhere, *dict.fromkeys(within)]


def _known(configs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those of trainings of which no configuration is known."""
    return [config for config in configs if "run" not in config]


def _settings(
    arm: str,
    members: Sequence[TrainingRun],
    configs: dict[Any, dict[str, Any]],
    keys: Sequence[str],
    field: str,
) -> tuple[Setting, ...]:
    by_values: dict[str, list[TrainingRun]] = defaultdict(list)
    for run in members:
        by_values[json.dumps(configs[run.path], sort_keys=True, default=str)].append(run)
    varied = varying(_known(configs[run.path] for run in members))
    settings = []
    for runs in by_values.values():
        values = configs[runs[0].path]
        named = keys if len(keys) <= MOST_KEYS else [key for key in keys if key in varied]
        words = [f"{key.rpartition('.')[2]} {shown(values.get(key))}" for key in named]
        many = len(words) > MOST_KEYS or "run" in values
        name = " ".join([arm, *([runs[0].name] if many and len(by_values) > 1 else words)])
        counted = {
            (run.seed, run.path if run.seed is None else None): run
            for run in reversed(runs)
            if run.is_complete and run.figure(field) is not None
        }
        chosen = tuple(sorted(counted.values(), key=lambda run: (run.seed or 0, run.name)))
        losses = tuple(run.figure(field) or 0.0 for run in chosen)
        known = {key: values.get(key) for key in keys}
        settings.append(Setting(name, known, tuple(runs), chosen, losses))
    # Names made of the last parts of keys, or of runs, may meet: then a number tells them apart.
    settings.sort(key=lambda one: (one.name, str(one.runs[0].path)))
    unique = []
    for _, group in groupby(settings, key=lambda one: one.name):
        alike = list(group)
        unique += [
            replace(one, name=f"{one.name} #{number}") if len(alike) > 1 else one
            for number, one in enumerate(alike, 1)
        ]
    return tuple(unique)


# ---- what may be compared ------------------------------------------------------------------------


def _pairs(arms: Sequence[Arm]) -> tuple[Pair, ...]:
    """The arm with the lowest loss against every other whose loss is of the same text."""
    pairs = []
    by_text: dict[str, list[Arm]] = defaultdict(list)
    for arm in arms:
        if arm.best is not None:
            by_text[arm.text].append(arm)
    for members in by_text.values():
        members.sort(key=lambda arm: arm.best.mean or 0.0 if arm.best else 0.0)
        for other in members[1:]:
            lower = members[0]
            assert lower.best is not None and other.best is not None
            found = tuple(_obstacles(lower, other))
            pairs.append(Pair(lower, other, found, verdict(lower.best, other.best)))
    return tuple(pairs)


def _obstacles(first: Arm, second: Arm) -> Iterable[str]:
    """Words for what must be equal and is not."""
    assert first.best is not None and second.best is not None
    if not same(first.search, second.search):
        yield "search"
    counts = [arm.parameters for arm in (first, second)]
    if None in counts or max(counts) > (1 + SIZE_TOLERANCE) * min(counts):  # type: ignore[type-var,operator]
        yield "size"
    if first.corpus == second.corpus and first.best.tokens != second.best.tokens:
        yield "tokens"
    for field in ("precision", "packing"):
        values = [{run.summary.get(field) for run in arm.best.counted if run.summary}
                  for arm in (first, second) if arm.best]  # fmt: skip
        if values[0] != values[1]:
            yield field


def _corpus(run: TrainingRun, runs: Sequence[TrainingRun]) -> str:
    """The fingerprint of a run's corpus and tokenizer; that of one with the same keys where the run
    itself has not finished."""
    if run.summary is not None:
        return str(run.summary.get("data_fingerprint") or UNKNOWN)
    keys = [run.config.get(key) for key in CORPUS_KEYS]
    for other in runs:
        if other.summary is not None and [other.config.get(key) for key in CORPUS_KEYS] == keys:
            return str(other.summary.get("data_fingerprint") or UNKNOWN)
    known = {str(other.summary.get("data_fingerprint")) for other in runs if other.summary}
    return UNKNOWN if known or not run.config else json.dumps(keys)


def _text_of(runs: Sequence[TrainingRun]) -> str:
    """What identifies the held-out text, whatever its tokenizer: its sizes when compressed."""
    for run in runs:
        sizes = [run.figure(key) for key in ("gzip_bits_per_byte", "xz_bits_per_byte")]
        if None not in sizes:
            return json.dumps(sizes)
    return ""
