"""The answer and the paragraphs of the report, for a reader who does not know what attention is.

The rule: say where the recurrent model loses before saying where it wins, give the measured
numbers, and claim nothing about lengths that were not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from probes import compare, words
from probes.collect import Arm, Material
from probes.compare import Curve, Finding
from probes.ratios import ABOVE, BELOW, EQUAL


def headline(material: Material, found: Sequence[Finding]) -> str:
    """The answer in one sentence, for training time or the first measure that was probed."""
    if not material.pairs:
        shown = words.listing([words.spoken(arm) for arm in material.arms])
        return f"Only {shown} was measured: a crossover needs a recurrent and an attention model."
    if is_too_busy(found):
        count = len([row for row in material.rows if row.is_disturbed])
        points = "point" if count == 1 else "points"
        return (
            "This machine was too busy to say; run the same command again: it repeats the "
            f"{count:,} disturbed {points}."
        )
    same = _answering(found)
    if not same:
        done = "finished" if any(_failed(one) for one in found) else "was measured"
        return f"No probe {done} at two context lengths for both kinds of model."
    measure = same[0].measure
    if len(same) == 1:
        return _answer(same[0])
    crossing = [one for one in same if one.kind == "crosses"]
    if not crossing:
        return (
            f"In {measure.noun}, none of the {len(same)} pairs of a recurrent and an attention "
            "model has a single crossover that is decided within the lengths measured."
        )
    first = min(crossing, key=lambda one: one.crossings[0].length)
    return (
        f"In {measure.noun}, the recurrent model overtakes attention in {len(crossing)} of "
        f"{len(same)} pairs, first at about {words.tokens(first.crossings[0].length)} tokens of "
        f"context ({words.name(first.recurrent.arm)} against {words.name(first.attention.arm)})."
    )


def is_too_busy(found: Sequence[Finding]) -> bool:
    """Whether disturbed points are why the first measure that was probed says nothing."""
    probed = [one for one in found if one.recurrent.points and one.attention.points]
    first = [one for one in probed if one.measure == probed[0].measure]
    return any(one.disturbed for one in first) and not any(
        one.on(BELOW, ABOVE, EQUAL) and one.kind != "missing" for one in first
    )


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
    attention = [arm for arm in material.arms if not arm.recurrent]
    about = _explanation("A recurrent model", attention) if blocks else ""
    return [*told_pairs, ("What is being compared", [text for text in (about, *rest) if text])]


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
        text = f"{words.capital(mine)} lost at no length measured here; other lengths may differ."
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
    """What other processes disturbed so much that nothing is left to compare."""
    nouns = [one.measure.noun for one in found if one.kind == "missing" and one.disturbed]
    if not nouns:
        return ""
    return f"Other processes disturbed too many points to compare {words.listing(nouns)}."


def _lost_points(finding: Finding) -> str:
    """Lengths at which only the recurrent arm did not finish."""
    alone = [
        point for point in finding.recurrent.failed if point.length in finding.attention.measured
    ]
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
        if dearer == [length for length in finding.sides if (length < crossing) == first]:
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
    numbers = (
        f"a validation loss of {loss[0]:.3f} against {loss[1]:.3f} nats per token "
        f"({bits[0]:.3f} against {bits[1]:.3f} bits per byte), lower being better"
    )
    first, second = words.spoken(pair[0]), words.spoken(pair[1])
    if loss[0] == loss[1]:
        text = f"After the same training both predict new text equally well: {numbers}."
        return text + notes, False
    word = "less well" if loss[0] > loss[1] else "better"
    text = f"After the same training {first} predicts new text {word} than {second}: {numbers}."
    return text + notes, loss[0] > loss[1]


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
    examples = []
    for finding in told:
        if cheaper := finding.on(BELOW):
            best = min(cheaper, key=finding.sure)
            examples.append(f"{finding.measure.noun} ({words.win_example(finding, best)})")
    if not told:
        return ""
    if not examples:
        if _is_open(found):
            return f"{words.capital(mine)} won at no length where this is decided."
        if any(_failed(one) for one in found):
            return f"{words.capital(mine)} won at no length that both finished."
        return f"{words.capital(mine)} won nowhere in the range measured."
    return f"{words.capital(mine)} wins, most clearly, in {words.listing(examples)}."


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
                f"{other}; in brackets the weight of AICc among these, a + bT and a + bT log T."
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
