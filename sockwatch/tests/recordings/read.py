"""Opens a recording with the libraries that people will open it with, and compares what they see.

    python read.py FILE EVENTS
"""

import sys

import duckdb
import polars
import pyarrow as pa

path, expected = sys.argv[1], int(sys.argv[2])
MARKS = {"tick", "loss", "clock", "round_expected", "listing", "socket", "holder", "counter", "namespace_gone", "round", "process"}

with pa.ipc.open_stream(path) as stream:
    table = stream.read_all()
assert table.schema.metadata[b"sockwatch.format"] == b"1.0", table.schema.metadata
table.validate(full=True)
kinds = {row["values"]: row["counts"] for row in table["kind"].combine_chunks().cast(pa.string()).value_counts().to_pylist()}
events = sum(count for kind, count in kinds.items() if kind not in MARKS)
assert events == expected, (events, expected, kinds)

frame = polars.read_ipc_stream(path)
assert dict(frame["kind"].cast(polars.String).value_counts().iter_rows()) == kinds

counted = duckdb.sql("SELECT kind::VARCHAR, count(*) FROM 'table' GROUP BY ALL").fetchall()
assert dict(counted) == kinds, counted

accepts = frame.filter(polars.col("kind").cast(polars.String) == "accept")
assert accepts["pid"].null_count() == 0 and accepts["comm"].null_count() == 0
print(f"pyarrow {pa.__version__}, polars {polars.__version__}, DuckDB {duckdb.__version__}: {events} events, {table.num_rows} rows")
