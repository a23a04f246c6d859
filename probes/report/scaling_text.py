"""The scaling study in sentences a layman can read, and in words for the cells of tables."""

from __future__ import annotations

from core.interval import Interval
from core.units import capital, listing, significant
from probes.analysis.dataset import Series
from probes.analysis.estimators import interval_of
from probes.analysis.scaling_study import Comparison, Family, Spending, Study
from probes.report.phrases import INTERVAL, name, spoken

UNIT = "nats per token"
ABOUT = (
    "These trainings differ in their number of parameters or in their amount of text; the product "
    "of the two, times a constant, is about the training compute, the arithmetic that was spent. "
    "The question is which kind of model predicts new text better when both spend equally "
    "much. The loss says how badly a model predicts; lower is better."
)
BEYOND = (
    "The dashed ends of the curves continue the fitted law beyond every training that was run. "
    "Nothing was measured there, and the bands know nothing of a law that changes its form. Nor do "
    "they know of learning rates that suit one kind of model better than the other."
)


def series(family: Family) -> Series:
    """The family as the other parts of a report know it."""
    return Series(family.label, family.model, (), family.recurrent, family.title)


def headline(study: Study) -> str:
    """The answer in one sentence."""
    if study.comparisons:
        return verdict(study.comparisons[0], -1)
    shown = listing([spoken(series(family)) for family in study.families])
    return (
        f"How the loss of {shown} falls with training compute. A comparison needs a recurrent "
        "and an attention model, with enough trainings to fit a law to each."
    )


def paragraphs(study: Study) -> list[str]:
    """What was asked and found (what the recurrent one loses first), and what it does not say."""
    texts = [ABOUT, *(comparison(pair) for pair in study.comparisons)]
    texts += [text for family in study.families if (text := growth(family))]
    if study.spending:
        texts.append(shared(study.spending))
    if any(family.law for family in study.families):
        texts.append(BEYOND)
    return texts


def verdict(compared: Comparison, place: int) -> str:
    """Who predicts better with one amount of compute, and whether that is sure."""
    mine, other = (spoken(series(family)) for family in (compared.recurrent, compared.attention))
    where = f"With {flops(compared.compute[place])} operations of training compute"
    if place in (-1, len(compared.compute) - 1):
        where += ", the most that both were given"
    gap = compared.differences[place]
    assert gap.ends is not None
    low, high = gap.ends
    if low <= 0 <= high:
        return (
            f"{where}, it is not decided whether {mine} or {other} predicts new text better: the "
            f"difference of their losses, {gap.number:+.3f} {UNIT}, is within its {INTERVAL}"
            f"{low:+.3f} to {high:+.3f}."
        )
    word, change = ("worse", "higher") if gap.number > 0 else ("better", "lower")
    low, high = sorted(map(abs, gap.ends))
    return (
        f"{where}, {mine} predicts new text {word} than {other}: its loss is {abs(gap.number):.3f} "
        f"{UNIT} {change} ({INTERVAL}{low:.3f} to {high:.3f})."
    )


def comparison(compared: Comparison) -> str:
    """The verdicts, those against the recurrent family first, and what the compute buys."""
    places = sorted(
        range(len(compared.compute)), key=lambda place: -compared.differences[place].number
    )
    said = [verdict(compared, place) for place in places]
    return " ".join([*said, saving(compared)])


def saving(compared: Comparison) -> str:
    """How much compute the recurrent family needs for the other's loss."""
    mine, other = (spoken(series(family)) for family in (compared.recurrent, compared.attention))
    if compared.saving.value is None:
        if compared.differences[-1].number > 0:
            return capital(
                f"{mine} did not reach the loss of {other} with any compute it was given."
            )
        return (
            f"Already with the least compute compared, {mine} reaches the loss that {other} "
            "reaches with the most."
        )
    low, high = (
        significant(end, 2) if end else "" for end in (compared.saving.low, compared.saving.high)
    )
    sure = f"{INTERVAL}{low} to {high}" if low and high else f"{INTERVAL}wider than was measured"
    return (
        f"For the loss that {other} reaches with the most compute, {mine} needs "
        f"{significant(compared.saving.value, 2)} times that compute ({sure})."
    )


