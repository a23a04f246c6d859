"""Numbers and findings in plain English. Every sentence of the report is made here.

The rule: say where the recurrent model loses before saying where it wins, give the measured
numbers, and claim nothing about lengths that were not measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from probes.collect import Arm, Material
from probes.compare import Crossing, Curve, Finding, Point, Slope

FAILURES = {
    "oom": "ran out of memory",
    "timeout": "did not finish within the time limit",
    "error": "failed with an error",
}

# ---- numbers -------------------------------------------------------------------------------------


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, thousands separated, never in exponent form."""
    if value == 0:
        return "0"
    magnitude = len(f"{abs(value):.0f}") if abs(value) >= 1 else 1 - _leading_zeros(abs(value))
    rounded = round(value, digits - magnitude)
    return f"{rounded:,.{max(0, digits - magnitude)}f}"


def _leading_zeros(value: float) -> int:
    return -int(f"{value:e}".split("e")[1])


def tokens(length: float) -> str:
    """A measured length as it is, an interpolated one to three significant digits."""
    return f"{length:,}" if isinstance(length, int) else significant(length)


def seconds(value: float) -> str:
    for scale, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if value < 999.5 * scale:
            return f"{significant(value / scale)} {unit}"
    return f"{significant(value)} s" if value < 600 else f"{significant(value / 60)} min"


def size_bytes(value: float) -> str:
    for power, unit in enumerate(("B", "KiB", "MiB")):
        if value < 999.5 * 1024**power:
            return f"{significant(value / 1024**power)} {unit}"
    return f"{significant(value / 1024**3)} GiB"


def quantity(value: float, unit: str) -> str:
    return seconds(value) if unit == "s" else size_bytes(value)


def times(ratio: float) -> str:
    """How many times as much, for a ratio of at least 1."""
    return f"{significant(ratio, 2)} times as"


