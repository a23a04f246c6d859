"""What is used is added up, kept, and bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from serving.accounts import Accounts
from serving.answers import Price, Refusal
from serving.keys import Budget
from serving.requests import Spent

PRICE = Price(0.5, "EUR")


def charged(path: Path, **options: Any) -> Accounts:
    """Accounts in a file to which ann owes 30 tokens and 3 seconds."""

    async def body() -> Accounts:
        accounts = Accounts(path, **options)
        bill = accounts.bill("ann")
        bill.expect(100)
        bill.settle(10, 20, Spent(3.0, 4.0, 5.0))
        await accounts.written()
        return accounts

    return asyncio.run(body())


def test_sums_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "accounts.json"
    charged(path, price=PRICE)
    said = charged(path, price=PRICE).described("ann")
    assert said == {
        "object": "usage", "name": "ann", "requests": 2, "prompt_tokens": 20,
        "completion_tokens": 40, "worker_seconds": 6.0, "processor_seconds": 8.0, "joules": 10.0,
        "cost": 3.0, "currency": "EUR", "left": {},
    }  # fmt: skip
    assert [entry.name for entry in path.parent.iterdir()] == ["accounts.json"]
    assert Accounts(path, PRICE).described("bob")["requests"] == 0


def test_without_a_price_or_a_counter_nothing_is_said_of_them() -> None:
    async def body() -> dict[str, Any]:
        accounts = Accounts()
        accounts.bill("ann").settle(1, 2, Spent(3.0, 4.0))
        return accounts.described("ann")

    said = asyncio.run(body())
    assert "cost" not in said and "currency" not in said and said["joules"] is None


def test_a_budget_of_tokens_is_never_exceeded(tmp_path: Path) -> None:
    async def body() -> None:
        accounts = Accounts(tmp_path / "a.json", budgets={"ann": Budget(tokens=100)})
        first, second = accounts.bill("ann"), accounts.bill("ann")
        first.expect(60)
        with pytest.raises(Refusal, match=r"has 40 of 100 tokens left, .* may take 41") as refused:
            second.expect(41)
        assert refused.value.status == 429 and refused.value.code == "insufficient_quota"
        second.expect(40)
        with pytest.raises(Refusal, match="may go to its requests that are being answered"):
            accounts.bill("ann")
        first.settle(10, 20, Spent())  # less than it might have
        assert accounts.described("ann")["left"] == {"tokens": 30}
        second.expect(5)  # of another model, instead of what was held before
        assert accounts.described("ann")["left"] == {"tokens": 65}
        second.settle(40, 30, Spent())
        with pytest.raises(Refusal, match="100 tokens, is used up"):
            accounts.bill("ann")
        accounts.bill("bob").expect(10**9)
        await accounts.written()

    asyncio.run(body())
    again = Accounts(tmp_path / "a.json", budgets={"ann": Budget(tokens=100)})
    with pytest.raises(Refusal, match="used up"):
        again.bill("ann")


def test_a_budget_of_cost_ends_with_the_request_that_reaches_it(tmp_path: Path) -> None:
    budgets = {"ann": Budget(cost=2.0)}
    assert charged(tmp_path / "a.json", price=PRICE, budgets=budgets).described("ann")["left"] == {
        "cost": 0.5
    }
    accounts = charged(tmp_path / "a.json", price=PRICE, budgets=budgets)
    with pytest.raises(Refusal, match="the budget of this key, 2 EUR, is used up"):
        accounts.bill("ann")


def spoil(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (lambda path: path.write_text("{"), "accounts_file="),
    "a list": (lambda path: path.write_text("[]"), "accounts_file="),
    "something else": (lambda path: path.write_text('{"a": 1}'), "holds no accounts"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "accounts_file="),
    "a field less": (lambda path: spoil(path, lambda it: it["accounts"]["ann"].pop("cost")),
                     "the account of ann is damaged"),
    "a text": (lambda path: spoil(path, lambda it: it["accounts"]["ann"].update(cost="1")),
               "the account of ann is damaged"),
    "half a token": (lambda path: spoil(path, lambda it: it["accounts"]["ann"].update(requests=.5)),
                     "the account of ann is damaged"),
    "less than nothing": (
        lambda path: spoil(path, lambda it: it["accounts"]["ann"].update(prompt_tokens=-1)),
        "the account of ann is damaged",
    ),
    "another currency": (lambda path: spoil(path, lambda it: it.update(currency="USD")),
                         "its costs are in USD, and currency=EUR"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, case: str) -> None:
    path = tmp_path / "accounts.json"
    charged(path, price=PRICE)
    change, message = SPOILED[case]
    change(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UserError, match=message):
        Accounts(path, PRICE)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_file_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    said = charged_without_reading(tmp_path / "file" / "accounts.json")
    assert said["requests"] == 1
    assert "accounts cannot be written to" in caplog.text


def charged_without_reading(path: Path) -> dict[str, Any]:
    async def body() -> dict[str, Any]:
        accounts = Accounts()
        accounts._path = path
        accounts.bill("ann").settle(1, 2, Spent())
        await accounts.written()
        return accounts.described("ann")

    return asyncio.run(body())
