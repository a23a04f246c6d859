"""From the tokens of an answer to its text, which ends where a stop string begins."""

from __future__ import annotations

from collections.abc import Sequence

from data.text import StreamDecoder, TextTokenizer


class AnswerText:
    """The text of an answer, piece by piece, as soon as it is certain to be part of it.

    What may be the beginning of a stop string waits for the tokens that decide.
    """

    def __init__(
        self, tokenizer: TextTokenizer, prompt: Sequence[int], stops: Sequence[str] = ()
    ) -> None:
        self._decoder = StreamDecoder(tokenizer, after=prompt)
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        """Whether a stop string has come."""

    def push(self, token: int) -> str:
        """The text that a token makes certain."""
        return self._add(self._decoder.push(token))

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        if self.stopped:
            return ""
        text = self._add(self._decoder.flush())
        text, self._held = text + self._held, ""
        return text

    def _add(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that are the beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
