"""Trainings in sentences: what was found, who was searched how, and what is left open."""

from __future__ import annotations

from core.units import capital, counted, listing
from probes.analysis import tuning
from probes.analysis.dataset import Series
from probes.analysis.training_grid import (
    BITS,
    Arm,
    Grid,
    Pair,
    Setting,
    Verdict,
    verdict,
)
from probes.report import phrases

MOST_PAIRS = 12  # that are put into words
OBSTACLES = {
    "search": "they were not searched alike",
    "size": "their numbers of parameters differ",
    "tokens": "they were trained on different numbers of tokens",
}
"""What must be equal before two models are compared, and is not."""
LUCK = (
    "The best of a search is chosen by the very loss that is shown, so of two equal models the one "
    "that was tried more often looks better."
)


def series(arm: Arm, setting: Setting | None = None) -> Series:
    """An arm, or one of its settings, as the other parts of a report know it."""
    return Series(setting.name if setting else arm.name, arm.runs[0].model, (), arm.recurrent,
                  arm.title)  # fmt: skip


def name(arm: Arm, setting: Setting | None = None) -> str:
    """`RWKV-4`, `RWKV-4 lr 0.0028`."""
    return phrases.name(series(arm, setting))


def spoken(arm: Arm, setting: Setting | None = None) -> str:
    """The name inside a sentence: `the Transformer`."""
    return phrases.spoken(series(arm, setting))


def number(value: float) -> str:
    return f"{value:.3f}"


def band(setting: Setting) -> str:
    """`4.847 (4.801 to 4.902 over 3 seeds)`, or the loss of one seed."""
    assert setting.mean is not None
    if setting.band is None:
        return number(setting.mean)
    low, high = setting.band
    return (
        f"{number(setting.mean)} ({number(low)} to {number(high)} over {len(setting.losses)} seeds)"
    )


def predicted(pair: Pair) -> str:
    """What both were trained to predict."""
    runs = (*pair.lower.runs, *pair.higher.runs)
    return phrases.predicted(run.figure("val_accuracy") for run in runs)


def headline(grid: Grid) -> str:
    """The answer in one sentence; the first paragraph says what it rests on."""
    if grid.pairs:
        pair = grid.pairs[0]
        first, second = spoken(pair.lower), spoken(pair.higher)
        if pair.obstacles:
            reasons = listing(
                [OBSTACLES.get(each, f"their {each} differs") for each in pair.obstacles]
            )
            return f"{capital(first)} and {second} are not compared: {reasons}."
        if not pair.verdict.decided:
            return (
                f"It is not decided whether {first} or {second} predicts {predicted(pair)} better."
            )
        return f"{capital(first)} predicts {predicted(pair)} better than {second}."
    best = [arm for arm in grid.arms if arm.best is not None]
    if not best and any(run.is_complete for run in grid.runs):
        none = "This training has no" if len(grid.runs) == 1 else "None of these trainings has a"
        return f"{none} validation loss in {grid.measure[1]}: there is none to compare."
    if not best:
        none = "This training was not" if len(grid.runs) == 1 else "None of these trainings was"
        return f"{none} trained to its last step: there is no loss to compare."
    said = [f"{spoken(arm)} {band(arm.best)}" for arm in best if arm.best]
    return f"Validation loss at the end, in {grid.measure[1]}: {listing(said)}."


def paragraphs(grid: Grid) -> list[str]:
    """Every comparison, who was searched how, and what takes no part."""
    unit = grid.measure[1]
    texts = [grounds(pair, unit) for pair in grid.pairs[:1]]  # the headline is its verdict
    texts += [pair_verdict(pair, unit) for pair in grid.pairs[1:MOST_PAIRS]]
    if len(grid.pairs) > MOST_PAIRS:
        texts.append(f"{len(grid.pairs) - MOST_PAIRS} more comparisons are not put into words.")
    told = {arm.name for pair in grid.pairs[:MOST_PAIRS] for arm in (pair.lower, pair.higher)}
    if others := [searched(arm) for arm in grid.arms if arm.name not in told]:
        texts.append(" ".join(others))
    if any(not arm.search.is_none for arm in grid.arms):
        texts.append(LUCK)
    texts += [text for arm in grid.arms if (text := edge(arm))]
    if text := left_out(grid):
        texts.append(text)
    return texts


def warnings(grid: Grid) -> list[str]:
    """What stands above everything else."""
    said = []
    if grid.texts > 1:
        said.append(
            f"These trainings were validated on {grid.texts} different texts. Losses on different "
            "texts cannot be compared, and none of them are: each text has its own charts."
        )
    if grid.measure == BITS:
        said.append(
            "Corpora or tokenizers differ, so losses are given in bits per byte of text: a loss "
            "per token depends on how long the tokens are."
        )
    damaged = [run.damage for run in grid.runs if run.damage]
    if damaged:
        more = f"; and of {len(damaged) - 1} more" if len(damaged) > 1 else ""
        said.append(f"Damaged rows of metrics were left out: {damaged[0]}{more}.")
    return said