def listing(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def name(arm: Arm) -> str:
    """A contestant's name as people write it: RWKV-7, GPT, Transformer."""
    known = {"gpt": "GPT", "transformer": "Transformer"}
    shown = known.get(arm.contestant) or re.sub(r"^rwkv(\d.*)$", r"RWKV-\1", arm.contestant)
    return shown + arm.label.removeprefix(arm.contestant)


def interval(crossing: Crossing, finding: Finding) -> str:
    """The 95 % interval in words; an end outside the measured lengths is said to be there."""
    if crossing.low is None and crossing.high is None:
        single = _single(finding)
        return "one value per point, no interval" if single else "95 % interval wider than the range"
    low = f"below {tokens(finding.lengths[0])}"
    high = f"above {tokens(finding.lengths[-1])}"
    if crossing.low is not None:
        low = significant(crossing.low)
    if crossing.high is not None:
        high = significant(crossing.high)
    return f"95 % interval {low} to {high}"


def _single(finding: Finding) -> bool:
    points = finding.recurrent.measured | finding.attention.measured
    return all(len(point.values) == 1 for point in points.values())


# ---- one finding ---------------------------------------------------------------------------------


def span(finding: Finding) -> str:
    return f"{tokens(finding.lengths[0])} to {tokens(finding.lengths[-1])} tokens"


def verdict(finding: Finding) -> str:
    """Who is cheaper where in one measure, in one sentence."""
    mine, other, noun = name(finding.recurrent.arm), name(finding.attention.arm), finding.measure.noun
    if finding.kind == "missing":
        return f"No comparison of {noun}: {missing_reason(finding)}."
    if finding.kind == "equal":
        return f"{mine} and {other} need the same {noun} at every length measured, {span(finding)}."
    if finding.kind in ("always", "never"):
        more = "less" if finding.kind == "always" else "more"
        where = f"at every length measured, {span(finding)}"
        if finding.kind == "never" and any(finding.ratio(at) == 1 for at in finding.lengths):
            return f"{mine} never needs less {noun} than {other} {where}."
        return f"{mine} needs {more} {noun} than {other} {where}."
    if finding.kind == "several":
        places = listing([tokens(one.length) for one in finding.crossings])
        return (
            f"The curves of {noun} of {mine} and {other} cross {len(finding.crossings)} times "
            f"between {span(finding)} (near {places}): there is no single crossover."
        )
    crossing = finding.crossings[0]
    place = f"about {tokens(crossing.length)} tokens of context ({interval(crossing, finding)})"
    if finding.kind == "crosses":
        return f"From {place}, {mine} needs less {noun} than {other}."
    return f"Only up to {place}, {mine} needs less {noun} than {other}; beyond, it needs more."


def missing_reason(finding: Finding) -> str:
    empty = [name(one.arm) for one in (finding.recurrent, finding.attention) if not one.points]
    if empty:
        return "not probed" if len(empty) == 2 else f"{empty[0]} was not probed"
    shared = len(finding.lengths)
    return f"it needs two lengths measured for both, and there {'is one' if shared else 'are none'}"


def reason(finding: Finding) -> str:
    """What to know about a finding; the `reason` of crossover.json."""
    if finding.kind == "missing":
        return missing_reason(finding)
    pair = f"{finding.recurrent.arm.label} against {finding.attention.arm.label}"
    return f"{pair}, {span(finding)}: {finding.note}"


def failures(one: Curve) -> str:
    """`GPT ran out of memory at 8,192 tokens.`, or nothing."""
    parts = []
    for status, phrase in FAILURES.items():
        if lengths := [tokens(point.length) for point in one.failed if point.status == status]:
            parts.append(f"{phrase} at {listing(lengths)} tokens")
    return f"{name(one.arm)} {listing(parts)}." if parts else ""


def example(finding: Finding, length: int) -> str:
    """`at 512 tokens 20.1 ms against 12.0 ms, 1.7 times as much`, the recurrent arm first."""
    unit, ratio = finding.measure.unit, finding.ratio(length)
    mine = quantity(finding.recurrent.measured[length].median, unit)
    other = quantity(finding.attention.measured[length].median, unit)
    more = "much" if ratio >= 1 else "little"
    factor = times(max(ratio, 1 / ratio))
    return f"at {tokens(length)} tokens {mine} against {other}, {factor} {more}"


# ---- the paragraphs ------------------------------------------------------------------------------


def headline(material: Material, found: Sequence[Finding]) -> str:
    """The answer in one sentence, for training time or the first measure that was probed."""
    if not material.pairs:
        shown = listing([name(arm) for arm in material.arms])
        return f"Only {shown} was measured: a crossover needs an RWKV and an attention model."
    told = [one for one in found if one.kind != "missing"]
    if not told:
        return "No probe was measured at two context lengths for both kinds of model."
    measure = told[0].measure
    same = [one for one in told if one.measure == measure]
    if len(same) == 1:
        return verdict(same[0])
    crossing = [one for one in same if one.kind == "crosses"]
    if not crossing:
        return (
            f"In {measure.noun}, no RWKV of {len(same)} pairs overtakes an attention model at a "
            "single length within the range measured."
        )
    first = min(crossing, key=lambda one: one.crossings[0].length)
    return (
        f"In {measure.noun}, RWKV overtakes attention in {len(crossing)} of {len(same)} pairs, "
        f"first at about {tokens(first.crossings[0].length)} tokens "
        f"({name(first.recurrent.arm)} against {name(first.attention.arm)})."
    )


def story(material: Material, found: Sequence[Finding], pair: tuple[Arm, Arm]) -> list[str]:
    """Paragraphs about one pair for a reader who does not know what attention is."""
    mine, other = name(pair[0]), name(pair[1])
    told = [
        one for one in found if (one.recurrent.arm, one.attention.arm) == pair
        and one.kind != "missing" and not one.measure.key.endswith("fixed_tokens")
    ]  # fmt: skip
    paragraphs = [_losses(material, told, pair), _explanation(mine, other), _wins(told, mine)]
    paragraphs += [_limits(told), memory_note(pair)]
    return [paragraph for paragraph in paragraphs if paragraph]


def _losses(material: Material, told: Sequence[Finding], pair: tuple[Arm, Arm]) -> str:
    mine = name(pair[0])
    sentences = [sentence for one in told if (sentence := _loss(one))]
    quality, worse = quality_sentence(material, pair)
    if worse:
        sentences.append(quality)
    if sentences:
        text = f"First, where {mine} loses. " + " ".join(sentences)
    elif told:
        text = f"{mine} lost at no length measured here; shorter ones may differ."
    else:
        text = "There is not enough here to say where either model loses."
    return text if worse else f"{text} {quality}"


def _loss(finding: Finding) -> str:
    dearer = [length for length in finding.lengths if finding.ratio(length) > 1]
    if not dearer:
        return ""
    noun = finding.measure.noun
    if finding.kind == "crosses":
        where = f"Below about {tokens(finding.crossings[0].length)} tokens of context it needs more"
    elif len(dearer) == len(finding.lengths):
        where = "At every context length measured it needs more"
    elif finding.kind == "reverse":
        where = f"Above about {tokens(finding.crossings[0].length)} tokens of context it needs more"
    else:
        where = f"At {listing([tokens(length) for length in dearer])} tokens it needs more"
    worst = max(dearer, key=finding.ratio)
    return f"{where} {noun}: {example(finding, worst)}."


def quality_sentence(material: Material, pair: tuple[Arm, Arm]) -> tuple[str, bool]:
    """How well the two predict text, and whether the recurrent one is the worse."""
    mine, other = (material.trainings_of(arm) for arm in pair)
    if not mine or not other:
        lacking = " and ".join(name(arm) for arm, runs in zip(pair, (mine, other)) if not runs)
        return f"How well the two predict text is not known: no finished training of {lacking}.", False
    loss = [fmean(run["val_loss"] for run in runs) for runs in (mine, other)]
    bits = [fmean(run["val_bits_per_byte"] for run in runs) for runs in (mine, other)]
    numbers = (
        f"a validation loss of {loss[0]:.3f} against {loss[1]:.3f} nats per token "
        f"({bits[0]:.3f} against {bits[1]:.3f} bits per byte), lower being better"
    )
    first, second = name(pair[0]), name(pair[1])
    if loss[0] == loss[1]:
        return f"After the same training both predict new text equally well: {numbers}.", False
    word = "less well" if loss[0] > loss[1] else "better"
    sentence = f"After the same training {first} predicts new text {word} than {second}: {numbers}."
    return sentence, loss[0] > loss[1]


def _explanation(mine: str, other: str) -> str:
    return (
        "What is being compared: a language model reads text in pieces called tokens, and the "
        "context length is how many of them it takes into account at once. "
        f"{other}, like every Transformer, looks back at all earlier tokens for each new one "
        "(this is called attention), so a text twice as long takes about four times as much "
        f"looking back. {mine} keeps a summary of fixed size instead and updates it token by "
        "token, so a text twice as long takes about twice the work. What this costs in practice "
        "depends on how well each runs on the machine, which is why it is measured."
    )


def _wins(told: Sequence[Finding], mine: str) -> str:
    sentences = []
    for finding in told:
        cheaper = [length for length in finding.lengths if finding.ratio(length) < 1]
        if cheaper:
            best = min(cheaper, key=finding.ratio)
            sentences.append(f"{finding.measure.noun}, {example(finding, best)}")
    if not sentences:
        return f"{mine} won nowhere in the range measured." if told else ""
    return f"Where {mine} wins, at its best: " + "; ".join(sentences) + "."


def _limits(told: Sequence[Finding]) -> str:
    said = [failures(one) for finding in told for one in (finding.recurrent, finding.attention)]
    return " ".join(dict.fromkeys(sentence for sentence in said if sentence))


def memory_note(pair: tuple[Arm, Arm]) -> str:
    """What the attention kernel that ran does to training memory; nothing about unknown ones."""
    other = pair[1]
    growth = {
        "flash": "never stores the table of scores: its training memory grows linearly with the "
        "context and its compute quadratically",
        "efficient": "never stores the whole table of scores: its training memory grows linearly "
        "with the context and its compute quadratically",
        "math": "stores the whole table of scores: this part of its training memory grows "
        "quadratically with the context, as its compute does",
    }
    used = other.backends("train").get("attention") or other.backends().get("attention", [])
    sentences = [
        f"The attention of {name(other)} ran on the {kernel} back end, which {growth[kernel]}."
        for kernel in used
        if kernel in growth
    ]
    return " ".join(sentences)


def unique(values: Iterable[Any]) -> str:
    """Distinct values as text, for the machine table."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def bounds(slope: Slope) -> str:
    """The interval of a slope."""
    if slope.low is None or slope.high is None:
        return "one value per point"
    return f"{slope.low:.2f} to {slope.high:.2f}"


def point_text(point: Point, unit: str) -> str:
    """One point in a table: its median, or why there is none."""
    return quantity(point.median, unit) if point.status == "ok" else point.status
