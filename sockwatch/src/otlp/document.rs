//! docs/otlp.md: what is pushed, from the tables that it is made of.

use std::fmt::Write;

use super::{
    attributes::{CONVENTIONS, LABELS, Told, told},
    metrics::{name, unit},
};
use crate::metrics::table::{Kind, Row, TABLE};

const BEGINNING: &str = "\
# OTLP

    sockwatch serve --otlp http://127.0.0.1:4318
    sockwatch serve --otlp http://127.0.0.1:4317 --otlp-protocol grpc

pushes to a receiver of OTLP, such as an OpenTelemetry Collector, by HTTP (protobuf) or by gRPC, every 10 s (`--otlp-interval`): all metrics of
[/metrics](metrics.md) with the same figures, and a log record for each connection and each listener that has ended.
`--otlp-signal metrics` or `logs` pushes one of both, for a receiver that takes no more. /metrics and /healthz are
answered all the same.

A receiver whose URL has a path gets `PATH/v1/metrics` and `PATH/v1/logs`: Prometheus' own is
`--otlp http://127.0.0.1:9090/api/v1/otlp --otlp-signal metrics`. Requests are not compressed. `https://` encrypts, and trusts the
authorities that this machine trusts, or those of a file (`--otlp-ca FILE`), read when sockwatch starts. sockwatch's unit
for systemd allows no other address than this machine's (`IPAddressAllow=` takes the receiver's).

`--otlp-header 'authorization=Bearer TOKEN'` sends a header with each request. Its value is never printed, and belongs where
others cannot read it: `SOCKWATCH_OTLP_HEADER` in the environment, or a file of mode 600
(`otlp-header = [\"authorization=Bearer TOKEN\"]`); a command line can be read by every user of the machine.

## When the receiver fails

| answer | what follows |
|---|---|
| HTTP 429, 502, 503, 504 | tried again |
| gRPC CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS | tried again |
| gRPC RESOURCE_EXHAUSTED | tried again if it comes with RetryInfo, else dropped |
| none within 10 s, no connection, a connection that breaks | tried again |
| any other status | dropped, and counted as `refused` |
| taken, but for some (partial success) | those are dropped, and counted as `rejected` |

It is tried again after a tenth of the interval, then after twice that time, and so on up to six times the interval; up to
half of each pause is left off at random. `Retry-After` in seconds and RetryInfo are waited for instead, up to five
minutes. Metrics are not kept: the next push has the figures of then. Log records are kept: 10,000 at most
(`--otlp-queue`), of some 1 KB each; they go in requests of 512. Those that find no room are dropped, and counted as
`queue_full`; the oldest stay. A request whose answer came too late, or whose connection broke, is sent again: its
records may arrive twice.

Nothing of this keeps events waiting: the loop that takes them in only puts what has ended into the queue.
`sockwatch_otlp_records_total` and `sockwatch_otlp_records_waiting` in /metrics, `otlp_records` in /healthz, count every
record; together they are as many as `sockwatch_connections_ended_total`. That the receiver fails, and that it takes again, is
said on stderr. When sockwatch ends, what is left and the last figures go out within 5 s; a last line says what became
of all records, those not delivered by then as `unsent`.

A message of metrics has some 3 KB for each listener with series of its own. Receivers by gRPC take 4 MiB by default:
enough for 1,000 listeners, five times what `--max-listeners` allows by default.

sockwatch's own connections to the receiver are connections like others: without a filter each is seen, and has a record
when it ends.

## Resource

| attribute | what |
|---|---|
| `service.name` | `sockwatch` |
| `service.version` | its version |
| `service.instance.id` | host and port (`--listen`): `web-1:29798`; Prometheus makes it the label `instance` |
| `host.name` | the host's name |
| `os.type` | `linux` |
| `sockwatch.kernel` | the kernel's release |

Names are those of OpenTelemetry's [semantic conventions](https://opentelemetry.io/docs/specs/semconv/) ";

const LOGS: &str = "\
## Log records

One for each connection that has ended (event name `sockwatch.connection.end`), and for each listener
(`sockwatch.listener.end`). The time is that of the end; the body says who ended it and why, in a sentence, as
`trace --why` does. Severity is `INFO` where an end closed or disappeared as it should, `WARN` where somebody did not get
what they wanted: refused, reset, timed out, unreachable, destroyed, or never accepted.

Attributes that are not known are left out. Times are in nanoseconds, sizes in bytes.

| attribute | type | meaning |
|---|---|---|
";

