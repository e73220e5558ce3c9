//! docs/metrics.md: what `serve` tells, from the same table that registers it.

use std::fmt::Write;

use super::table::{Kind, TABLE};

const BEGINNING: &str = "\
# Metrics

`sockwatch serve` answers `/metrics` on 127.0.0.1:29798 (`--listen`), as OpenMetrics 1.0 to whoever asks for it in `Accept`, as Prometheus
does, else in Prometheus' text format 0.0.4.

    scrape_configs:
      - job_name: sockwatch
        static_configs: [{ targets: ['127.0.0.1:29798'] }]

Some questions, and how Prometheus is asked:

    # the queue wait that 99 of 100 connections stay below, by listener
    histogram_quantile(0.99, sum by (listener, process, le) (rate(sockwatch_queue_wait_seconds_bucket[5m])))
    # accept queues that are more than half full
    sockwatch_accept_queue_depth > 0.5 * sockwatch_accept_queue_limit
    # connections a second that peers reset, by role
    sum by (role) (rate(sockwatch_connections_ended_total{end=\"peer-rst\"}[5m]))
    # how much of what sockwatch believes agrees with the kernel's own table
    rate(sockwatch_reconcile_agreed_total[1h]) / rate(sockwatch_reconcile_compared_total[1h])

## Listeners

A listener's series have the labels `netns` (the inode number of its network namespace), `listener` (address and port) and `process` (its name,
up to 15 bytes, unprintable characters replaced). Sockets for which these are the same are one series: a `SO_REUSEPORT` group, or a
server that was restarted. A listener whose process is not known yet has an empty `process`, and keeps its counts when it gets its name;
one that passes to another process goes on in that one's series.

200 listeners (`--max-listeners`) have series of their own, first come, first served. All others are summed in the series with
`listener=\"other\"`, and `sockwatch_listeners_folded_total` counts them. A listener that is gone keeps its series for five minutes, then they go.
No connection has a label of its own.

Counters begin at 0 when sockwatch starts. Connections of which a loss kept the beginning or the end from being seen are not in the
histograms: `sockwatch_losses_total` and `sockwatch_reconcile_repairs_total` tell whether there were any.

Buckets of the histograms: 1, 2 and 5 times each power of ten, from 10 µs to 100 s, in seconds.

Figures are those of the last batch of events, at most `--latency` before; scrapes within a tenth of a second share them.

## Limits

A client that has not sent its request within 5 s (with TLS: after 5 s more for the handshake), or taken the answer within 10 s, is cut off; a header of more than 8 KiB is refused (431);
an address may send 10 requests a second, 20 at once (429), and what it sends without the token does not count against what it sends
with it; 64 clients may be connected at once, 16 of one address (503). Addresses are networks of 64 bits in IPv6, and all of
127.0.0.0/8 is one, which may have all 64. `sockwatch_http_refused_total` counts
all of them. Each connection carries one request.

`/healthz` answers 200 while events are taken in, else 503 with the reason, in JSON: `status`, `reason`, `source`, `events`, `lost`, `missed`.

`--otlp` pushes the same figures, and a log record for each connection that has ended: [OTLP](otlp.md).

Any address but a loopback one demands `--token-file FILE`: whoever asks must send `Authorization: Bearer` and what the file holds. The
token and the figures travel in the clear, unless `--tls-cert FILE` and `--tls-key FILE` (PEM) have HTTPS spoken: TLS 1.2 and 1.3. SIGHUP
reads both files again. Without a token only who asks by an address or as localhost is answered (403), since any page of the web could
give this machine another name; /healthz answers everybody. An address that comes too often (above) gets no handshake then, and no 429; who speaks HTTP where
TLS is spoken is told so.

## All metrics

| metric | type | labels | meaning |
|---|---|---|---|
";

/// The whole page.
pub fn page() -> String {
    let mut page = BEGINNING.to_owned();
    for row in TABLE {
        let kind = match row.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        let labels: Vec<_> = row.labels.iter().map(|label| format!("`{label}`")).collect();
        let _infallible = writeln!(page, "| `{}` | {kind} | {} | {} |", row.exposed(), labels.join(", "), row.help);
    }
    page
}