def growth(family: Family) -> str:
    """What ten times the compute buys, on average over what was measured."""
    slope = family.exponent(*family.span)
    if slope is None or slope.ends is None:
        return ""
    shares = [100 * (1 - 10**-exponent) for exponent in (slope.number, *slope.ends)]
    return (
        f"Ten times the compute lowers the loss of {spoken(series(family))} by {shares[0]:.1f} % "
        f"({INTERVAL}{shares[1]:.1f} to {shares[2]:.1f} %), on average over what was measured."
    )


def shared(spending: Spending) -> str:
    """What the study cost, where its trainings share steps."""
    return (
        "These trainings share steps: each is a branch of a longer one, and its compute is that of "
        f"all steps that led to it. Together that is {flops(spending.lineages)} operations; "
        f"{flops(spending.computed)} were computed, shared steps once, which is "
        f"{significant(spending.saving, 2)} times less than training each from its beginning."
    )


def law_cells(family: Family) -> list[str]:
    """Number of trainings, compute, law, its weight, floor, exponents, mean slope, scatter."""
    spread = " to ".join(flops(end) for end in family.span)
    start = [str(len(family.trials)), spread]
    slope = family.exponent(*family.span)
    if family.law is None or slope is None:
        return [*start, "too few or too similar to fit", "", "", "", "", ""]
    law, numbers = family.law, coefficients(family)
    floor = bounded(numbers["E"], 2) if "E" in numbers else "0 (assumed)"
    exponents = ", ".join(
        f"{key} {bounded(number, 2)}" for key, number in numbers.items() if key != "E"
    )
    weight, scatter = f"{law.weights[law.form]:.2f}", f"{100 * law.scatter:.2g} %"
    return [*start, law.form, weight, floor, exponents, bounded(slope, 3), scatter]


LAW_HEADINGS = (
    "model", "#trainings", "#compute, operations", "law", "weight", "floor E", "exponents",
    "mean slope p of C^-p", "scatter",
)  # fmt: skip
TRIAL_HEADINGS = (
    "model", "size", "#parameters", "#tokens", "#compute, operations", f"#loss, {UNIT}",
    "run",
)  # fmt: skip


def coefficients(family: Family) -> dict[str, Interval]:
    """Floor E, if the law has one, and exponents α, β, each with its interval."""
    if family.law is None:
        return {}
    best, drawn = family.law.best, family.law.drawn
    numbers = {}
    if family.law.form.startswith("E"):
        numbers["E"] = interval_of(best.floor[0], drawn.floor)
    for term, letter in zip(range(best.exponents.shape[1]), "αβ", strict=False):
        numbers[letter] = interval_of(best.exponents[0, term], drawn.exponents[:, term])
    return numbers


def trial_cells(family: Family) -> list[list[str]]:
    """One row per training under `TRIAL_HEADINGS`, without the model."""
    return [
        [
            trial.size,
            f"{trial.parameters:,.0f}",
            f"{trial.tokens:,.0f}",
            flops(trial.flops),
            f"{trial.loss:.3f}",
            trial.name,
        ]
        for trial in family.trials
    ]


def title(family: Family) -> str:
    return name(series(family))


def flops(value: float) -> str:
    """`3.2e12`."""
    return f"{value:.1e}".replace("e+", "e")


def bounded(interval: Interval, digits: int) -> str:
    """`0.061 (0.055 to 0.067)`."""
    value = f"{interval.number:.{digits}f}"
    if interval.ends is None:
        return value
    return f"{value} ({' to '.join(f'{end:.{digits}f}' for end in interval.ends)})"
