"""Everything a page of trainings says, as text: what the page shows and `trainings.json` holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core import units
from core.parsing import LARGEST
from probes.analysis import tuning
from probes.analysis.costs import Price
from probes.analysis.training_curves import (
    AXES,
    CurvePoint,
    LossCurve,
    axes_of,
    currency_of,
    curves_of,
    named_texts,
)
from probes.analysis.training_grid import Arm, Grid, Setting, compute
from probes.report import trainings_text
from probes.report.markup import Line, Table, plain
from probes.report.scaling_text import flops
from probes.report.trainings_text import band, name, number, series
from probes.training_runs import TrainingRun

MOST_CURVES = 24  # of a chart
MOST_TEXTS = 12  # named ones that validate, each of which has charts
HELDOUT = (
    "Validation loss while training",
    "Each point is a validation on a part of the held-out text; the losses in the tables are "
    "on all of it.",
)
TRAINED = ("Training loss", "On the batch of each step that was logged.")
BANDS = (
    "A curve is a setting; the band reaches from the lowest to the highest of its seeds. Trainings "
    "that were not trained to their last step, repeat a seed, or have rows at other steps than the "
    "other seeds are curves of their own."
)
NONE = "No row of metrics with a loss was found, so there is no curve."
KEYS = (
    "For each value the setting with the lowest mean loss, over all other keys; the band reaches "
    "from the lowest to the highest of its seeds."
)


@dataclass(frozen=True)
class Shown:
    """One point of a chart: its place by axis, the mean and the band, and what the tooltip says."""

    at: dict[str, float]
    value: float
    middle_half: tuple[float, float]
    tip: dict[str, str]


@dataclass(frozen=True)
class ShownCurve:
    """One curve of a chart; `arm` is the id of its colour and chip."""

    arm: str
    points: tuple[Shown, ...]


@dataclass(frozen=True)
class Chart:
    """Words and curves of one chart."""

    title: str
    caption: str
    alt: str
    axis: str
    key: str
    """The searched key that it is drawn over; empty where the switch of axes says over what."""
    heldout: str
    """The kind of validation loss, of which a switch shows one; empty for a chart always shown."""
    labels: tuple[str, ...]
    """Values of a key that are no numbers, by their places 1, 2, 3 ..."""
    curves: tuple[ShownCurve, ...]
    table: Table


@dataclass(frozen=True)
class Contents:
    """The page in order."""

    title: str
    headline: str
    facts: tuple[str, ...]
    warnings: tuple[str, ...]
    paragraphs: tuple[str, ...]
    names: dict[str, str]
    """What stands on the chip of each curve, by its id."""
    colours: dict[str, str]
    """By the same ids, the arm or setting whose colour a curve has."""
    axes: dict[str, str]
    """Axes that the data have, and their labels."""
    heldouts: tuple[str, ...]
    """Kinds of validation losses: `val`, and `val/NAME` of each named text."""
    bands: str
    charts: tuple[Chart, ...]
    best: Table
    trainings: Table

    def plain(self) -> dict[str, Any]:
        """This page as JSON values."""
        page: dict[str, Any] = plain(self)
        return page


def contents(grid: Grid, price: Price | None) -> Contents:
    """Put trainings into words. `price` is what an hour of the machine costs, if the user said."""
    currency = currency_of(grid.runs, price)
    drawn: list[tuple[str, str, list[tuple[Arm, LossCurve]], int]] = []
    texts = list(dict.fromkeys(arm.text for arm in grid.arms))
    named = named_texts(grid.runs, grid.measure[2])
    kinds = ["val", *(f"val/{one}" for one in named[:MOST_TEXTS]), "train"]
    for text in texts:
        arms = [arm for arm in grid.arms if arm.text == text]
        where = "" if len(texts) < 2 else ", " + units.listing([name(arm) for arm in arms])
        for kind in kinds:
            found = [
                (arm, curve)
                for arm in arms
                for curve in curves_of(arm.settings, kind, grid.measure[2], price)
            ]
            found.sort(key=lambda pair: (pair[1].setting.mean is None, pair[1].setting.mean or 0.0))
            if found:
                drawn.append((kind, where, found[:MOST_CURVES], len(found)))
    axes = [
        axis
        for axis in axes_of([curve for _, _, found, _ in drawn for _, curve in found])
        if axis != "cost" or currency is not None
    ]
    labels = {axis: AXES[axis][0] for axis in axes}
    if currency is not None and "cost" in labels:
        labels["cost"] = f"cost, {currency}"
    charts = [_loss_chart(grid, *each, axes, currency) for each in drawn]
    charts += [
        chart for key in grid.keys for text in texts if (chart := _key_chart(grid, key, text))
    ]
    names: dict[str, str] = {}
    colours: dict[str, str] = {}
    for _, _, found, _ in drawn:
        names |= {_id(curve): _name(arm, curve) for arm, curve in found}
        colours |= {_id(curve): curve.setting.name for arm, curve in found}
    by_arm = {curve.arm for chart in charts if chart.key for curve in chart.curves}
    names |= {arm.name: name(arm) for arm in grid.arms if arm.name in by_arm}
    colours |= {arm: arm for arm in by_arm}
    heldouts = [kind for kind in kinds if any(chart.heldout == kind for chart in charts)]
    models = list(dict.fromkeys(name(arm) for arm in grid.arms))
    summaries = [run.summary or {} for run in grid.runs]
    rate = f"{price.text(price.per_hour)} an hour" if price else ""
    facts = (
        units.counted(len(grid.runs), "training"),
        units.unique(summary.get("precision") for summary in summaries),
        units.unique(f"data {corpus[:12]}" for corpus in grid.corpora if corpus.isalnum()),
        rate,
    )
    return Contents(
        title="Crossover report: trainings of "
        + ", ".join(models[:8])
        + ("" if len(models) <= 8 else " ..."),
        headline=trainings_text.headline(grid),
        facts=tuple(filter(None, facts)),
        warnings=tuple(trainings_text.warnings(grid)),
        paragraphs=tuple(trainings_text.paragraphs(grid)),
        names=names,
        colours=colours,
        axes=labels,
        heldouts=tuple(heldouts),
        bands=_bands(named) if drawn else NONE,
        charts=tuple(charts),
        best=_best(grid),
        trainings=_trainings(grid, currency, price),
    )


# ---- charts --------------------------------------------------------------------------------------


def _bands(named: Sequence[str]) -> str:
    """What a curve is, and which texts have curves of their own."""
    text = BANDS
    if named:
        text += " A switch chooses the text that validates."
    if len(named) > MOST_TEXTS:
        text += f" Of {len(named)} named ones the first {MOST_TEXTS} are drawn."
    return text


def _words(kind: str, runs: Sequence[TrainingRun]) -> tuple[str, str]:
    """Title and caption of the loss curves of these trainings."""
    if kind in ("val", "train"):
        return HELDOUT if kind == "val" else TRAINED
    text = kind.removeprefix("val/")
    keys = tuple(f"data.{group}.{text}." for group in ("parts", "validation"))
    said = {
        str(sorted((key, str(value)) for key, value in run.config.items() if key.startswith(keys)))
        for run in runs
    }
    caption = f"Each point is a validation on a part of the text {text}."
    if len(said) > 1:
        caption += " Not all of these trainings describe a text of this name in the same words."
    return f"Validation loss on {text} while training", caption


def _id(curve: LossCurve) -> str:
    """A curve's setting, or its one run where it is not of all seeds that count."""
    setting = curve.setting
    return (
        setting.name if curve.runs == setting.counted else f"{setting.name} · {curve.runs[0].path}"
    )


