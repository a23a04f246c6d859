"""The paragraphs of the report, for a reader who does not know what attention is.

The rule: say where the recurrent model loses before saying where it wins, give the measured
numbers, and claim nothing about lengths that were not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from core import units
from probes.analysis import crossovers
from probes.analysis.crossovers import Comparison, Curve
from probes.analysis.dataset import Dataset, Series
from probes.analysis.facts import cut_every
from probes.analysis.ratios import ABOVE, BELOW
from probes.report import phrases, tuning_text

SHAPES = "a + bT, a + bT log T and a + bT + cT²"


def story(dataset: Dataset, comparisons: Sequence[Comparison]) -> list[tuple[str, list[str]]]:
    """Blocks of paragraphs, each with a heading (empty with a single pair), for a reader who does
    not know what attention is. The first paragraph of every pair says where the recurrent one
    loses."""
    blocks = []
    for pair in dataset.pairs:
        of_pair = [
            comparison
            for comparison in comparisons
            if (comparison.recurrent.series, comparison.attention.series) == pair
            and comparison.measure.prose
        ]
        compared = [comparison for comparison in of_pair if comparison.kind != "missing"]
        losses = _losses(dataset, of_pair, compared, pair)
        wins = " ".join(filter(None, [_wins(of_pair, phrases.spoken(pair[0])), _growth(compared)]))
        blocks.append((pair, losses, wins))
    timed = [
        comparison for comparison in comparisons if comparison.measure.field in ("seconds", "share")
    ]
    sides = [
        (side, comparison.measure)
        for comparison in timed
        for side in (comparison.recurrent, comparison.attention)
    ]
    lost = [phrases.failures(side, measure) for side, measure in sides]
    kernels = [memory_note(series) for series in dataset.all_series if not series.recurrent]
    rest = [" ".join(dict.fromkeys(filter(None, lost))), " ".join(filter(None, kernels))]
    rest = [text for text in rest if text]
    if len(blocks) == 1:
        pair, losses, wins = blocks[0]
        middle = _explanation(phrases.spoken(pair[0]), [pair[1]])
        return [("", [losses, middle, *filter(None, [wins]), *rest])]
    told_pairs = [
        (
            f"{phrases.name(pair[0])} against {phrases.name(pair[1])}",
            [text for text in (losses, wins) if text],
        )
        for pair, losses, wins in blocks
    ]
    if not blocks:  # one kind of model alone
        return [("", rest)] if rest else []
    attention = [series for series in dataset.all_series if not series.recurrent]
    return [
        *told_pairs,
        ("What is being compared", [_explanation("A recurrent model", attention), *rest]),
    ]


def _losses(
    dataset: Dataset,
    comparisons: Sequence[Comparison],
    compared: Sequence[Comparison],
    pair: tuple[Series, Series],
) -> str:
    mine = phrases.spoken(pair[0])
    sentences = [text for comparison in compared if (text := _loss(comparison))]
    sentences += [text for comparison in comparisons if (text := _lost_points(comparison))]
    # What was measured and is not compared.
    missing = [comparison for comparison in comparisons if comparison.kind == "missing"]
    unknown = []
    if nouns := [comparison.measure.noun for comparison in missing if comparison.disturbed]:
        unknown.append(
            f"Other processes disturbed too many points to compare {units.listing(nouns)}."
        )
    if nouns := [
        comparison.measure.noun
        for comparison in missing
        if comparison.lengths and not comparison.disturbed
    ]:
        unknown.append(f"One length alone is too little to compare {units.listing(nouns)}.")
    quality, worse = _quality(dataset, pair)
    if worse:
        sentences.append(quality)
    if sentences:
        start = (
            f"First, where {mine} loses; lengths are counted in tokens, which are pieces of words."
        )
        text = " ".join([start, *sentences])
    elif compared and _is_open(comparisons):
        text = (
            f"{units.capital(mine)} lost at no length where this is decided; where it is not, and "
            "at other lengths, it may."
        )
    elif compared:
        text = f"{units.capital(mine)} lost at no length compared here; other lengths may differ."
    else:
        text = "There is not enough here to say where either model loses."
    text = " ".join([text, *unknown])
    return text if worse else f"{text} {quality}"


def _is_open(comparisons: Sequence[Comparison]) -> bool:
    """Whether something that was measured is not decided."""
    return any(comparison.between or comparison.disturbed for comparison in comparisons)


def _lost_points(comparison: Comparison) -> str:
    """Lengths at which only the recurrent series did not finish."""
    finished = {
        *comparison.attention.measured,
        *(point.length for point in comparison.attention.disturbed),
    }
    alone = [point for point in comparison.recurrent.failed if point.length in finished]
    if not alone or comparison.measure.field != "seconds":
        return ""
    said = phrases.failures(Curve(comparison.recurrent.series, tuple(alone)), comparison.measure)
    return (
        f"{said.removesuffix('.')}, where {phrases.spoken(comparison.attention.series)} finished."
    )


def _loss(comparison: Comparison) -> str:
    dearer = comparison.on(ABOVE)
    if not dearer:
        return ""
    if len(dearer) == len(comparison.sides):
        place = f"At every context length {phrases.compared(comparison)}"
    else:
        place = units.capital(phrases.where(comparison, ABOVE))
    if comparison.kind in ("crosses", "reverse"):
        crossing, first = comparison.crossings[0].number, comparison.kind == "crosses"
        ends = phrases.tried(comparison)
        reaches_end = (
            ends[0] == comparison.lengths[0] if first else ends[1] == comparison.lengths[-1]
        )
        beside = [length for length in comparison.sides if (length < crossing) == first]
        if reaches_end and dearer == beside:
            side = "Below" if first else "Above"
            place = f"{side} about {units.tokens(crossing)} tokens of context"
    worst = max(dearer, key=comparison.sure)
    example = phrases.loss_example(comparison, worst)
    return f"{place} it needs more {comparison.measure.noun}: {example}."


def _quality(dataset: Dataset, pair: tuple[Series, Series]) -> tuple[str, bool]:
    """How well the two predict, and whether the recurrent one is the worse."""
    mine, other = (dataset.trainings_of(series) for series in pair)
    if not mine or not other:
        lacking = [
            phrases.spoken(series)
            for series, runs in ((pair[0], mine), (pair[1], other))
            if not runs
        ]
        return (
            "How well the two predict is not known: no finished training of "
            f"{units.listing(lacking, 'or')} with a validation loss was given.",
            False,
        )
    notes = "".join(
        f" {units.capital(phrases.spoken(series))} was trained with gradients cut every {cut:,} "
        "tokens (truncated back-propagation), an approximation."
        for series, runs in zip(pair, (mine, other), strict=True)
        for cut in cut_every(runs)
    )
    loss = [fmean(run["val_loss"] for run in runs) for runs in (mine, other)]
    what = phrases.predicted(run.get("val_accuracy") for run in (*mine, *other))
    of_texts = all(run["val_bits_per_byte"] is not None for run in (*mine, *other))
    shown = [f"{value:.3f}" for value in loss]
    mean = "" if len(mine) == len(other) == 1 else "mean "
    numbers = f"a {mean}validation loss of {shown[0]} against {shown[1]} nats per token"
    if of_texts:
        bits = [fmean(run["val_bits_per_byte"] for run in runs) for runs in (mine, other)]
        numbers += f" ({bits[0]:.3f} against {bits[1]:.3f} bits per byte)"
    numbers += ", lower being better"
    if mean:
        numbers += f", over {len(mine)} and {len(other)} trainings"
    first, second = phrases.spoken(pair[0]), phrases.spoken(pair[1])
    names = ("data_fingerprint", "tokens", "order_hash")
    ours, theirs = (
        {tuple(run.get(name) for name in names) for run in runs} for runs in (mine, other)
    )
    alike = ours == theirs and not any(None in facts for facts in ours)
    start = "After training on the same tokens" if alike else "After unlike trainings"
    tuned, is_equal = tuning_text.of_pair(dataset.runs, [mine, other])
    notes = (f" {tuned}" if tuned else "") + notes
    if not is_equal:
        text = f"{start} {first} and {second} are not compared in how well they predict: {numbers}."
        return text + notes, False
    if shown[0] == shown[1]:
        text = f"{start} both predict {what} equally well: {numbers}."
        return text + notes, False
    word = "less well" if loss[0] > loss[1] else "better"
    text = f"{start} {first} predicts {what} {word} than {second}: {numbers}."
    return text + notes, loss[0] > loss[1]


def _explanation(mine: str, attention: Sequence[Series]) -> str:
    """What the two kinds of model do; attention with a window is a third."""
    full = [series for series in attention if not series.window]
    sentences = [
        "A language model reads text in pieces called tokens, and the context length is how many "
        "of them it takes into account at once."
    ]
    if full:
        other = phrases.spoken(full[0]) if len(attention) == 1 else "An attention model"
        sentences.append(
            f"{units.capital(other)} looks back at all earlier tokens for each new one (this is "
            "called attention), so a text twice as long means about four times as much looking "
            "back."
        )
    for series in attention:
        if series.window:
            last = units.tokens(series.window)
            sentences.append(
                f"{units.capital(phrases.spoken(series))} looks back at the last {last} tokens "
                "only (attention with a sliding window): beyond that a text twice as long means "
                "twice the work, and no layer sees further. It is measured as a control: what is "
                "linear here is linear without a recurrence."
            )
    sentences.append(
        f"{units.capital(mine)} keeps a summary of fixed size instead and updates it token by "
        "token, so a text twice as long means twice the work. What that costs in practice depends "
        "on how well each runs on the machine, which is why it is measured."
    )
    return " ".join(sentences)


def _wins(comparisons: Sequence[Comparison], mine: str) -> str:
    compared = [comparison for comparison in comparisons if comparison.kind != "missing"]
    examples = []
    for comparison in compared:
        # The clearest of several lengths, if one is clearer than the others, by its interval.
        cheaper = sorted(comparison.on(BELOW), key=comparison.sure)
        if not cheaper:
            continue
        example = phrases.win_example(comparison, cheaper[0])
        if len(cheaper) > 1:
            sure = [units.times(1 / comparison.sure(length)) for length in cheaper[:2]]
            example = f"{'most clearly' if sure[0] != sure[1] else 'for example'} {example}"
        examples.append(f"{comparison.measure.noun} ({example})")
    if not compared:
        return ""
    if not examples:
        if _is_open(comparisons):
            return f"{units.capital(mine)} won at no length where this is decided."
        if any(one.recurrent.failed or one.attention.failed for one in comparisons):
            return f"{units.capital(mine)} won at no length that both finished."
        return f"{units.capital(mine)} won at no length compared here."
    return f"{units.capital(mine)} wins in {units.listing(examples)}."


def _growth(compared: Sequence[Comparison]) -> str:
    """How the first measure in seconds whose points suffice for it grows."""
    for comparison in compared:
        sides = (comparison.recurrent, comparison.attention)
        shapes = [crossovers.shape(side, comparison.measure) for side in sides]
        if comparison.measure.field == "seconds" and all(
            shape and shape.decided for shape in shapes
        ):
            mine, other = (
                f"{phrases.shape(shape)} for {phrases.spoken(side.series)}"
                for shape, side in zip(shapes, sides, strict=True)
            )
            return (
                f"With T tokens of context, {comparison.measure.noun} is fitted best by {mine} and "
                f"{other}; in brackets its weight by AICc among {SHAPES}."
            )
    return ""


def memory_note(series: Series) -> str:
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
    used = series.backends("train").get("attention") or series.backends().get("attention", [])
    who = phrases.spoken(series)
    if series.window:
        windowed = (
            f"looks back at the last {units.tokens(series.window)} tokens only: beyond that its "
            "training memory and its compute both grow linearly with the context"
        )
        growth = dict.fromkeys(growth, windowed)
    return " ".join(
        f"The attention of {who} ran on the {kernel} back end, which {growth[kernel]}."
        for kernel in used
        if kernel in growth
    )
