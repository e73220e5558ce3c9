//! docs/export.md: what exports hold, from the same table that writes them.

use std::fmt::Write;

use super::connections::columns;

const BEGINNING: &str = "\
# Exports

`sockwatch export web.swr -o web.parquet` makes of a recording what other programs take. The words that choose sockets are those of
`replay`. The file's name tells the format, or `--to` does:

| `--to` | file | holds |
|---|---|---|
| `parquet` | `.parquet` | a row per finished connection, compressed by zstd |
| `csv` | `.csv` | the same rows as text, the columns' names first |
| `jsonl` | `.jsonl` | every line of `replay --format json --time wall` (trace.schema.json) |
| `perfetto` | `.pftrace` | a timeline for <https://ui.perfetto.dev>: below each process its sockets with a slice per state, below each listener its queue |
| `folded` | `.folded` | milliseconds by process, role, port and state, one line each, for flame graphs (`inferno-flamegraph`, speedscope) |

What has not ended when the recording ends is in the timeline and in the JSON lines, not in the others.

## Hidden addresses

`--redact @FILE` puts another address in the place of each: one in 2001:db8::/32, which nobody has, made of a hash with the key that is
in the file. The same address and key give the same one, in every export, so that what belongs together can still be seen; without
the key nobody can tell which it was. The machine's name is a hash, too, and the instance of a unit that a socket has started for one
connection is left out. Loopback addresses and ports stay, and so do names of processes, units and cgroups.
`--redact KEY` works, too, but other users of the machine can read a command line.

## Directories by machine and day

`--partition -o DIRECTORY` writes `DIRECTORY/host=NAME/date=YYYY-MM-DD/RECORDING-PARTS.parquet`, with the day (UTC) on which a connection
ended, as query engines take them. Files of many machines and recordings can share a directory:

    import duckdb
    duckdb.sql(\"SELECT host, date, count(*) AS accepted, quantile_cont(wait_ns, 0.99) / 1e6 AS p99_ms \"
               \"FROM read_parquet('DIRECTORY/*/*/*.parquet', hive_partitioning = true) \"
               \"WHERE wait_ns IS NOT NULL GROUP BY ALL ORDER BY ALL\")

    import polars
    polars.scan_parquet(\"DIRECTORY\", hive_partitioning=True).filter(polars.col(\"end\") == \"peer-rst\").collect()

    spark.read.parquet(\"DIRECTORY\").createOrReplaceTempView(\"connections\")
    spark.sql(\"SELECT host, date, local_port, count(*) AS accepted, \"
              \"percentile_disc(0.99) WITHIN GROUP (ORDER BY wait_ns) AS p99_ns, max(wait_ns) AS max_ns \"
              \"FROM connections WHERE wait_ns IS NOT NULL GROUP BY ALL ORDER BY ALL\").show()

Of a recording whose connections were all accepted and have all ended, the last query gives the numbers of its report, by listener. The
report knows more: connections that are open when the recording ends, and, as waits that were at least so long, those of clients that
nobody accepted. An export has a row only for what has ended, and no `wait_ns` where there was no accept().

Each file says which parts of its recording it was made of, so that no row is there twice: an export of parts that are there already
is refused. `--force` replaces files by an export that has all of their parts, on every day. Of a recording that goes on, export what is
complete, and later the files behind that: a connection has its row where it ended.

Exports with `--redact` want a directory of their own: the machine has another name there, so beside the others each row would
count twice.

## Columns of tables

Times are UTC, in microseconds; durations are in nanoseconds. What is not known is null.

| column | Parquet type | holds |
|---|---|---|
";

/// The whole page.
pub fn page() -> String {
    let mut page = BEGINNING.to_owned();
    for (name, data_type, meaning) in columns() {
        let data_type = data_type.to_string().replace('"', "");
        let _infallible = writeln!(page, "| `{name}` | {data_type} | {meaning} |");
    }
    page
}
