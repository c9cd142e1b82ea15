"""Small Parquet files: values/rows.parquet, and values/long-labels.parquet with integers beyond 2^53."""

import pathlib

import pyarrow
from pyarrow import parquet

table = pyarrow.table(
    {
        "text": ["naïve 日本 🙂", ""],
        "label": pyarrow.array([1, 0], pyarrow.int64()),
        "score": [0.5, 1.5],
        "tokens": [["a", "b"], []],
    }
)
parquet.write_table(table, pathlib.Path(__file__).parent / "values" / "rows.parquet", compression="zstd")

long_labels = pyarrow.table(
    {
        "text": ["a", "b", "c"],
        "label": pyarrow.array([9007199254740992, 9007199254740993, 1], pyarrow.int64()),
    }
)
parquet.write_table(long_labels, pathlib.Path(__file__).parent / "values" / "long-labels.parquet")
