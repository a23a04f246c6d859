"""Reading token sequences of which many begin alike: each shared beginning is read once.

The sequences are taken in lexical order, so those that share a beginning follow one another. Where
they part, the model's state is kept: the constant one of a recurrent model, or the cache of keys
and values of one that attends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.contract import Model, State, clone_state

LOGITS = 1 << 25
"""Elements of logits that are held at once."""


@dataclass(frozen=True)
class Question:
    """Tokens to read, and from which on their probabilities are asked for."""

    tokens: tuple[int, ...]
    """At least one."""
    scored_from: int
    """Index of the first token whose probability is asked for, at least 1; `len(tokens)`: none."""
    after: int | None = None
    """A token that would follow: its probability is asked for too, without its being read."""


@dataclass(frozen=True)
class Answer:
    """What a model makes of one question."""

    index: int
    """Place of the question."""
    log_probabilities: list[float]
    """One for each scored token, after those before it, nats; that of `after` is the last."""
    greedy: list[bool]
    """Whether each scored token is the likeliest one."""
    logits: Tensor
    """`[1, V]`, of the token that would follow."""
    state: State
    """The state after the last token; `clone_state` it before it is continued from."""


@dataclass
class _Node:
    """A place that was read up to, and from which it may be read on."""

    depth: int
    state: State
    logits: Tensor | None


@dataclass
class PrefixReader:
    """Reads questions with a model, and counts what that takes."""

    model: Model
    computed: int = 0
    """Tokens that the model has read."""
    asked: int = 0
    """Tokens of all questions: what it would have read without sharing."""

    @torch.no_grad()
    def read(self, questions: Sequence[Question], capacity: int = 0) -> Iterator[Answer]:
        """The answers, in lexical order of the tokens.

        `capacity` is room for that many tokens in growing caches, if the longest question has
        fewer.
        """
        order = sorted(range(len(questions)), key=lambda index: questions[index].tokens)
        tokens = [questions[index].tokens for index in order]
        common = [0, *(_common(*pair) for pair in pairwise(tokens))]
        longest = max(map(len, tokens), default=0)
        nodes = [_Node(0, self.model.init_state(1, capacity=max(capacity, longest)), None)]
        scores: list[tuple[float, bool] | None] = []
        for place, index in enumerate(order):
            question, begin = questions[index], common[place]
            while nodes[-1].depth > begin:
                nodes.pop()
            del scores[begin:]
            # Stretches end where later questions part from this one; each is scored from where the
            # first of those that share it is.
            stretches, parting = {}, set()
            end, scored_from = len(question.tokens), question.scored_from
            for later in range(place + 1, len(order)):
                if common[later] < end:
                    stretches[end], end = scored_from, common[later]
                if end >= begin:
                    parting.add(end)
                if end <= begin:
                    break
                scored_from = min(scored_from, questions[order[later]].scored_from)
            stretches.setdefault(end, scored_from)
            node = nodes[-1]
            for end in sorted(end for end in stretches if end > begin):
                is_kept = node.depth in parting or not node.depth
                node = self._read_on(node, question.tokens[:end], stretches[end], is_kept, scores)
                if end in parting:
                    nodes.append(node)
            self.asked += len(question.tokens)
            scored = [score for score in scores[question.scored_from :] if score is not None]
            assert node.logits is not None
            if question.after is not None:
                after = torch.tensor([[question.after]], device=node.logits.device)
                scored += _scores(node.logits[None], after)
            ours, greedy = [one for one, _ in scored], [one for _, one in scored]
            yield Answer(index, ours, greedy, node.logits, node.state)

    def _read_on(
        self,
        node: _Node,
        tokens: Sequence[int],
        scored_from: int,
        is_kept: bool,
        scores: list[tuple[float, bool] | None],
    ) -> _Node:
        """Read from `node` to the end of `tokens`, and append the score of each token read, None
        for those before `scored_from`. The state of a node that `is_kept` stays as it is."""
        begin, end = node.depth, len(tokens)
        state = clone_state(node.state) if is_kept else node.state
        device = next(self.model.parameters()).device  # type: ignore[attr-defined]
        ids = torch.tensor(tokens[begin:], device=device)[None]
        self.computed += end - begin
        logits = node.logits
        if logits is not None and scored_from <= begin:
            scores += _scores(logits[None], ids[:, :1])
        else:
            scores.append(None)
        # Of the rest, only logits that score a token, and the last ones, are computed.
        unscored = min(max(scored_from - 1 - begin, 0), end - begin)
        if unscored:
            logits, state = self.model.next_logits(ids[:, :unscored], state)
            scores += [None] * (unscored if unscored < end - begin else unscored - 1)
        piece = max(1, LOGITS // self.model.config.vocab_size)
        for first in range(unscored, end - begin, piece):
            every, after = self.model(ids[:, first : first + piece], state)
            assert after is not None
            state, targets = after, ids[:, first + 1 : first + piece + 1]
            scores += _scores(every[:, : targets.shape[1]], targets)
            logits = every[:, -1]
        assert logits is not None and len(scores) == end
        return _Node(end, state, logits)


def _scores(logits: Tensor, targets: Tensor) -> list[tuple[float, bool]]:
    """Log-probability of each of `targets[1, T]` under `logits[1, T, V]`, and whether it is the
    likeliest token."""
    ours = log_probabilities(logits, targets)[0].tolist()
    return list(zip(ours, (logits[0].argmax(-1) == targets[0]).tolist(), strict=True))


def log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability `[B, T]`, nats, of `targets[B, T]` under `logits[B, T, V]`."""
    logits = logits.float()
    return logits.gather(-1, targets[..., None]).squeeze(-1) - logits.logsumexp(-1)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the beginning that two sequences share."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)
