//! What a network namespace counts of what came to nothing.

/// What a network namespace's counters say of handshakes, and of TIME_WAITs, that came to nothing (`/proc/net/netstat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceDrops {
    /// `ListenOverflows`: SYNs and last ACKs that found an accept queue full.
    pub overflows: u64,
    /// `ListenDrops`: SYNs and last ACKs dropped for any reason.
    pub drops: u64,
    /// `TCPReqQFullDrop`: SYNs that found too many requests waiting.
    pub requests_full: u64,
    /// `TCPReqQFullDoCookies`: SYNs that were answered with a cookie for that reason; 0 where `tcp_syncookies` is 2, and all are.
    pub cookies: u64,
    /// `SyncookiesSent`: SYN-ACKs with a cookie, for whatever reason.
    pub cookies_sent: u64,
    /// `SyncookiesRecv`: ACKs that brought a valid one back.
    pub cookies_received: u64,
    /// `TCPTimeWaitOverflow`: connections of which no minisock was left, because there were `tcp_max_tw_buckets`.
    pub time_wait_overflows: u64,
}

/// The counters, as the kernel calls them.
pub const COUNTERS: [(&str, Counter); 7] = [
    ("ListenOverflows", |drops| &mut drops.overflows),
    ("ListenDrops", |drops| &mut drops.drops),
    ("TCPReqQFullDrop", |drops| &mut drops.requests_full),
    ("TCPReqQFullDoCookies", |drops| &mut drops.cookies),
    ("SyncookiesSent", |drops| &mut drops.cookies_sent),
    ("SyncookiesRecv", |drops| &mut drops.cookies_received),
    ("TCPTimeWaitOverflow", |drops| &mut drops.time_wait_overflows),
];

/// One of the counters.
pub(super) type Counter = fn(&mut NamespaceDrops) -> &mut u64;

impl NamespaceDrops {
    /// What has been added since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            overflows: self.overflows.saturating_sub(before.overflows),
            drops: self.drops.saturating_sub(before.drops),
            requests_full: self.requests_full.saturating_sub(before.requests_full),
            cookies: self.cookies.saturating_sub(before.cookies),
            cookies_sent: self.cookies_sent.saturating_sub(before.cookies_sent),
            cookies_received: self.cookies_received.saturating_sub(before.cookies_received),
            time_wait_overflows: self.time_wait_overflows.saturating_sub(before.time_wait_overflows),
        }
    }
}