/// Attributes of log records.
pub(super) const RECORD: &[(&str, &str, &str)] = &[
    ("network.transport", "string", "`tcp`"),
    ("network.type", "string", "`ipv4` or `ipv6`, as it goes over the wire: an address `::ffff:10.0.0.7` is IPv4"),
    ("network.local.address", "string", "This end's address, as its socket has it"),
    ("network.local.port", "int", "This end's port"),
    ("network.peer.address", "string", "The other end's address; not of a listener"),
    ("network.peer.port", "int", "The other end's port"),
    ("source.address", "string", "Who called connect(); absent where a connection was there before sockwatch"),
    ("source.port", "int", "Its port"),
    ("destination.address", "string", "Who was called"),
    ("destination.port", "int", "Its port"),
    ("server.address", "string", "Of a listener: where it listened"),
    ("server.port", "int", "Of a listener: at which port"),
    ("sockwatch.netns", "int", "Inode number of the network namespace"),
    ("sockwatch.cookie", "int", "The socket's cookie, unique within its namespace; 0 where the kernel had none"),
    ("sockwatch.incarnation", "int", "How often the same socket was opened before"),
    ("sockwatch.role", "string", "`active` (it called connect()), `passive`, `listener`, `unknown`"),
    ("sockwatch.end", "string", "How it ended: the words of the column END of `trace`"),
    ("error.type", "string", "The socket's error at its end, by name: `ECONNRESET`"),
    ("process.pid", "int", "Its owner's process"),
    ("process.executable.name", "string", "What that is called: the kernel's `comm`, up to 15 bytes"),
    ("sockwatch.unit", "string", "The owner's systemd unit"),
    ("container.id", "string", "The owner's container"),
    ("container.runtime.name", "string", "Who made that: `docker`, `podman`, `containerd`, `cri-o` and others"),
    ("k8s.pod.uid", "string", "The owner's pod"),
    ("sockwatch.closer.pid", "int", "The process that sent the first FIN or RST from this end"),
    ("sockwatch.closer.name", "string", "What that is called"),
    ("sockwatch.lifetime_ns", "int", "Birth to end; absent if its birth was not seen"),
    ("sockwatch.handshake_ns", "int", "First SYN-ACK to accept queue"),
    ("sockwatch.queue_wait_ns", "int", "Accept queue to accept(); negative with Fast Open"),
    ("sockwatch.left_after_ns", "int", "How long it had waited when its client left, unaccepted"),
    ("sockwatch.queue_depth", "int", "The accept queue's depth before it"),
    ("sockwatch.queue_limit", "int", "The accept queue's limit"),
    ("sockwatch.retransmits", "int", "Segments sent again"),
    ("sockwatch.resets_sent", "int", "RSTs sent"),
    ("sockwatch.resets_received", "int", "RSTs received"),
    ("sockwatch.acked_bytes", "int", "Payload that the other end acknowledged"),
    ("sockwatch.received_bytes", "int", "Payload that arrived in order"),
    ("sockwatch.unread_bytes", "int", "Payload that arrived and that nobody read"),
    ("sockwatch.sampled_ns", "int", "Not seen, but found in listings: its times are right to within this"),
    (
        "sockwatch.states",
        "array",
        "Its states before the end, in order: `state` as in `network.connection.state`, `lasted_ns`",
    ),
];

/// The whole page.
pub fn page() -> String {
    let mut page = format!("{BEGINNING}{CONVENTIONS} where there are such, else `sockwatch.*`.\n\n{LOGS}");
    for (attribute, kind, meaning) in RECORD {
        line(&mut page, format_args!("| `{attribute}` | {kind} | {meaning} |"));
    }
    page.push_str(METRICS);
    for row in TABLE {
        line(&mut page, format_args!("| {} |", cells(row).join(" | ")));
    }
    page.push_str(ATTRIBUTES);
    for (label, told) in LABELS {
        let becomes = match told {
            Told::Text(name) => format!("`{name}` (string)"),
            Told::Number(name) => format!("`{name}` (int)"),
            Told::State(name) => format!("`{name}` (string): `established`, `close_wait`, `fin_wait_1` and so on"),
            Told::End(address, port) => format!("`{address}` (string), `{port}` (int)"),
        };
        line(&mut page, format_args!("| `{label}` | {becomes} |"));
    }
    page
}

const METRICS: &str = "
## Metrics

A name is that of /metrics with a dot behind `sockwatch`, without its unit: what translates it for Prometheus comes to
the same name, but for `process.*`, which are the conventions'. What each means is told [there](metrics.md).

Temporality is cumulative. A counter's start is when sockwatch started, or when its listener was first seen; one that
comes back after its series was forgotten has a later start. Bounds of histograms: 1, 2 and 5 times each power of ten,
from 10 µs to 100 s.

| metric | type | unit | attributes | in /metrics |
|---|---|---|---|---|
";

const ATTRIBUTES: &str = "
What labels of /metrics become; those of `sockwatch_build_info` keep their names behind `sockwatch.`. All listeners without
series of their own have the `server.address` `other`. A label that says nothing is left out.

| label | attributes |
|---|---|
";

fn cells(row: &Row) -> [String; 5] {
    let kind = match row.kind {
        Kind::Counter => "sum, monotonic",
        Kind::Gauge | Kind::Info => "gauge",
        Kind::Histogram => "histogram",
    };
    let attributes = row.labels.iter().flat_map(|label| match (row.kind, told(label)) {
        (Kind::Info, _) | (_, None) => vec![format!("`sockwatch.{label}`")],
        (_, Some(Told::Text(name) | Told::Number(name) | Told::State(name))) => vec![format!("`{name}`")],
        (_, Some(Told::End(address, port))) => vec![format!("`{address}`"), format!("`{port}`")],
    });
    let attributes: Vec<_> = attributes.collect();
    let exposed = format!("`{}`", row.exposed());
    [format!("`{}`", name(row)), kind.to_owned(), unit(row).to_owned(), attributes.join(", "), exposed]
}

fn line(page: &mut String, line: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(page, "{line}");
}
