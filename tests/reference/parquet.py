"""A small Parquet file: values/rows.parquet."""

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
