"""Which checkpoints stay: `checkpoint.keep=last:2,best:1,every:1000`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import UserError, shown

RULE = re.compile(r"(last|best|every):([1-9]\d{0,8})", re.ASCII)


@dataclass(frozen=True)
class Keep:
    """How many of each kind; the newest always stays, because a run continues from it."""

    last: int = 1
    """Newest ones."""
    best: int = 0
    """Those with the lowest validation loss."""
    every: int = 0
    """Those of each multiple of so many optimizer steps, which are saved for it; 0: none."""

    @classmethod
    def parse(cls, text: str) -> Keep:
        """Read `checkpoint.keep`. Raises `UserError` where it is none."""
        rules = [RULE.fullmatch(word.strip()) for word in text.split(",")]
        found = {rule[1]: int(rule[2]) for rule in rules if rule}
        if len(found) != len(rules):
            raise UserError(
                f"checkpoint.keep={shown(text, 80)}: write one or more of last:N, best:N and "
                "every:STEPS, each once, with numbers from 1 to 999999999, as in "
                "checkpoint.keep=last:2,best:1,every:1000"
            )
        return cls(**found)

    def stay(self, steps: Iterable[int], lowest: Iterable[int]) -> set[int]:
        """Those of the saved `steps` that stay; `lowest` are steps by growing validation loss."""
        ordered = sorted(steps)
        kept = {*ordered[-self.last :], *[*lowest][: self.best]}
        return kept | {step for step in ordered if self.every and step % self.every == 0}
