//! An accept queue in JSON, in its own lines and in that of its listener's end.

use schemars::JsonSchema;
use serde::Serialize;

use crate::tcp::queue::{Age, NamespaceDrops, QueueFigures};

/// An accept queue at an instant, and its counts until then.
#[derive(Serialize, JsonSchema)]
pub struct Queue {
    /// Who waits in it, the dead included.
    depth: u32,
    /// Its limit: it takes one more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    /// Whether the limit is the namespace's `net.core.somaxconn`: listen() asked for more, or just for that. Absent until the
    /// kernel's table was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    limited_by_somaxconn: Option<bool>,
    /// The greatest depth since the line before.
    peak: u32,
    /// How long the oldest has waited, in nanoseconds; absent if nobody waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_ns: Option<u64>,
    /// The oldest may have waited longer: it was there before the trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at_least: Option<bool>,
    /// Connections accepted.
    accepted: u64,
    /// Connections that nobody had accepted when their client closed: it may still wait for an answer.
    left_by_fin: u64,
    /// Connections that nobody had accepted when their client reset them.
    left_by_rst: u64,
    /// The longest that one of these had waited when its client left, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_left_ns: Option<u64>,
    /// Accepted when the client had closed: CLOSE_WAIT.
    half_closed_on_arrival: u64,
    /// Accepted when the client had reset it: CLOSE.
    dead_on_arrival: u64,
    /// Reset because the listener was closed.
    unqueued: u64,
    /// Last ACKs of handshakes that found the queue full, where a probe tells.
    overflows: u64,
    /// Packets that the kernel dropped at the listener (`sk_drops`), SYNs and last ACKs, as of the last look at its table.
    #[serde(skip_serializing_if = "Option::is_none")]
    drops: Option<u32>,
    /// The same for the whole network namespace, since the trace began.
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<NetnsDrops>,
}

/// Counters of a network namespace (`/proc/net/netstat`), since the trace began; absent while nothing was dropped.
#[derive(Serialize, JsonSchema)]
pub(super) struct NetnsDrops {
    /// `ListenOverflows`: SYNs and last ACKs that found an accept queue full.
    listen_overflows: u64,
    /// `ListenDrops`: SYNs and last ACKs dropped for any reason.
    listen_drops: u64,
    /// `TCPReqQFullDrop`: SYNs that found too many requests waiting.
    requests_full: u64,
    /// `TCPReqQFullDoCookies`: SYNs that were answered with a cookie for that reason.
    cookies: u64,
    /// `SyncookiesSent`: SYN-ACKs with a cookie.
    cookies_sent: u64,
    /// `SyncookiesRecv`: ACKs that brought a valid one back.
    cookies_received: u64,
    /// `TCPTimeWaitOverflow`: connections that ended without TIME_WAIT, because there were `tcp_max_tw_buckets`.
    time_wait_overflows: u64,
}

impl From<&QueueFigures> for Queue {
    fn from(figures: &QueueFigures) -> Self {
        let QueueFigures { depth, peak, oldest, totals } = *figures;
        let left = totals.left_by_fin + totals.left_by_rst > 0;
        let NamespaceDrops {
            overflows,
            drops,
            requests_full,
            cookies,
            cookies_sent,
            cookies_received,
            time_wait_overflows,
        } = totals.namespace;
        let netns = NetnsDrops {
            listen_overflows: overflows,
            listen_drops: drops,
            requests_full,
            cookies,
            cookies_sent,
            cookies_received,
            time_wait_overflows,
        };
        Self {
            depth,
            limit: totals.limit,
            limited_by_somaxconn: totals.is_somaxconn,
            peak,
            oldest_ns: oldest.map(Age::ns),
            oldest_at_least: matches!(oldest, Some(Age::AtLeast(_))).then_some(true),
            accepted: totals.accepted,
            left_by_fin: totals.left_by_fin,
            left_by_rst: totals.left_by_rst,
            longest_left_ns: (left && totals.longest_left_ns > 0).then_some(totals.longest_left_ns),
            half_closed_on_arrival: totals.half_closed_on_arrival,
            dead_on_arrival: totals.dead_on_arrival,
            unqueued: totals.unqueued,
            overflows: totals.overflows,
            drops: totals.drops,
            netns: (totals.namespace != NamespaceDrops::default()).then_some(netns),
        }
    }
}