def _name(arm: Arm, curve: LossCurve) -> str:
    if curve.runs == curve.setting.counted:
        return name(arm, curve.setting)
    run = curve.runs[0]
    if curve.is_complete:
        return run.name
    return f"{run.name} ({'ended early' if run.summary else 'unfinished'})"


def _loss_chart(
    grid: Grid, kind: str, where: str, found: Sequence[tuple[Arm, LossCurve]], every: int,
    axes: Sequence[str], currency: str | None,
) -> Chart:  # fmt: skip
    title, caption = _words(kind, [run for _, curve in found for run in curve.runs])
    most = max(point.rows for _, curve in found for point in curve.points)
    if most > 1:
        caption += f" A point is the mean over up to {most} neighbouring rows."
    if every > len(found):
        caption += (
            f" Drawn are the {len(found)} of {every} curves whose settings have the lowest losses."
        )
    lines = []
    for arm, curve in found:
        last = curve.points[-1]
        spread = f"{number(last.low)} to {number(last.high)}" if len(curve.runs) > 1 else ""
        cells = (f"{last.at['step']:,.0f}", number(last.value), spread)
        lines.append(Line(_name(arm, curve), cells, 3))
    unit = grid.measure[1]
    return Chart(
        title=title + where,
        caption=caption,
        alt=f"{title}{where}, {unit}",
        axis=f"{title.lower()}, {unit}",
        key="",
        heldout="" if kind == "train" else kind,
        labels=(),
        curves=tuple(
            ShownCurve(_id(curve), tuple(_shown(point, axes, curve) for point in curve.points))
            for arm, curve in found
        ),
        table=Table("Where each curve ends.", ("curve", "#step", f"#loss, {unit}", "#its seeds"),
                    tuple(lines)),
    )  # fmt: skip


def _shown(point: CurvePoint, axes: Sequence[str], curve: LossCurve) -> Shown:
    tip = {"text": number(point.value), "half": "", "repeats": "", "error": ""}
    if len(curve.runs) > 1:
        tip["half"] = f"{number(point.low)} to {number(point.high)} over {len(curve.runs)} seeds"
    tip["repeats"] = f"step {point.at['step']:,.0f}"
    at = {axis: point.at[axis] for axis in axes if axis in point.at}
    return Shown(at, point.value, (point.low, point.high), tip)


