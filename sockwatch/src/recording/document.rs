//! docs/recording.md: what stands in a recording, from the same tables that write it.

use std::fmt::Write;

use super::{
    header::KEYS,
    schema::{meanings, schema},
    words::KINDS,
};

const BEGINNING: &str = "\
# Recordings

`sockwatch record -o web.swr` writes what `trace` sees, event by event; `sockwatch replay web.swr` shows it as `trace` would have shown
it, line by line; `sockwatch info web.swr` says what is in it. Whoever can read a recording knows who talked to whom: it is made
readable for its owner only.

A recording is an Arrow IPC stream with buffers compressed by zstd, which other programs open as it is:

    import pyarrow as pa
    with pa.ipc.open_stream(\"web.swr\") as stream:
        table = stream.read_all()

    import polars
    polars.read_ipc_stream(\"web.swr\").filter(polars.col(\"kind\") == \"accept\").group_by(\"comm\").len()

    import duckdb    # sees the pyarrow table by its name
    duckdb.sql(\"SELECT kind, count(*) FROM 'table' GROUP BY kind ORDER BY 2 DESC\")

One row is one thing that the source of events said, in the order in which it said it; rows of two CPUs may be out of order by microseconds.
It holds what was seen, not what it means: the timelines, waits and endings are concluded again at each replay. Times count in
nanoseconds of CLOCK_MONOTONIC; the metadata and `clock` rows say what Unix time that is.

## How long it can be read

The metadata `sockwatch.format` has a version: 1.0. Every sockwatch reads all files with its own major number, and older ones. A new minor
number adds kinds of rows or columns; a reader leaves out what it does not know, and says how much that was. What is there keeps
its name, type and meaning.

## What a crash costs

Whole batches are appended, once a second (`--flush`), each with a single write: after `kill -9` at any instant the file holds all but the
last second, and `replay` says that its end mark is missing. If the machine itself goes down, `--sync flush` bounds it the same way;
by default a file is forced to the disk when it is complete. A disk that is full ends the recording with exit code 2; what is in
the file can be read. A disk that is too slow drops whole batches: they are counted (`unrecorded`), tracing goes on. Each batch has
some 5 kB of its own, so a longer `--flush` makes recordings of quiet machines smaller; at full load a row is 7 to 10 bytes.

A file that is damaged ends where it makes no sense any more. Of several files the others are read whole; what is wrong is told at the
end, with exit code 2.

## What time it was

A pair of times is in each file's metadata, and in `clock` rows: once a minute, and as soon as the time of day has moved by a
millisecond against CLOCK_MONOTONIC, because somebody has set it or the machine has slept. Every event is placed by the newest pair
before it, in all files, and `info` tells of the moves. A time of day that was left out (`list --at`) means the move; one that came twice
means the first.

## A file without those before it

Each file that a rotation makes can be read by itself. Soon after its beginning (`--flush`) it names its processes again. Counts go on
from file to file. Where the first files are missing, `replay` and all others leave out what was before: of losses what the `loss`
rows with flag 2048 say before the first `tick`, and of a namespace's counters what its first `listing` with any says.

## Rows
";

/// The whole page.
pub fn page() -> String {
    let mut page = BEGINNING.to_owned();
    let _infallible = write(&mut page);
    page
}

fn write(page: &mut String) -> std::fmt::Result {
    writeln!(page, "\n| kind | tells |\n|---|---|")?;
    for (_, word, meaning) in KINDS {
        writeln!(page, "| `{word}` | {} |", sentence(&meaning.join("")))?;
    }
    writeln!(page, "\n## Columns\n\nA row fills those that its kind has something to say in; all others are null.\n")?;
    writeln!(page, "| column | type | holds |\n|---|---|---|")?;
    let schema = schema(Default::default());
    for (field, meaning) in schema.fields().iter().zip(meanings()) {
        let data_type = field.data_type().to_string().replace("Dictionary(Int8, Utf8)", "word (dictionary)");
        writeln!(page, "| `{}` | {data_type} | {} |", field.name(), sentence(&meaning))?;
    }
    writeln!(
        page,
        "\n## Metadata\n\nKeys of the schema, each with the prefix `sockwatch.`.\n\n| key | holds |\n|---|---|"
    )?;
    for (key, meaning) in KEYS {
        writeln!(page, "| `{key}` | {meaning} |")?;
    }
    Ok(())
}

/// A comment's lines as one, for a table's cell.
fn sentence(lines: &str) -> String {
    lines.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_column_and_key_is_told() {
        let page = page();
        for word in ["`minisock_segment`", "`fin_timeout_ms`", "`reset_reasons`"] {
            assert!(page.contains(word), "{word}");
        }
        assert!(page.lines().count() > 100);
        assert!(!page.contains("Dictionary("), "{page}");
    }
}