def pair_verdict(pair: Pair, unit: str) -> str:
    """Which model predicts better; or that it is not decided, or not to be compared."""
    first, second = spoken(pair.lower), spoken(pair.higher)
    if pair.obstacles:
        said = f"{capital(first)} and {second} are not compared"
    elif pair.verdict.decided:
        said = f"{capital(first)} predicts {predicted(pair)} better than {second}"
    else:
        said = f"It is not decided whether {first} or {second} predicts {predicted(pair)} better"
    return f"{said}. {grounds(pair, unit)}"


def grounds(pair: Pair, unit: str) -> str:
    """What the verdict on two models rests on: their losses, their seeds, and their searches."""
    lower, higher = pair.lower, pair.higher
    assert lower.best is not None and higher.best is not None
    first, second = spoken(lower), spoken(higher)
    losses = f"{band(lower.best)} and {band(higher.best)} {unit}"
    if pair.obstacles:
        reasons = "; ".join(obstacle(pair, each) for each in pair.obstacles)
        return f"The lowest losses of {first} and {second} are {losses}; {reasons}."
    if lower.search.record is not None:
        how = f"The same search chose the settings of both, {tuning.chosen(lower.search.record)}"
    elif lower.search.is_none:
        how = "Neither was searched: each was trained with one setting, the same for both"
    else:
        how = f"Both had the same search, {tuning.describe(lower.search)}"
    start = f"The losses of {first} and {second} are {losses}"
    return f"{start}; {why(pair.verdict, lower.best, higher.best)}. {how}."


def obstacle(pair: Pair, what: str) -> str:
    """Why two models may not be compared, with what differs."""
    arms = (pair.lower, pair.higher)
    if what == "search":
        details = [f"{spoken(arm)}: {tuning.describe(arm.search)}" for arm in arms]
    elif what == "size":
        details = [f"{arm.parameters:,.0f}" if arm.parameters else "unknown" for arm in arms]
    elif what == "tokens":
        details = [f"{arm.best.tokens:,.0f}" if arm.best else "" for arm in arms]
    else:
        return f"their {what} differs"
    return f"{OBSTACLES[what]} ({'; '.join(details)})"


def why(found: Verdict, first: Setting, second: Setting) -> str:
    """What the verdict on two settings rests on."""
    n, m = len(first.losses), len(second.losses)
    if not found.bands:
        one = "both are" if n == m == 1 else "one is"
        return f"{one} of one seed, so how much of the difference is luck is not known"
    if not found.apart:
        return "the bands of their seeds overlap"
    chance = f"{100 * found.chance:.2g} %"
    if not found.decided:
        return (
            f"their bands lie apart, but with {n} and {m} seeds chance does that in {chance} of "
            "cases"
        )
    return f"every seed of one ended below every seed of the other, by chance in {chance} of cases"


def next_best(arm: Arm) -> tuple[str, str]:
    """The second setting of an arm, and whether the best is decidedly better."""
    if len(arm.ranked) < 2:
        return "", ""
    best, second = arm.ranked[:2]
    found = verdict(best, second)
    if found.decided:
        said = "decided"
    elif not found.bands:
        said = "not decided: one seed"
    else:
        said = "not decided: bands overlap" if not found.apart else "not decided: too few seeds"
    return f"{name(arm, second)}: {band(second)}", said


def searched(arm: Arm) -> str:
    """`RWKV-4: 5 trainings of 5 settings of optim.lr (...), seed 0.`"""
    return f"{name(arm)}: {tuning.describe(arm.search)}."


def edge(arm: Arm) -> str:
    """That the best value is the smallest or the largest tried, so a better one may lie beyond."""
    if not arm.at_the_edge or arm.best is None:
        return ""
    keys = listing([f"{key}={tuning.shown(arm.best.values[key])}" for key in arm.at_the_edge])
    return (
        f"The best setting of {spoken(arm)} lies at the edge of what was tried ({keys}): a better "
        "one may lie beyond."
    )


def left_out(grid: Grid) -> str:
    """How many trainings take no part in any comparison, and why."""
    early = sum(1 for run in grid.runs if run.summary and run.ended_early)
    open_ = sum(1 for run in grid.runs if run.summary is None)
    complete = [run for run in grid.runs if run.is_complete]
    counting = {run.path for arm in grid.arms for one in arm.settings for run in one.counted}
    unknown = sum(1 for run in complete if run.figure(grid.measure[0]) is None)
    again = sum(1 for run in complete if run.path not in counting) - unknown
    ranked = {run.path for arm in grid.arms for one in arm.ranked for run in one.counted}
    shorter = len(counting - ranked)
    parts = []
    if early:
        parts.append(f"{counted(early, 'training')} that ended early")
    if open_:
        parts.append(
            f"{counted(open_, 'training')} without a summary, which did not finish or lost it"
        )
    if unknown:
        parts.append(
            f"{counted(unknown, 'training')} without a validation loss in {grid.measure[1]}"
        )
    if again:
        parts.append(f"{counted(again, 'training')} that repeated a setting with the same seed")
    if shorter:
        parts.append(
            f"{counted(shorter, 'training')} on fewer tokens than others of the same model"
        )
    if not parts:
        return ""
    return f"No best was chosen among {listing(parts)}; they are marked in the table below."
