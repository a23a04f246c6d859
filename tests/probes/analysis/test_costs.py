"""Rates, percentiles, pages and money, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.analysis import costs
from probes.analysis.analysis import analyse
from probes.analysis.costs import Price
from probes.analysis.dataset import collect
from probes.report.html import page
from probes.report.write import Report, compose
from probes.rows import Row
from tests.probes.synthetic import make_row, make_rows, write_run


def test_a_million_tokens_at_a_pace() -> None:
    """A thousand tokens a second are a million in 1000 s, which is 1/3.6 of an hour."""
    price = Price(3.60, "EUR")
    assert price.of_million(1e-3) == pytest.approx(1.0)
    assert price.text(1234.5) == "1,234.50 EUR"
    assert price.text(0.01234) == "0.0123 EUR"
    assert costs.pages_per_hour(0.1) == pytest.approx(36_000 / 700)


def analysed(folder: Path, rows: list[Row], price: Price | None = None) -> Report:
    """Everything a report knows, without its files."""
    return compose(analyse(collect([write_run(folder / "run", rows)]), (1024, 8192), price), folder)


def page_of(report: Report) -> str:
    return page(report.analysis, report.contents).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("priced")
    return analysed(folder, make_rows(fixed=False), Price(2.5, "USD"))


def test_a_price_is_told_everywhere(priced: Report) -> None:
    text = page_of(priced)
    expected = Price(2.5, "USD").of_million(4e-3)  # RWKV-4 decodes a token in 4 ms
    cell = f"{expected:.2f} USD"
    assert f">{cell}</td>" in text, "in the table"
    assert "in brackets what a million tokens cost at 2.50 USD an hour" in text
    assert f"RWKV-4</span> 1,300 ({cell})" in text, "in the summary: 3600 / 4e-3 / 700 pages"
    told = priced.summary["costs"]
    assert (told["price_per_hour"], told["currency"]) == (2.5, "USD")
    assert told["rwkv4"]["decode"]["8192"]["per_million_tokens"] == pytest.approx(expected)


def test_without_a_price_there_is_no_money(tmp_path: Path) -> None:
    report = analysed(tmp_path, make_rows(fixed=False))
    text = page_of(report)
    assert "per million tokens" not in text and "a million tokens" not in text
    assert "In pages of text an hour" in text
    assert report.summary["costs"]["currency"] is None


def test_where_the_rwkv_loses_is_computed(priced: Report, tmp_path: Path) -> None:
    def section(report: Report) -> str:
        text = page_of(report)
        return text[text.index('id="losses"') : text.index('id="ranges"')]

    lost = section(priced)
    assert "Peak training memory" not in lost
    assert "Peak memory of a training step" in lost and "at every length" in lost
    assert "Training time per sequence" in lost and "256, 512, 1,024 and 2,048" in lost
    assert "Memory of the context" not in lost
    better = [
        make_row(who, "train", length, seconds=[1.0 if who == "gpt" else 0.5], peak_bytes=10**8)
        for who in ("rwkv4", "gpt")
        for length in (256, 512, 1024)
    ]
    won = section(analysed(tmp_path, better))
    assert "In 0 of 2 comparisons the recurrent" in won and "<table>" not in won
