"""Requests of the OpenAI API, as far as a language model alone can answer them.

Fields that would change the answer and cannot be had are refused, not ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_STOPS = 4
MOST_TOKENS = 1 << 30  # of an answer
StateName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""Letters, digits, `_` and `-`: the name of a file, and of nothing else."""


class StreamOptions(BaseModel):
    """What a stream says beside its text."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_costs: bool = False
    """Every piece says what the answer has cost so far, not the last one alone."""


class Common(BaseModel):
    """What both kinds of requests have."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    seed: int = Field(0, ge=0, lt=1 << 63)
    stop: str | list[str] | None = None
    n: Literal[1] = 1
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """null stands for the default, as clients send it."""
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values

    @model_validator(mode="after")
    def _check_stops(self) -> Self:
        stops = self.stops()
        if len(stops) > MOST_STOPS or any(not 0 < len(stop) <= 256 for stop in stops):
            raise ValueError(f"stop takes at most {MOST_STOPS} texts of 1 to 256 characters")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is about stream=true")
        return self

    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Completion(Common):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] = ""
    max_tokens: int = Field(16, ge=0, le=MOST_TOKENS)
    logprobs: int = Field(0, ge=0, le=20)
    echo: bool = False
    best_of: Literal[1] = 1
    state: StateName | None = None
    """Continue the saved state of this name."""
    save_state: StateName | None = None
    """Save the state after the answer under this name."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.save_state is not None and self.stop is not None:
            raise ValueError("save_state is that after max_tokens, so it goes without stop")
        if isinstance(self.prompt, list) and any(isinstance(part, str) for part in self.prompt):
            if len(self.prompt) != 1:
                raise ValueError("one prompt at a time: send a request for each")
            self.prompt = str(self.prompt[0])
        return self


class Tokens(BaseModel):
    """`POST /v1/tokens`: a text as the token ids of a model, of which a prompt can consist."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    text: str
    most: int = Field(MOST_TOKENS, ge=0, le=MOST_TOKENS)
    """How many of them are wanted: the first ones."""


class ChatMessage(BaseModel):
    """What somebody said."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]
    name: str | None = None

    def text(self) -> str:
        """Its content, of which only text can be read."""
        if isinstance(self.content, str):
            return self.content
        parts = []
        for part in self.content:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError("messages can hold text only")
            parts.append(part["text"])
        return "".join(parts)


class Chat(Common):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    response_format: dict[Literal["type"], Literal["text"]] | None = None
