"""The experiments of the evidence page: question, source, and what should come out.

Each is a recipe in `conf/experiment/` of the same name, and its trainings are a group of that name.
"""

from __future__ import annotations

from dataclasses import dataclass

from probes.analysis.evidence import ACCURACY, BITS, Claim


@dataclass(frozen=True)
class Experiment:
    """Words and claims. Columns and claims name figures as `probes.analysis.evidence.figure`."""

    name: str
    """Name of the recipe and of the group."""
    number: str
    """In the list of experiments, R1 to R14."""
    capability: str
    """Column of the matrix that its main figure fills."""
    question: str
    source: str
    """The published figure or shape, and where it stands."""
    claims: tuple[Claim, ...]
    main: str = ACCURACY
    """Figure by which the best rate of a model is chosen."""
    columns: tuple[tuple[str, str], ...] = ()
    """Further figures of the table, and their headings."""
    minutes: float = 10.0
    """About how long it takes on one core of two idle ones."""
    further: tuple[tuple[str, float], ...] = ()
    """Recipes whose trainings count too, each a group of its own, and the minutes of each."""

    @property
    def recipes(self) -> tuple[tuple[str, float], ...]:
        """All its recipes, which are the names of their groups too, with their minutes."""
        return ((self.name, self.minutes), *self.further)


CONVOLVED = "transformer n_conv 4"
SIGNED = "rwkv7 rate_limit 2"
"""Models with an option, as pages call them."""

EXPERIMENTS = (
    Experiment(
        "recall", "R9", "recall",
        "Which of several facts of the context are found again? (MQAR, 8 pairs in 64 tokens)",
        "Attention solves it at every width, a state of fixed size only where it is large enough "
        "(Zoology, arXiv 2312.04927); RWKV-4, 5 and 6 of width 64 reach 0, 3 and 97 % with 64 "
        "pairs in 512 tokens (arXiv 2404.05892, figure 4)",
        (
            Claim("above", (CONVOLVED, "rwkv7"), ACCURACY, 0.99),
            Claim("order", (CONVOLVED, "rwkv7", "rwkv6", "rwkv5"), ACCURACY, 0.005),
            Claim("order", ("rwkv5", "rwkv4", "lstm")),
        ),
        columns=(("val_exact_match", "all 8 right"),),
        minutes=13,
        further=(("recall_convolved", 2), ("recall_hybrids", 7)),
    ),
    Experiment(
        "copying", "R10", "copying",
        "Is a string of 6 to 24 letters repeated letter by letter, and one of twice the length?",
        "Transformers need a hundredth of the examples, and state-space models fail just past "
        "the trained length; of the Transformers those copy beyond it that have no positions but "
        "in a few heads, and not those with RoPE (arXiv 2402.01032)",
        (Claim("order", ("transformer", "rwkv7", "lstm"), "x2/accuracy"),),
        columns=(
            ("x1/accuracy", "24 letters"), ("x1_5/accuracy", "36 letters"),
            ("x2/accuracy", "48 letters"), ("val_exact_match", "whole strings"),
        ),
        minutes=11,
        further=(("copying_nope", 3),),
    ),
    Experiment(
        "lookup", "R10", "look-up",
        "What followed a key in a string, if the key is told first?",
        "State-space models generalise perfectly where the key comes first (arXiv 2402.01032)",
        (Claim("order", ("rwkv7", "transformer"), "x2/accuracy"),),
        columns=(
            ("x1/accuracy", "24 letters"), ("x2/accuracy", "48 letters"),
            ("x4/accuracy", "96 letters"),
        ),
        minutes=8,
    ),
    Experiment(
        "state_tracking", "R11", "state tracking",
        "Is the product of a sequence of permutations known at every step? (S3, one layer)",
        "An RNN needs one layer at any length; Transformers, S4 and Mamba need ever more "
        "(arXiv 2404.08819)",
        (
            Claim("above", ("lstm",), ACCURACY, 0.95),
            Claim("below", ("transformer",), ACCURACY, 0.75),
            *(Claim("order", (SIGNED, other)) for other in ("rwkv4", "rwkv6", "mamba2")),
        ),
        columns=(("x2/accuracy", "length 32"), ("x4/accuracy", "length 64")),
        minutes=18,
        further=(("state_tracking_signed", 2),),
    ),
    Experiment(
        "parity", "R11", "parity",
        "Is the number of ones so far odd? (one layer)",
        "A linear RNN needs eigenvalues below 0 (arXiv 2411.12537); attention learns the trained "
        "length and no other",
        (
            Claim("above", ("lstm",), "x4/accuracy", 0.99),
            Claim("below", ("transformer",), "x4/accuracy", 0.75),
        ),
        columns=(("x2/accuracy", "length 32"), ("x4/accuracy", "length 64")),
        minutes=7,
        further=(("parity_signed", 1),),
    ),
    Experiment(
        "language", "R12", "bits per byte",
        "How well is real text predicted after equal tokens? (Python's standard library)",
        "enwik8: Transformer 1.137, RWKV-4 1.178 bits per byte (arXiv 2305.13048, table 5); on "
        "FineWeb RWKV-7 equals and RWKV-6 is 0.02 nats behind a modded nanoGPT",
        (
            Claim("order", ("rwkv7", "transformer"), BITS, 0.03),
            Claim("order", ("rwkv7", "rwkv6", "rwkv5", "rwkv4"), BITS),
        ),
        main=BITS,
        columns=(("val_loss", "nats per token"),),
        minutes=18,
    ),
)  # fmt: skip
BY_NAME = {one.name: one for one in EXPERIMENTS}
EXTRAPOLATION = ("copying", "x2/accuracy", "copying at twice the length")
"""Experiment, figure and heading of the matrix's column about lengths beyond those trained."""
