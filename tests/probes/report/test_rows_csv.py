"""rows.csv opens in a spreadsheet, whatever wrote the rows."""

from __future__ import annotations

import csv
from dataclasses import replace

from probes.report.rows_csv import COLUMNS, csv_text, flat
from tests.probes.synthetic import make_rows


def test_texts_are_no_formulas() -> None:
    row = make_rows(("rwkv4", "gpt"), ("train",), fixed=False)[0]
    texts = {"model": "=1+1", "error": "@SUM(A1)", "command": "+cmd", "title": "-2"}
    (line,) = csv.DictReader(csv_text(COLUMNS, [flat(replace(row, **texts))]).splitlines())
    assert {name: line[name] for name in texts} == {name: f"'{one}" for name, one in texts.items()}
    (line,) = csv.DictReader(csv_text(COLUMNS, [flat(row)]).splitlines())
    assert line["model"] == row.model and line["command"] == row.command
