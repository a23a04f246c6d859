"""The evidence page: what each model can do, what it costs, and what each experiment shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import units
from probes.analysis.crossovers import curve
from probes.analysis.dataset import Dataset, Series
from probes.analysis.evidence import SIZE_TOLERANCE, Contestant, Outcome
from probes.analysis.experiments import BY_NAME, EXPERIMENTS, EXTRAPOLATION, Experiment
from probes.analysis.metrics import BY_KEY
from probes.report.markup import Line, Table, plain
from probes.report.template import render

COSTS = (
    ("train", "#training step"), ("decode", "#per generated token"), ("state", "#state"),
    ("memory", "#training memory"),
)  # fmt: skip
"""Measures of the matrix, by their key, and the heading of each."""
REMEMBERING = ("recall", "state_tracking")
"""Experiments of which it is shown how far back their models remember."""


@dataclass(frozen=True)
class Section:
    """One experiment on the page."""

    name: str
    title: str
    question: str
    source: str
    rule: str
    verdict: str
    details: tuple[str, ...]
    """What was tried, and what speaks against the comparison."""
    commands: tuple[str, ...]
    best: Table
    tried: Table
    memory: Table
    """How far back each model remembers; empty where that was not looked at."""


@dataclass(frozen=True)
class Page:
    """The page in order."""

    title: str
    headline: str
    facts: tuple[str, ...]
    warnings: tuple[str, ...]
    matrix: Table
    sections: tuple[Section, ...]

    def plain(self) -> dict[str, Any]:
        """This page as JSON values."""
        page: dict[str, Any] = plain(self)
        return page


def page(
    outcomes: Mapping[str, Outcome],
    commands: Mapping[str, Sequence[str]],
    costs: Dataset | None,
    facts: Sequence[str],
    warnings: Sequence[str] = (),
    memories: Mapping[str, Mapping[str, Any]] | None = None,
) -> Page:
    """Put outcomes, by the names of their experiments, into words.

    `memories` has, by experiment and model, what `evaluation.json` has as `memory`.
    """
    shown = [BY_NAME[name] for name in outcomes]
    reached = sum(outcomes[one.name].verdict == "reached" for one in shown)
    so_far = sum(outcomes[one.name].verdict.startswith("reached so far") for one in shown)
    begun = sum(outcomes[one.name].finished > 0 for one in shown)
    headline = f"{reached} of {len(shown)} experiments came out as published"
    if so_far:
        headline += f", {so_far} more as far as {'it has' if so_far == 1 else 'they have'} run"
    if begun < len(shown):
        headline += f", {len(shown) - begun} {'has' if len(shown) - begun == 1 else 'have'} not run"
    return Page(
        "Crossover report: evidence",
        headline,
        tuple(facts),
        tuple(warnings),
        matrix(outcomes, costs),
        tuple(
            section(one, outcomes[one.name], commands[one.name], (memories or {}).get(one.name, {}))
            for one in shown
        ),
    )


def html(content: Page) -> str:
    """The whole file as text."""
    return render(
        "evidence_page.html",
        title=content.title,
        headline=content.headline,
        facts=content.facts,
        quiet="",
        page=content,
    )


def matrix(outcomes: Mapping[str, Outcome], costs: Dataset | None) -> Table:
    """A line for each model: what it can do, then what it costs."""
    columns = [(one.name, one.main, f"#{one.capability}") for one in EXPERIMENTS]
    name, key, heading = EXTRAPOLATION
    columns.insert(2, (name, key, f"#{heading}"))
    columns = [column for column in columns if column[0] in outcomes]
    titles: dict[str, str] = {}
    for outcome in outcomes.values():
        titles |= {one.label: one.title for one in outcome.contestants}
    series = {one.label: one for one in costs.all_series} if costs else {}
    titles |= {label: one.title for label, one in series.items() if label not in titles}
    steps = [set(curve(one, BY_KEY["train"]).measured) for one in series.values()]
    lengths = set.intersection(*steps) if steps else set[int]()
    at = max(lengths, default=0)
    lines = []
    for label in sorted(titles):
        cells = []
        for experiment, figure, _ in columns:
            found = [one for one in outcomes[experiment].contestants if one.label == label]
            cells.append(shown_figure(found[0].value(figure), figure) if found else "")
        cells += [_cost(series.get(label), measure, at) for measure, _ in COSTS if lengths]
        lines.append(Line(label, tuple(cells), len(cells)))
    caption = (
        "Each cell is the median over the seeds at the best rate of the same search for all. "
        "Accuracies: the share of what is asked that is right."
    )
    if lengths:
        caption += (
            f" Costs were measured here, batch 1, at {at:,} tokens of context; state is what is "
            "kept of them."
        )
    headings = ["model", *(heading for _, _, heading in columns)]
    headings += [heading for _, heading in COSTS if lengths]
    return Table(caption, tuple(headings), tuple(lines))


def _cost(series: Series | None, key: str, length: int) -> str:
    if series is None:
        return ""
    point = curve(series, BY_KEY[key]).measured.get(length)
    if point is None:
        return ""
    measure = BY_KEY[key]
    return units.seconds(point.value) if measure.unit == "s" else units.size_bytes(point.value)


def shown_figure(value: float | None, key: str) -> str:
    """An accuracy in percent, anything else with four digits; nothing where there is none."""
    if value is None:
        return ""
    is_share = key.endswith(("accuracy", "exact_match"))
    return f"{value:.1%}" if is_share else f"{value:.4g}"


def section(
    experiment: Experiment,
    outcome: Outcome,
    commands: Sequence[str],
    memories: Mapping[str, Any],
) -> Section:
    """What is said of one experiment."""
    columns = [(experiment.main, experiment.capability), *experiment.columns]
    rule = "; ".join(claim.words for claim in experiment.claims)
    words = {True: "holds", False: "does not hold", None: "not known yet"}
    details = [f"{claim.words}: {words[holds]}" for claim, holds in outcome.verdicts]
    if outcome.finished:
        unfinished = sum(one.unfinished for one in outcome.contestants)
        more = f"; {unfinished} did not finish" if unfinished else ""
        details.append(f"{outcome.finished} of {outcome.planned} trainings count{more}")
    if outcome.spread is not None and outcome.spread > SIZE_TOLERANCE:
        details.append(
            f"the models' parameters differ by {outcome.spread:.1%}: they are not matched"
        )
    if outcome.contestants and not outcome.is_equal_search:
        details.append("not all models have finished the same trials yet: the search is not equal")
    return Section(
        experiment.name,
        f"{experiment.number} {experiment.capability}",
        experiment.question,
        experiment.source,
        rule,
        outcome.verdict,
        tuple(details),
        tuple(commands),
        _best_table(outcome.contestants, columns),
        _tried_table(outcome.contestants, experiment),
        memory_table(outcome.contestants, experiment, memories),
    )


def memory_table(
    contestants: Sequence[Contestant], experiment: Experiment, memories: Mapping[str, Any]
) -> Table:
    """A line for each layer of each model: what is remembered, beside what was reached."""
    lines = []
    for one in contestants:
        if one.label not in memories:
            continue
        found = memories[one.label]
        for layer in found["layers"]:
            first = layer["layer"] == 0
            whole = (
                shown_figure(one.value(experiment.main), experiment.main),
                _reach(found["gradient"], "half"),
                _reach(found["gradient"], "tokens"),
                _reach(found["perturbation"], "tokens"),
            )
            cells = [*(whole if first else ("", "", "", "")), str(layer["layer"])]
            cells.append(_reach(layer["gradient"], "tokens"))
            cells += [_tokens(value) for value in (layer.get("half_life") or [])[2::2]] or ["", ""]
            values = layer.get("eigenvalues")
            cells += [f"{values['least']:.2f}", f"{values['negative']:.0%}"] if values else ["", ""]
            lines.append(Line(one.label if first else "", tuple(cells), len(cells)))
    if not lines:
        return Table("")
    headings = (
        "model", f"#{experiment.capability}", "#half of it within, tokens", "#above 1 %, gradient",
        "#above 1 %, replaced", "#layer", "#layer alone", "#half-life, median channel",
        "#half-life, slowest", "#least eigenvalue", "#with one below 0",
    )  # fmt: skip
    caption = (
        "How many tokens back still move the logits, in sequences of the task: half of all "
        "influence lies within so many, and so many are the farthest with more than 1 % of the "
        "largest, by the gradient and by replacing a token; + where that is as far as was looked. "
        "Half-lives are those of the state's decays, eigenvalues those of what a token does to "
        "the state."
    )
    return Table(caption, headings, tuple(lines))


def _reach(found: Mapping[str, float], key: str) -> str:
    """Tokens; a plus where a reach is as long as what was looked at."""
    more = "+" if key == "tokens" and found[key] >= found["followed"] else ""
    return f"{found[key]:,.0f}{more}"


def _tokens(half_life: float | None) -> str:
    return "never" if half_life is None else units.significant(half_life)


def _best_table(contestants: Sequence[Contestant], columns: Sequence[tuple[str, str]]) -> Table:
    lines = []
    for one in contestants:
        cells = [f"{one.best.rate:g}", str(len(one.best.runs))]
        for key, _ in columns:
            text, values = shown_figure(one.value(key), key), one.best.values(key)
            if len(values) > 1:
                text += f" ({shown_figure(min(values), key)} to {shown_figure(max(values), key)})"
            cells.append(text)
        cells.append(f"{one.parameters:,.0f}" if one.parameters else "")
        lines.append(Line(one.label, tuple(cells), len(cells)))
    headings = ["model", "#best rate", "#seeds", *(f"#{name}" for _, name in columns)]
    caption = "The best rate of each model: median, and lowest to highest over the seeds."
    if not lines:
        return Table("No training of it has finished yet.")
    return Table(caption, (*headings, "#parameters"), tuple(lines))


def _tried_table(contestants: Sequence[Contestant], experiment: Experiment) -> Table:
    rates = sorted({trial.rate for one in contestants for trial in one.trials})
    lines = []
    for one in contestants:
        by_rate = {trial.rate: trial.values(experiment.main) for trial in one.trials}
        cells = [
            ", ".join(shown_figure(value, experiment.main) for value in by_rate.get(rate, ()))
            for rate in rates
        ]
        lines.append(Line(one.label, tuple(cells), len(cells)))
    headings = ("model", *(f"#rate {rate:g}" for rate in rates))
    return Table(f"{experiment.capability} of every training, seed by seed", headings, tuple(lines))
