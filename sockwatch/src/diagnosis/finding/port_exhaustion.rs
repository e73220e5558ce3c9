//! Connections to one destination take all local ports, or will soon.

use super::{Finding, Name, Place, Scene};
use crate::{
    diagnosis::{
        ports::{PortUse, opener},
        words::{Grouped, Rate, count, time},
    },
    tcp::endpoint::Endpoint,
};

/// A burst that takes less than a quarter proves nothing: it may end at once.
const SHARE: u64 = 4;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    scene.ports.iter().filter_map(finding).collect()
}

fn finding(ports: &PortUse) -> Option<Finding> {
    let PortUse { route, settings, open, time_wait, failed, .. } = *ports;
    let (taken, capacity) = (ports.taken(), settings.capacity());
    let rate = Rate(ports.tenths_per_second);
    let is_over = failed > 0 && taken.saturating_mul(20) >= capacity.saturating_mul(19);
    let said = if is_over {
        let times = count(failed, "time");
        format!(
            "connect() failed {times} before a SYN was sent, with {} of {} ports taken",
            Grouped(taken),
            Grouped(capacity)
        )
    } else {
        let left_ns = ports.exhausted_in_ns.filter(|_| taken.saturating_mul(SHARE) >= capacity)?;
        format!(
            "{} of {} ports are taken, and at {rate} more none is left in {}: connect() then fails (EADDRNOTAVAIL)",
            Grouped(taken),
            Grouped(capacity),
            time(left_ns)
        )
    };
    let holds_ns = settings.holds_ns(&route);
    let needed = ports.tenths_per_second.saturating_mul(holds_ns / 1_000_000_000) / 10;
    // All that it takes to hold those that come and go is there: only those that stay can fill it.
    let is_leak = ports.leaked_tenths_per_second > 0 && needed.saturating_add(open) < capacity;
    let pace = if is_leak {
        format!("{} more are open: they are opened faster than they are closed", Rate(ports.leaked_tenths_per_second))
    } else {
        format!(
            "{rate} for the {} that each is kept: {} ports at once, and {} there are",
            time(holds_ns),
            Grouped(needed.saturating_add(open)),
            Grouped(capacity)
        )
    };
    let mut evidence = vec![
        format!("{} open, {} in TIME_WAIT", count(open, "connection"), Grouped(time_wait)),
        pace,
        format!(
            "net.ipv4.ip_local_port_range {} {}, {} of them reserved; tcp_tw_reuse {}, tcp_timestamps {}",
            settings.first,
            settings.last,
            settings.reserved,
            settings.reuse,
            u8::from(settings.timestamps)
        ),
    ];
    if let Some(who) = opener(ports) {
        evidence.push(format!("opened by {who}{}", others(ports.openers.len() - 1)));
    }
    let mut rules_out = vec!["net.ipv4.tcp_fin_timeout: TIME_WAIT is 60 s, a constant of the kernel".to_owned()];
    if time_wait > open {
        rules_out
            .push("too many connections at once: most of these ports are kept by connections that are over".into());
    }
    let reuse = match (settings.reuse, settings.timestamps) {
        _ if is_leak => None,
        (1, true) => None,
        (_, true) => {
            Some("net.ipv4.tcp_tw_reuse=1 takes ports in TIME_WAIT for new connections after a second".to_owned())
        }
        (_, false) => Some("net.ipv4.tcp_timestamps=1, without which tcp_tw_reuse does nothing".to_owned()),
    };
    let fix = [
        is_leak.then(|| "close the connections that are done with: a pool needs an upper bound".to_owned()),
        Some(
            "keep connections open and use them again: a pool, keep-alive; or let the other end close first".to_owned(),
        ),
        reuse,
        Some("a wider net.ipv4.ip_local_port_range, or more addresses, at either end".to_owned()),
    ];
    let local = Endpoint { address: route.source, port: 0 };
    Some(Finding {
        name: Name::PortExhaustion,
        place: Place { netns: route.netns, cookie: None, local },
        sentence: format!("{} to {}: {said}", route.source, route.remote),
        evidence,
        rules_out,
        fix: fix.into_iter().flatten().collect(),
        hurt: if is_over { failed } else { 1 },
    })
}

fn others(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" and {count} others") }
}
