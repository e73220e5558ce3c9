//! What network namespaces allow connect() to take: read in each of them.

use std::{
    collections::{HashMap, HashSet},
    fs,
};

use sockwatch::{diagnosis::ports::Settings, source::table::Namespace};

/// Those of these namespaces, as far as they are still there and may be read.
pub(crate) fn settings(namespaces: &HashSet<u32>) -> HashMap<u32, Settings> {
    let of = |netns: &u32| Some((*netns, Namespace::find(*netns).ok()?.enter(read).ok()??));
    namespaces.iter().filter_map(of).collect()
}

/// The calling thread's namespace's.
fn read() -> Option<Settings> {
    let sysctl = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
    let (first, last) = range(&sysctl("ip_local_port_range")?)?;
    let reserved = sysctl("ip_local_reserved_ports").map_or(0, |text| reserved(&text, first, last));
    let number = |name| sysctl(name)?.trim().parse::<u8>().ok();
    let timestamps = number("tcp_timestamps")? != 0;
    Some(Settings { first, last, reserved, reuse: number("tcp_tw_reuse")?, timestamps })
}

/// The first and the last.
fn range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// How many of `8080,9148-9150` are in the range.
fn reserved(text: &str, first: u16, last: u16) -> u16 {
    let within = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse::<u16>().ok()?.max(first), to.parse::<u16>().ok()?.min(last));
        Some(if from <= to { to - from + 1 } else { 0 })
    };
    text.trim().split(',').filter_map(within).fold(0, u16::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_prints() {
        assert_eq!(range("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(range("\n"), None);
        assert_eq!(reserved("8080,9148-9150\n", 1024, 60999), 4);
        assert_eq!(reserved("8080,9148-9150\n", 9149, 9149), 1);
        assert_eq!(reserved("\n", 1024, 60999), 0);
    }

    #[test]
    fn this_machine_has_them() {
        let settings = read().unwrap();
        assert!(settings.first < settings.last && settings.reuse <= 2, "{settings:?}");
    }
}
