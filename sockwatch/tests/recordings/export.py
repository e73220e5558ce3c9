"""Opens exports with the libraries that people will open them with, and compares what they see.

    python export.py DIRECTORY ROWS

DIRECTORY has web.parquet, web.csv, web.pftrace and lake/, all of one recording; ROWS is how many connections it has. And
moved.pftrace, of one in which the clock is set forward by an hour, and later back by two.
"""

import collections
import sys

import documented
import duckdb
import polars
import pyarrow.parquet
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto

directory, expected = sys.argv[1], int(sys.argv[2])

table = pyarrow.parquet.read_table(f"{directory}/web.parquet")
table.validate(full=True)
assert table.num_rows == expected, (table.num_rows, expected)
assert str(table.schema.field("ended").type) == "timestamp[us, tz=+00:00]", table.schema

csv = duckdb.sql(f"SELECT local_port, remote_port, wait_ns, epoch_us(ended) AS ended FROM '{directory}/web.csv' ORDER BY ALL").fetchall()
same = duckdb.sql("SELECT local_port, remote_port, wait_ns, epoch_us(ended) AS ended FROM 'table' ORDER BY ALL").fetchall()
assert csv == same, (csv, same)

ends = collections.Counter(table["end"].to_pylist())
lake = duckdb.sql(
    f"""SELECT "end", count(*), min(host), min(date)::VARCHAR
        FROM read_parquet('{directory}/lake/*/*/*.parquet', hive_partitioning = true) GROUP BY ALL"""
).fetchall()
assert {end: count for end, count, *_ in lake} == ends, (lake, ends)
assert {row[2] for row in lake} == set(table["host"].to_pylist()), lake
frame = polars.scan_parquet(f"{directory}/lake", hive_partitioning=True).collect()
assert frame.height == expected and set(frame["date"].cast(polars.String)) == {row[3] for row in lake}, frame

waits = [wait for wait in table["wait_ns"].to_pylist() if wait is not None]
told = documented.answer("duckdb", f"{directory}/lake").fetchall()
assert sum(accepted for _, _, accepted, _ in told) == len(waits), (told, waits)
assert min(waits) / 1e6 <= told[0][3] <= max(waits) / 1e6, (told, waits)
told = documented.answer("polars", f"{directory}/lake")
assert told.height == ends["peer-rst"], (told, ends)

trace = perfetto.Trace()
with open(f"{directory}/web.pftrace", "rb") as file:
    trace.ParseFromString(file.read())
assert all(packet.trusted_packet_sequence_id for packet in trace.packet)
names = {name.iid: name.name for packet in trace.packet for name in packet.interned_data.event_names}
tracks = {packet.track_descriptor.uuid: packet.track_descriptor for packet in trace.packet if packet.HasField("track_descriptor")}
assert all(track.parent_uuid in tracks for track in tracks.values() if track.parent_uuid)
open_slices, waits, states = collections.defaultdict(list), 0, collections.Counter()
events = sorted((packet for packet in trace.packet if packet.HasField("track_event")), key=lambda packet: packet.timestamp)
for packet in events:
    event = packet.track_event
    track, slices = tracks[event.track_uuid], open_slices[event.track_uuid]
    if event.type == event.TYPE_SLICE_BEGIN:
        slices.append(event.name or names[event.name_iid])
        waits += track.name == "accept queue: waiting"
        states[names.get(event.name_iid)] += 1
        # A socket, and a state in it: never two sockets on one track.
        assert len(slices) <= 2, slices
    elif event.type == event.TYPE_SLICE_END:
        slices.pop()
assert not any(open_slices.values()), open_slices
assert waits == sum(wait is not None for wait in table["wait_ns"].to_pylist()), waits
assert states["ESTABLISHED"] == sum(role != "listener" for role in table["role"].to_pylist()), states

trace = perfetto.Trace()
with open(f"{directory}/moved.pftrace", "rb") as file:
    trace.ParseFromString(file.read())
REALTIME, MONOTONIC = 1, 3
snapshots = [packet.clock_snapshot for packet in trace.packet if packet.HasField("clock_snapshot")]
clocks = [{clock.clock_id: clock.timestamp for clock in snapshot.clocks} for snapshot in snapshots]
offsets = [clock[REALTIME] - clock[MONOTONIC] for clock in clocks]
moves = [round((after - before) / 1e9) for before, after in zip(offsets, offsets[1:])]
assert moves == [3600, -7200], moves
print(f"{expected} rows as Parquet, CSV and partitions; {len(events)} events of a timeline, {waits} waits")
