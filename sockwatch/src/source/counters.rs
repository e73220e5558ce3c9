//! What a network namespace's counters say of what came to nothing, and the limit of its accept queues. Read
//! within the namespace.

use std::{fs, io};

use crate::{
    source::table::{Namespace, Place},
    tcp::queue::{COUNTERS, NamespaceDrops},
};

/// Counters of a namespace, since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// What came to nothing.
    pub drops: NamespaceDrops,
    /// `net.core.somaxconn`; absent if it may not be read.
    pub somaxconn: Option<u32>,
}

/// `net.ipv4.tcp_syncookies`: a cookie for every SYN.
const ALWAYS: u32 = 2;

/// Reads those of the calling thread's namespace. Not `/proc/net`, which is the main thread's.
///
/// # Errors
/// Without `/proc`.
pub fn read() -> io::Result<Counters> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?.trim().parse().ok();
    let mut drops = drops(&text);
    if setting("ipv4/tcp_syncookies") == Some(ALWAYS) {
        // Then every SYN counts as one that found too many requests waiting (`tcp_syn_flood_action`).
        drops.cookies = 0;
    }
    Ok(Counters { drops, somaxconn: setting("core/somaxconn") })
}

/// From a line of names and a line of their values (`netstat_seq_show`). A counter that the kernel does not have is 0.
fn drops(text: &str) -> NamespaceDrops {
    let mut drops = NamespaceDrops::default();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return drops };
    for (name, value) in names.split(' ').zip(values.split(' ')) {
        if let Some((_, counter)) = COUNTERS.iter().find(|(its, _)| *its == name) {
            *counter(&mut drops) = value.parse().unwrap_or(0);
        }
    }
    drops
}

/// Connections that a namespace has taken into its queues since it was made (`PassiveOpens`); `None` if it cannot be entered.
pub fn passive_opens(place: &Place) -> Option<u64> {
    let read = || fs::read_to_string("/proc/thread-self/net/snmp").map_or(0, |text| passive(&text));
    Namespace::open(&place.path).ok()?.enter(read).ok()
}

fn passive(text: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "PassiveOpens");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_stand_in_two_lines() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPReqQFullDoCookies TCPReqQFullDrop TCPTimeWaitOverflow\n\
                    TcpExt: 1 2 3 4 5 6\nIpExt: InNoRoutes ListenDrops\nIpExt: 7 8\n";
        let expected = NamespaceDrops {
            overflows: 2,
            drops: 3,
            cookies: 4,
            requests_full: 5,
            cookies_sent: 1,
            cookies_received: 0,
            time_wait_overflows: 6,
        };
        assert_eq!(drops(text), expected);
        for torn in ["", "TcpExt: ListenDrops\n", "TcpExt: ListenDrops\nTcpExt: x\n"] {
            assert_eq!(drops(torn), NamespaceDrops::default(), "{torn}");
        }
    }

    #[test]
    fn passive_opens_stand_among_the_counters_of_tcp() {
        let text = "Ip: PassiveOpens\nIp: 9\nTcp: ActiveOpens PassiveOpens MaxConn\nTcp: 1 2 -1\n";
        assert_eq!((passive(text), passive("Tcp: PassiveOpens\n"), passive("")), (2, 0, 0));
    }

    #[test]
    fn this_machine_has_them() {
        let counters = read().unwrap();
        assert!(counters.drops.drops >= counters.drops.overflows, "{counters:?}");
        assert!(counters.somaxconn.is_some(), "{counters:?}");
    }
}