def _key_chart(grid: Grid, key: str, text: str) -> Chart | None:
    """The lowest loss at each value of a key; None where no model has two values with a loss."""
    arms = [arm for arm in grid.arms if arm.text == text]
    best: dict[str, dict[str, Setting]] = {}
    values: dict[str, Any] = {}
    for arm in arms:
        for setting in reversed(arm.ranked):  # the best of a value comes last and stays
            value = setting.values.get(key)
            best.setdefault(arm.name, {})[tuning.shown(value)] = setting
            values[tuning.shown(value)] = value
    if not any(len(by_value) > 1 for by_value in best.values()):
        return None
    are_numbers = all(type(value) in (int, float) for value in values.values())
    order = sorted(values, key=lambda shown: (values[shown] if are_numbers else 0, shown))
    places = {
        shown: values[shown] if are_numbers else place for place, shown in enumerate(order, 1)
    }
    curves, lines = [], []
    for arm in arms:
        points = []
        for shown in order:
            if shown not in best.get(arm.name, {}):
                continue
            setting = best[arm.name][shown]
            assert setting.mean is not None, "only settings with losses are ranked"
            low, high = setting.band or (setting.mean, setting.mean)
            tip = {"text": band(setting), "half": name(arm, setting), "repeats": "", "error": ""}
            points.append(Shown({"key": float(places[shown])}, setting.mean, (low, high), tip))
            lines.append(Line(name(arm), (shown, band(setting), name(arm, setting)), 1))
        if points:
            curves.append(ShownCurve(arm.name, tuple(points)))
    unit = grid.measure[1]
    where = (
        ""
        if len({arm.text for arm in grid.arms}) < 2
        else ", " + units.listing(list(map(name, arms)))
    )
    title = f"Validation loss against {key}{where}"
    return Chart(
        title=title,
        caption=KEYS,
        alt=f"{title}, {unit}",
        axis=f"validation loss, {unit}",
        key=key,
        heldout="",
        labels=() if are_numbers else tuple(order),
        curves=tuple(curves),
        table=Table("", ("model", f"#{key}", f"loss, {unit}", "setting"), tuple(lines)),
    )


# ---- tables --------------------------------------------------------------------------------------


def _best(grid: Grid) -> Table:
    lines = []
    for arm in grid.arms:
        numbers = [f"{arm.search.trials:,}", f"{len(arm.runs):,}"]
        if arm.best is None:
            cells = [*numbers, "", "none: no training reached its last step", "", ""]
        else:
            second, decided = trainings_text.next_best(arm)
            cells = [*numbers, band(arm.best), name(arm, arm.best), second, decided]
        lines.append(Line(name(arm), tuple(cells), 3))
    caption = (
        "The setting with the lowest mean loss of each model, among those on the most tokens; "
        "trials are the different settings tried, whatever became of them."
    )
    headings = (
        "model", "#trials", "#trainings", f"#loss, {grid.measure[1]}", "best setting", "next",
        "best against next",
    )  # fmt: skip
    return Table(caption, headings, tuple(lines))


def _trainings(grid: Grid, currency: str | None, price: Price | None) -> Table:
    """Every training, with its name and how it ended."""
    lines = []
    with_cost = currency is not None and any(cost_of(run, price) is not None for run in grid.runs)
    for arm in grid.arms:
        best = {run.path for run in arm.best.counted} if arm.best else set()
        for setting in arm.settings:
            for run in setting.runs:
                operations, cost = compute(run), cost_of(run, price)
                numbers = [
                    "" if run.seed is None else str(run.seed),
                    _figure(run, "tokens", "{:,.0f}"),
                    "" if operations is None else flops(operations),
                    _figure(run, "train_seconds", "{:,.1f}"),
                    *([("" if cost is None else units.significant(cost))] if with_cost else []),
                    _figure(run, "val_loss", "{:.3f}"),
                    _figure(run, "val_bits_per_byte", "{:.3f}"),
                ]
                how = run.how_it_ended
                if run.path in best:
                    how += ", best setting"
                elif run.is_complete and run not in setting.counted:
                    how += ", the same setting and seed as another"
                cells = (*numbers, name(arm, setting), how)
                lines.append(Line(run.name, cells, len(numbers), series(arm, setting)))
    headings = (
        "run", "#seed", "#tokens", "#compute, operations", "#seconds",
        *([f"#cost, {currency}"] if with_cost else []), "#loss, nats per token", "#bits per byte",
        "setting", "ended",
    )  # fmt: skip
    return Table("", headings, tuple(lines))


def cost_of(run: TrainingRun, price: Price | None) -> float | None:
    """The cost of the whole training: at the report's price, or as its own last row says."""
    if price is not None:
        spent = run.figure("train_seconds")
        return None if spent is None else spent / 3600 * price.per_hour
    return last_figure(run, "train/cost")


def last_figure(run: TrainingRun, key: str) -> float | None:
    """The last figure of this name in a training's rows; None if there is none above zero."""
    values = (row.get(key) for row in reversed(run.rows))
    return next((one for one in values if one is not None and 0 < one < LARGEST), None)


def _figure(run: TrainingRun, key: str, form: str) -> str:
    value = run.figure(key)
    return "" if value is None else form.format(value)
