"""The answer and the paragraphs of the report, for a reader who does not know what attention is.

The rule: say where the recurrent model loses before saying where it wins, give the measured
numbers, and claim nothing about lengths that were not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from probes import compare, words
from probes.collect import Arm, Material
from probes.compare import Curve, Finding
from probes.ratios import ABOVE, BELOW, EQUAL
from probes.rows import Row

SHAPES = "a + bT, a + bT log T and a + bT + cT²"


def headline(material: Material, found: Sequence[Finding]) -> str:
    """The answer in one sentence, for training time or the first measure that was probed."""
    if not material.pairs:
        shown = words.listing([words.spoken(arm) for arm in material.arms])
        were = "was" if len(material.arms) == 1 else "were"
        needs = "a crossover needs a recurrent and an attention model"
        return f"Only {shown} {were} measured: {needs}."
    if is_too_busy(found):
        return _busy([row for row in material.rows if row.is_disturbed])
    same = _answering(found)
    if not same:
        done = "finished" if any(_failed(one) for one in found) else "was measured"
        return f"No probe {done} at two context lengths for both kinds of model."
    measure = same[0].measure
    if len(same) == 1:
        return _answer(same[0])
    every = len([one for one in found if one.measure == measure])
    return f"In {measure.noun}, {_counts(same)}{_uncompared(every - len(same), every)}."


PAIRS = {
    "always": "is cheaper wherever the two differ",
    "reverse": "is cheaper only up to some length",
    "several": "crosses attention more than once",
    "equal": "needs the same at every length compared",
    "undecided": "has no crossover that is decided",
    "never": "is cheaper at no length compared",
}
"""By kind of finding, what a recurrent model does in so many pairs."""


def _counts(same: Sequence[Finding]) -> str:
    """In how many pairs of one measure the recurrent model does what."""
    every = f"{len(same)} pairs of a recurrent and an attention model"
    told = []
    if crossing := [one for one in same if one.kind == "crosses"]:
        first = min(crossing, key=lambda one: one.crossings[0].length)
        told.append(
            f"the recurrent model overtakes attention in {len(crossing)} of {every}, first at "
            f"about {words.tokens(first.crossings[0].length)} tokens of context "
            f"({words.name(first.recurrent.arm)} against {words.name(first.attention.arm)})"
        )
    for kind, does in PAIRS.items():
        if count := len([one for one in same if one.kind == kind]):
            told.append(f"in {count} it {does}" if told else _first(count, every, does))
    return "; ".join(told)


def _first(count: int, every: str, does: str) -> str:
    return f"in {count} of {every} the recurrent one {does}"


def _uncompared(count: int, every: int) -> str:
    return f"; {count} of all {every} pairs could not be compared" if count else ""


def _busy(disturbed: Sequence[Row]) -> str:
    """A measurement is a point in one process: that is what the command repeats."""
    count = len(disturbed)
    kept = all("remeasure=0" in row.command.split() for row in disturbed)
    return (
        f"This machine was too busy to say; run the same command again{BUT if kept else ''}: it "
        f"repeats the {count:,} disturbed measurement{'' if count == 1 else 's'}."
    )


BUT = " without remeasure=0"


def is_too_busy(found: Sequence[Finding]) -> bool:
    """Whether disturbed points are why the first measure that was probed says nothing: they are at
    as many lengths as are left, and none of those is decided."""
    probed = [one for one in found if one.recurrent.points and one.attention.points]
    first = [one for one in probed if one.measure == probed[0].measure]
    lost = {point.length for one in first for point in one.disturbed}
    left = {length for one in first for length in one.sides}
    decided = any(one.on(BELOW, ABOVE, EQUAL) and one.kind != "missing" for one in first)
    return bool(lost) and len(lost) >= len(left) and not decided


def _answering(found: Sequence[Finding]) -> list[Finding]:
    """The findings that the headline is about."""
    told = [one for one in found if one.kind != "missing"]
    return [one for one in told if one.measure == told[0].measure]


def _answer(finding: Finding) -> str:
    mine, other = words.spoken(finding.recurrent.arm), words.spoken(finding.attention.arm)
    wins = finding.measure.wins
    if finding.kind in ("equal", "several"):
        return words.verdict(finding)
    ends = words.exceptions(finding)
    if finding.kind in ("crosses", "reverse"):
        start = "From" if finding.kind == "crosses" else "Only up to"
        place = f"about {words.tokens(finding.crossings[0].length)} tokens of context"
        return f"{start} {place}, {mine} {wins} than {other}{ends}."
    cheaper, dearer = finding.on(BELOW), finding.on(ABOVE)
    known = words.compared(finding)
    everywhere = f"at every context length {known}, {words.span(finding)}"
    if len(cheaper) == len(finding.sides):
        return words.capital(f"{mine} {wins} than {other} {everywhere}.")
    if finding.kind == "never":
        return f"At no context length {known}, {words.span(finding)}, {mine} {wins} than {other}."
    if cheaper:
        return words.capital(f"{mine} {wins} than {other} {words.where(finding, BELOW)}{ends}.")
    if dearer:
        return words.capital(f"{other} {wins} than {mine} {words.where(finding, ABOVE)}{ends}.")
    if finding.on(EQUAL):
        return words.verdict(finding)
    return (
        f"Whether {mine} {wins} than {other} is not decided at any context length {known}, "
        f"{words.span(finding)}."
    )


def answer_interval(found: Sequence[Finding]) -> str:
    """The interval that belongs to the headline, where it names the crossover of one pair."""
    same = _answering(found)
    if is_too_busy(found) or len(same) != 1 or same[0].kind not in ("crosses", "reverse"):
        return ""
    crossing = same[0].crossings[0]
    return words.interval(crossing) + (" tokens" if crossing.low is not None else "")


def answered_alone(found: Sequence[Finding]) -> Finding | None:
    """The one finding whose verdict the headline and its interval say already."""
    same = _answering(found)
    return same[0] if len(same) == 1 and not is_too_busy(found) else None


def story(material: Material, found: Sequence[Finding]) -> list[tuple[str, list[str]]]:
    """Blocks of paragraphs, each with a heading (empty with a single pair), for a reader who does
    not know what attention is. The first paragraph of every pair says where the recurrent one
    loses."""
    blocks = []
    for pair in material.pairs:
        own = [
            one for one in found
            if (one.recurrent.arm, one.attention.arm) == pair and one.measure.prose
        ]  # fmt: skip
        told = [one for one in own if one.kind != "missing"]
        losses = _losses(material, own, told, pair)
        wins = " ".join(filter(None, [_wins(own, words.spoken(pair[0])), _growth(told)]))
        blocks.append((pair, losses, wins))
    timed = [one for one in found if one.measure.field in ("seconds", "share")]
    sides = [(side, one.measure) for one in timed for side in (one.recurrent, one.attention)]
    lost = [words.failures(side, measure) for side, measure in sides]
    kernels = [memory_note(arm) for arm in material.arms if not arm.recurrent]
    rest = [" ".join(dict.fromkeys(filter(None, lost))), " ".join(filter(None, kernels))]
    rest = [text for text in rest if text]
    if len(blocks) == 1:
        pair, losses, wins = blocks[0]
        middle = _explanation(words.spoken(pair[0]), [pair[1]])
        return [("", [losses, middle, *filter(None, [wins]), *rest])]
    told_pairs = [
        (
            f"{words.name(pair[0])} against {words.name(pair[1])}",
            [text for text in (losses, wins) if text],
        )
        for pair, losses, wins in blocks
    ]
    if not blocks:  # one kind of model alone
        return [("", rest)] if rest else []
    attention = [arm for arm in material.arms if not arm.recurrent]
    return [
        *told_pairs,
        ("What is being compared", [_explanation("A recurrent model", attention), *rest]),
    ]


def _losses(
    material: Material, found: Sequence[Finding], told: Sequence[Finding], pair: tuple[Arm, Arm]
) -> str:
    mine = words.spoken(pair[0])
    sentences = [text for one in told if (text := _loss(one))]
    sentences += [text for one in found if (text := _lost_points(one))]
    unknown = _unknown(found)
    quality, worse = _quality(material, pair)
    if worse:
        sentences.append(quality)
    if sentences:
        start = (
            f"First, where {mine} loses; lengths are counted in tokens, which are pieces of words."
        )
        text = " ".join([start, *sentences])
    elif told and _is_open(found):
        text = (
            f"{words.capital(mine)} lost at no length where this is decided; where it is not, and "
            "at other lengths, it may."
        )
    elif told:
        text = f"{words.capital(mine)} lost at no length compared here; other lengths may differ."
    else:
        text = "There is not enough here to say where either model loses."
    text = " ".join(filter(None, [text, unknown]))
    return text if worse else f"{text} {quality}"


def _is_open(found: Sequence[Finding]) -> bool:
    """Whether something that was measured is not decided."""
    return any(one.between or one.disturbed for one in found)


def _failed(finding: Finding) -> bool:
    return bool(finding.recurrent.failed or finding.attention.failed)


def _unknown(found: Sequence[Finding]) -> str:
    """What was measured and is not compared: others disturbed it too much, or one length is all
    that both have."""
    missing = [one for one in found if one.kind == "missing"]
    said = []
    if nouns := [one.measure.noun for one in missing if one.disturbed]:
        said.append(f"Other processes disturbed too many points to compare {words.listing(nouns)}.")
    if nouns := [one.measure.noun for one in missing if one.lengths and not one.disturbed]:
        said.append(f"One length alone is too little to compare {words.listing(nouns)}.")
    return " ".join(said)


def _lost_points(finding: Finding) -> str:
    """Lengths at which only the recurrent arm did not finish."""
    finished = {*finding.attention.measured, *(one.length for one in finding.attention.disturbed)}
    alone = [point for point in finding.recurrent.failed if point.length in finished]
    if not alone or finding.measure.field != "seconds":
        return ""
    said = words.failures(Curve(finding.recurrent.arm, tuple(alone)), finding.measure)
    return f"{said.removesuffix('.')}, where {words.spoken(finding.attention.arm)} finished."


def _loss(finding: Finding) -> str:
    dearer = finding.on(ABOVE)
    if not dearer:
        return ""
    if len(dearer) == len(finding.sides):
        place = f"At every context length {words.compared(finding)}"
    else:
        place = words.capital(words.where(finding, ABOVE))
    if finding.kind in ("crosses", "reverse"):
        crossing, first = finding.crossings[0].length, finding.kind == "crosses"
        ends = words.tried(finding)
        known = ends[0] == finding.lengths[0] if first else ends[1] == finding.lengths[-1]
        beside = [length for length in finding.sides if (length < crossing) == first]
        if known and dearer == beside:
            side = "Below" if first else "Above"
            place = f"{side} about {words.tokens(crossing)} tokens of context"
    worst = max(dearer, key=finding.sure)
    return f"{place} it needs more {finding.measure.noun}: {words.loss_example(finding, worst)}."


def _quality(material: Material, pair: tuple[Arm, Arm]) -> tuple[str, bool]:
    """How well the two predict text, and whether the recurrent one is the worse."""
    mine, other = (material.trainings_of(arm) for arm in pair)
    if not mine or not other:
        lacking = [
            words.spoken(arm) for arm, runs in ((pair[0], mine), (pair[1], other)) if not runs
        ]
        return (
            "How well the two predict text is not known: "
            f"no finished training of {words.listing(lacking, 'or')} was given.",
            False,
        )
    notes = "".join(
        f" {words.capital(words.spoken(arm))} was trained with gradients cut every {cut:,} tokens "
        "(truncated back-propagation), an approximation."
        for arm, runs in zip(pair, (mine, other), strict=True)
        for cut in words.cut_every(runs)
    )
    loss = [fmean(run["val_loss"] for run in runs) for runs in (mine, other)]
    bits = [fmean(run["val_bits_per_byte"] for run in runs) for runs in (mine, other)]
    shown = [f"{one:.3f}" for one in loss]
    mean = "" if len(mine) == len(other) == 1 else "mean "
    numbers = (
        f"a {mean}validation loss of {shown[0]} against {shown[1]} nats per token "
        f"({bits[0]:.3f} against {bits[1]:.3f} bits per byte), lower being better"
    )
    if mean:
        numbers += f", over {len(mine)} and {len(other)} trainings"
    first, second = words.spoken(pair[0]), words.spoken(pair[1])
    start = "After training on the same tokens" if _alike(mine, other) else "After unlike trainings"
    if shown[0] == shown[1]:
        text = f"{start} both predict new text equally well: {numbers}."
        return text + notes, False
    word = "less well" if loss[0] > loss[1] else "better"
    text = f"{start} {first} predicts new text {word} than {second}: {numbers}."
    return text + notes, loss[0] > loss[1]


def _alike(mine: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> bool:
    """Whether both were trained on the same tokens in the same order."""
    names = ("data_fingerprint", "tokens", "order_hash")
    first, second = (
        {tuple(run.get(name) for name in names) for run in runs} for runs in (mine, other)
    )
    return first == second and not any(None in facts for facts in first)


def _explanation(mine: str, attention: Sequence[Arm]) -> str:
    """What the two kinds of model do; attention with a window is a third."""
    full = [arm for arm in attention if not arm.window]
    sentences = [
        "A language model reads text in pieces called tokens, and the context length is how many "
        "of them it takes into account at once."
    ]
    if full:
        other = words.spoken(full[0]) if len(attention) == 1 else "An attention model"
        sentences.append(
            f"{words.capital(other)} looks back at all earlier tokens for each new one (this is "
            "called attention), so a text twice as long means about four times as much looking "
            "back."
        )
    for arm in attention:
        if arm.window:
            last = words.tokens(arm.window)
            sentences.append(
                f"{words.capital(words.spoken(arm))} looks back at the last {last} tokens only "
                "(attention with a sliding window): beyond that a text twice as long means twice "
                "the work, and no layer sees further. It is measured as a control: what is linear "
                "here is linear without a recurrence."
            )
    sentences.append(
        f"{words.capital(mine)} keeps a summary of fixed size instead and updates it token by "
        "token, so a text twice as long means twice the work. What that costs in practice depends "
        "on how well each runs on the machine, which is why it is measured."
    )
    return " ".join(sentences)


def _wins(found: Sequence[Finding], mine: str) -> str:
    told = [one for one in found if one.kind != "missing"]
    examples = [f"{one.measure.noun} ({_win(one)})" for one in told if one.on(BELOW)]
    if not told:
        return ""
    if not examples:
        if _is_open(found):
            return f"{words.capital(mine)} won at no length where this is decided."
        if any(_failed(one) for one in found):
            return f"{words.capital(mine)} won at no length that both finished."
        return f"{words.capital(mine)} won at no length compared here."
    return f"{words.capital(mine)} wins in {words.listing(examples)}."


def _win(finding: Finding) -> str:
    """The clearest of several lengths, if one is clearer than the others, by its interval."""
    best, *others = sorted(finding.on(BELOW), key=finding.sure)
    example = words.win_example(finding, best)
    if not others:
        return example
    sure = [words.times(1 / finding.sure(length)) for length in (best, others[0])]
    return f"{'most clearly' if sure[0] != sure[1] else 'for example'} {example}"


def _growth(told: Sequence[Finding]) -> str:
    """How the first measure in seconds whose points suffice for it grows."""
    for finding in told:
        sides = (finding.recurrent, finding.attention)
        shapes = [compare.shape(side, finding.measure) for side in sides]
        if finding.measure.field == "seconds" and all(one and one.decided for one in shapes):
            mine, other = (
                f"{words.shape(shape)} for {words.spoken(side.arm)}"
                for shape, side in zip(shapes, sides, strict=True)
            )
            return (
                f"With T tokens of context, {finding.measure.noun} is fitted best by {mine} and "
                f"{other}; in brackets its weight by AICc among {SHAPES}."
            )
    return ""


def memory_note(arm: Arm) -> str:
    """What the attention kernels that ran do to training memory; nothing about unknown ones."""
    linear = (
        "never stores the whole table of scores: its training memory grows linearly with the "
        "context and its compute quadratically"
    )
    growth = {
        "flash": linear,
        "efficient": linear,
        "cudnn": linear,
        "math": "stores the whole table of scores: this part of its training memory grows "
        "quadratically with the context, as its compute does",
    }
    used = arm.backends("train").get("attention") or arm.backends().get("attention", [])
    who = words.spoken(arm)
    if arm.window:
        windowed = (
            f"looks back at the last {words.tokens(arm.window)} tokens only: beyond that its "
            "training memory and its compute both grow linearly with the context"
        )
        growth = dict.fromkeys(growth, windowed)
    return " ".join(
        f"The attention of {who} ran on the {kernel} back end, which {growth[kernel]}."
        for kernel in used
        if kernel in growth
    )
