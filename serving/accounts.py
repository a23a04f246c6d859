"""What each key has used, written to a file, and whether a request fits into what is left of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

from core.errors import UserError, shown
from core.files import write_text
from core.parsing import Missing, read_object
from serving.answers import Price, Refusal
from serving.keys import Budget
from serving.requests import Spent

logger = logging.getLogger(__name__)


@dataclass
class Account:
    """Sums over the requests of a key."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    worker_seconds: float = 0.0
    processor_seconds: float = 0.0
    joules: float | None = None
    """None until a device has counted any."""
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers together."""
        return self.prompt_tokens + self.completion_tokens


class Accounts:
    """The accounts of all keys, and what requests that are not answered yet may still take."""

    def __init__(
        self,
        path: Path | None = None,
        price: Price | None = None,
        budgets: Mapping[str, Budget] | None = None,
    ) -> None:
        """Goes on from the file, if there is one. Raises `UserError` where it holds no accounts, or
        costs in another currency."""
        self.price, self._path, self._budgets = price, path, {**(budgets or {})}
        self._held: Counter[str] = Counter()  # tokens
        self._accounts = {} if path is None else _read(path, price)
        self._is_written = True
        self._writing: asyncio.Task[None] | None = None

    def bill(self, name: str) -> Bill:
        """That of a request of the key of this name. Raises `Refusal` if its budget is used up."""
        self._check(name, 0)
        return Bill(self, name)

    def described(self, name: str) -> dict[str, Any]:
        """What a key has used, and what it may still use."""
        account, budget = self._of(name), self._budgets.get(name, Budget())
        said = {"object": "usage", "name": name, **asdict(account)}
        if self.price is None:
            del said["cost"]
        else:
            said["currency"] = self.price.currency
        left: dict[str, float] = {}
        if budget.tokens is not None:
            left["tokens"] = max(0, budget.tokens - account.tokens - self._held[name])
        if budget.cost is not None:
            left["cost"] = max(0.0, budget.cost - account.cost)
        return {**said, "left": left}

    def hold(self, name: str, tokens: int) -> None:
        """Set tokens aside. Raises `Refusal` if there are not so many left."""
        self._check(name, tokens)
        self._held[name] += tokens

    def release(self, name: str, tokens: int) -> None:
        """Give back what was held."""
        self._held[name] -= tokens

    def charge(self, name: str, prompt: int, completion: int, spent: Spent) -> None:
        """Add what a request has used: tokens, and the worker's time."""
        account = self._accounts.setdefault(name, Account())
        account.requests += 1
        account.prompt_tokens += prompt
        account.completion_tokens += completion
        account.worker_seconds += spent.seconds
        account.processor_seconds += spent.processor
        if spent.joules is not None:
            account.joules = (account.joules or 0.0) + spent.joules
        if self.price is not None:
            account.cost += self.price.of(spent)
        self._is_written = False
        if self._path is not None and self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write(self._path))

    async def written(self) -> None:
        """Wait until the file says what was charged, if it can be written."""
        if self._writing is not None:
            await self._writing

    def _check(self, name: str, tokens: int) -> None:
        budget, account = self._budgets.get(name, Budget()), self._of(name)
        if budget.cost is not None and account.cost >= budget.cost:
            unit = f" {self.price.currency}" if self.price else ""
            raise _over(f"the budget of this key, {budget.cost:g}{unit}, is used up")
        if budget.tokens is None:
            return
        left = max(0, budget.tokens - account.tokens - self._held[name])
        if left == 0 and self._held[name]:
            raise _over(
                f"what is left of the budget of this key, {budget.tokens:,} tokens, may go to its "
                "requests that are being answered: try again later"
            )
        if left == 0:
            raise _over(f"the budget of this key, {budget.tokens:,} tokens, is used up")
        if tokens > left:
            raise _over(
                f"the budget of this key has {left:,} of {budget.tokens:,} tokens left, and this "
                f"request may take {tokens:,} with its prompt: lower max_tokens"
            )

    def _of(self, name: str) -> Account:
        return self._accounts.get(name, Account())

    async def _write(self, path: Path) -> None:
        """Whatever is charged meanwhile is written next."""
        try:
            while not self._is_written:
                self._is_written = True
                accounts = {name: asdict(one) for name, one in self._accounts.items()}
                currency = self.price.currency if self.price else None
                text = json.dumps({"currency": currency, "accounts": accounts}, indent=2) + "\n"
                await asyncio.to_thread(write_text, path, text)
        except OSError as error:
            self._is_written = False
            logger.warning("accounts cannot be written to %s (%s)", path, error.strerror)
        finally:
            self._writing = None


class Bill:
    """What one request may take, until it is known what it has taken."""

    def __init__(self, accounts: Accounts, name: str) -> None:
        self._accounts, self._name = accounts, name
        self._held = 0

    def expect(self, tokens: int) -> None:
        """How many tokens the request may take at most. Raises `Refusal` if they are not left."""
        self._release()
        self._accounts.hold(self._name, tokens)
        self._held = tokens

    def settle(self, prompt: int, completion: int, spent: Spent) -> None:
        """What it has taken: tokens of the prompt and of the answer, and the worker's time."""
        self._release()
        self._accounts.charge(self._name, prompt, completion, spent)

    def _release(self) -> None:
        self._accounts.release(self._name, self._held)
        self._held = 0


def _over(message: str) -> Refusal:
    return Refusal(429, message, code="insufficient_quota")


def _read(path: Path, price: Price | None) -> dict[str, Account]:
    try:
        said = read_object(path)
    except Missing:
        return {}
    except UserError as error:
        raise UserError(f"accounts_file={error}") from None
    currency, accounts = said.get("currency"), said.get("accounts")
    if not isinstance(accounts, dict):
        raise UserError(f"accounts_file={path}: holds no accounts; name another file, or move it")
    if price is not None and currency not in (None, price.currency):
        raise UserError(
            f"accounts_file={path}: its costs are in {shown(currency)}, and currency="
            f"{price.currency}: name another file"
        )
    return {name: _account(path, name, entry) for name, entry in accounts.items()}


def _account(path: Path, name: str, entry: Any) -> Account:
    known = {field.name: field.type for field in fields(Account)}
    if isinstance(entry, dict) and entry.keys() == known.keys():
        whole = all(type(entry[key]) is int for key, kind in known.items() if kind == "int")
        numbers = [value for key, value in entry.items() if (key, value) != ("joules", None)]
        fine = all(type(one) in (int, float) and isfinite(one) and one >= 0 for one in numbers)
        if whole and fine:
            return Account(**entry)
    raise UserError(f"accounts_file={path}: the account of {shown(name)} is damaged")
