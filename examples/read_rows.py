"""Probe rows as a table of pandas: `python examples/read_rows.py runs/probe/probes.jsonl`."""

import sys
from statistics import median

import pandas as pd

from scripts import api

if __name__ == "__main__":
    table = pd.DataFrame(
        {
            "model": row.label,
            "probe": row.probe,
            "sweep": row.sweep,
            "context_length": row.context_length,
            "milliseconds": 1e3 * median(row.seconds),
            "peak_mib": (row.peak_bytes or 0) / 2**20,
        }
        for row in api.read_rows(sys.argv[1])
        if row.status == "ok"
    )
    train = table[(table.probe == "train") & (table.sweep == "batch_1")]
    print(train.pivot_table(index="context_length", columns="model", values="milliseconds"))
