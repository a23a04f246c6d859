"""A model as EleutherAI's lm-evaluation-harness asks it, which reads shared beginnings once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from core.errors import UserError
from data.text import StreamDecoder, TextTokenizer
from evaluation.shared_prefixes import Answer, PrefixReader, Question
from models.contract import Model, clone_state
from models.decoding.sampling import choose
from models.decoding.settings import Sampling

MOST_GENERATED = 256
"""Tokens that an answer may have where a task does not say."""


class HarnessModel(TemplateLM):
    """Answers the harness's three kinds of requests.

    Few-shot examples, and a question before each of its choices, are read once for all requests of
    a task that begin with them. A context longer than `context` tokens loses its beginning, as in
    the harness's own models; None: the model reads any length.
    """

    def __init__(self, model: Model, tokenizer: TextTokenizer, context: int | None = None) -> None:
        super().__init__()
        self._text, self._context = tokenizer, context
        self.reader = PrefixReader(model)
        self._device = next(model.parameters()).device  # type: ignore[attr-defined]

    @property
    def eot_token_id(self) -> int:
        """The token that a text begins with. Raises `UserError` where there is none."""
        if self._text.end_of_text is None:
            raise UserError(
                "a task asks for the first word of a text, and this tokenizer has no end-of-text "
                "token that could stand before it: choose other tasks"
            )
        return self._text.end_of_text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids, without any that are not of the text."""
        return self._text.encode(string)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Log-likelihood, nats, of each continuation, and whether it is the likeliest."""
        questions = []
        for _, context, continuation in requests:
            before = context or [self.eot_token_id]
            whole = before + continuation
            cut = 0 if self._context is None else max(0, len(whole) - 1 - self._context)
            if cut >= len(before):
                raise UserError(
                    f"a continuation has {len(continuation):,} tokens, and the model reads "
                    f"{self._context:,} at once: raise context="
                )
            questions.append(_question(whole[cut:], len(before) - cut))
        answers = {answer.index: answer for answer in self.reader.read(questions)}
        return [
            (sum(answers[index].log_probabilities), all(answers[index].greedy))
            for index in range(len(questions))
        ]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood, nats, of each whole text, in the harness's windows where it is long."""
        questions, owner = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(
                ids, self.eot_token_id, self._context or max(1, len(ids)), context_len=1
            )
            for before, predicted in map(make_disjoint_window, windows):
                questions.append(_question([*before, *predicted], len(before)))
                owner.append(number)
        sums = [0.0] * len(requests)
        for answer in self.reader.read(questions):
            sums[owner[answer.index]] += sum(answer.log_probabilities)
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations, likeliest tokens unless a task asks for samples, up to its stop words."""
        settings = [dict(request.args[1]) for request in requests]
        most = [int(each.get("max_gen_toks", MOST_GENERATED)) for each in settings]
        questions = []
        for request, count in zip(requests, most, strict=True):
            ids = self.tok_encode(request.args[0]) or [self.eot_token_id]
            if self._context is not None:
                ids = ids[-max(1, self._context - count) :]
            questions.append(Question(tuple(ids), len(ids)))
        longest = max((len(each.tokens) for each in questions), default=0) + max(most, default=0)
        texts = [""] * len(requests)
        for answer in self.reader.read(questions, longest):
            index = answer.index
            begin = questions[index].tokens
            texts[index] = self._continue(answer, begin, most[index], settings[index])
        return texts

    def _continue(
        self, answer: Answer, begin: tuple[int, ...], most: int, settings: dict[str, Any]
    ) -> str:
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        decoder, text = StreamDecoder(self._text, after=begin), ""
        for token in self._tokens(answer, most, settings):
            if token == self._text.end_of_text:
                break
            text += decoder.push(token)
            if any(stop in text for stop in stops):
                break
        text += decoder.flush()
        return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]

    @torch.no_grad()
    def _tokens(self, answer: Answer, most: int, settings: dict[str, Any]) -> Iterator[int]:
        drawn = bool(settings.get("do_sample"))
        sampling = Sampling(
            float(settings.get("temperature") or 1.0) if drawn else 0.0,
            int(settings.get("top_k") or 0),
            float(settings.get("top_p") or 1.0),
        )
        generator = torch.Generator(self._device).manual_seed(answer.index)
        state, logits = clone_state(answer.state), answer.logits
        for count in range(most):
            token = choose(logits[0], sampling, generator)
            yield int(token)
            if count + 1 < most:
                every, state = self.reader.model(token.view(1, 1), state)  # type: ignore[assignment]
                logits = every[:, -1]


def _question(tokens: list[int], scored_from: int) -> Question:
    """The last token is scored and need not be read."""
    return Question(tuple(tokens[:-1]), min(scored_from, len(tokens) - 1), tokens[-1])
