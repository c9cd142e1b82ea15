"""
Rows that Python's csv reads from texts with mixed line endings and quoted cells (values/csv-tables.json), and that it and pandas
2.2.3 read from texts with quotes anywhere (values/csv-quotes.json).
"""

import csv
import io
import json
import random

import pandas

from common import VALUES, write

random.seed(1)
PIECES = ["a", "word", " ", ",", ";", "\t", '"', "\n", "\r\n", "\r", "é", "日本", "😀", "0", "1.5", "'", "\\", ""]


def cell() -> str:
    return "".join(random.choice(PIECES) for _ in range(random.randint(0, 4)))


def written(text: str, delimiter: str) -> str:
    needs = any(mark in text for mark in (delimiter, '"', "\n", "\r"))
    return '"' + text.replace('"', '""') + '"' if needs or random.random() < 0.2 else text


cases = []
for _ in range(150):
    delimiter = random.choice([",", ",", ";", "\t"])
    columns = random.randint(1, 4)
    rows = [[f"column {name}" for name in "abcd"[:columns]]]
    rows += [[cell() or "x" for _ in range(columns)] for _ in range(random.randint(1, 6))]
    ends = random.choice([["\n"], ["\r\n"], ["\r"], ["\n", "\r\n"], ["\n", "\r\n", "\r"]])
    lines = [delimiter.join(written(text, delimiter) for text in row) for row in rows]
    text = "".join(line + random.choice(ends) for line in lines)
    if random.random() < 0.3:
        text = text.rstrip("\r\n") if rows[-1][-1].strip() else text
    read = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    if columns == 1 and delimiter != ",":
        continue
    kept = [row for row in read if "".join(row).strip() or len(row) > 1]
    if len(kept) > 1:
        cases.append({"text": text, "rows": kept})
write(VALUES / "csv-tables.json", json.dumps(cases, ensure_ascii=False).encode())


def closed(text: str) -> bool:
    try:
        list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        return "unexpected end of data" not in str(error)
    return True


loose = []
while len(loose) < 150:
    columns = random.randint(2, 3)
    parts = [["a", "b", "c"][:columns]]
    parts += [
        ["".join(random.choice(["x", "é", '"', '"', " ", "'", "\n", ";"]) for _ in range(random.randint(1, 5))) for _ in range(columns)]
        for _ in range(random.randint(1, 4))
    ]
    text = "\n".join(",".join(row) for row in parts) + "\n"
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if not closed(text) or any(len(row) != columns for row in rows) or any(not "".join(row).strip() for row in rows):
        continue
    try:
        frame = pandas.read_csv(io.StringIO(text), header=None, dtype=str, keep_default_na=False)
    except pandas.errors.ParserError:
        continue
    if frame.values.tolist() != rows:
        continue
    loose.append({"text": text, "rows": rows})
write(VALUES / "csv-quotes.json", json.dumps(loose, ensure_ascii=False).encode())
