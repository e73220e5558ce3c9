//! What a network namespace's counters say of handshakes that came to nothing, and the limit of its accept queues. Read
//! within the namespace.

use std::{fs, io};

use crate::tcp::queue::{COUNTERS, NamespaceDrops};

/// Counters of a namespace, since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// What came to nothing.
    pub drops: NamespaceDrops,
    /// `net.core.somaxconn`; absent if it may not be read.
    pub somaxconn: Option<u32>,
}

/// Reads those of the calling thread's namespace. Not `/proc/net`, which is the main thread's.
///
/// # Errors
/// Without `/proc`.
pub fn read() -> io::Result<Counters> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|text| text.trim().parse().ok());
    Ok(Counters { drops: drops(&text), somaxconn })
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

/// Connections that the main thread's namespace has accepted into its queues since it was made (`PassiveOpens`).
///
/// # Errors
/// Without `/proc`.
pub fn passive_opens() -> io::Result<u64> {
    Ok(passive(&fs::read_to_string("/proc/net/snmp")?))
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
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPReqQFullDoCookies TCPReqQFullDrop\n\
                    TcpExt: 1 2 3 4 5\nIpExt: InNoRoutes ListenDrops\nIpExt: 7 8\n";
        let expected = NamespaceDrops {
            overflows: 2,
            drops: 3,
            cookies: 4,
            requests_full: 5,
            cookies_sent: 1,
            cookies_received: 0,
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
