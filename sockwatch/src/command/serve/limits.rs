//! How much one client may ask for: requests by address and time. Pure: the time is an argument.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

/// Requests a second that one address may send.
const PER_SECOND: u64 = 10;

/// And at once, after a pause.
const AT_ONCE: u64 = 20;

/// Addresses that are remembered.
const MOST: usize = 1024;

/// A request costs so much of what an address has; it gets one back each nanosecond.
const PRICE_NS: u64 = 1_000_000_000 / PER_SECOND;

/// What each address may still ask for.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// When an address will have everything again.
    full_at: HashMap<IpAddr, Duration>,
}

impl Rates {
    /// Whether an address may send a request now; `now` counts from any instant.
    pub(super) fn admit(&mut self, address: IpAddr, now: Duration) -> bool {
        let address = network(address);
        if !self.full_at.contains_key(&address) && self.full_at.len() >= MOST {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MOST {
                return false;
            }
        }
        let full_at = self.full_at.entry(address).or_insert(now);
        let next = (*full_at).max(now) + Duration::from_nanos(PRICE_NS);
        let may = next <= now + Duration::from_nanos(PRICE_NS * AT_ONCE);
        if may {
            *full_at = next;
        }
        may
    }
}

/// Who has one IPv6 address has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(rates: &mut Rates, address: &str, now_ms: u64, requests: usize) -> usize {
        let address = address.parse().unwrap();
        (0..requests).filter(|_| rates.admit(address, Duration::from_millis(now_ms))).count()
    }

    #[test]
    fn some_at_once_and_then_ten_a_second() {
        let mut rates = Rates::default();
        assert_eq!(admitted(&mut rates, "10.0.0.1", 0, 100), 20);
        assert_eq!(admitted(&mut rates, "10.0.0.1", 99, 1), 0);
        assert_eq!(admitted(&mut rates, "10.0.0.1", 100, 5), 1);
        assert_eq!(admitted(&mut rates, "10.0.0.1", 1100, 100), 10);
        assert_eq!(admitted(&mut rates, "10.0.0.2", 1100, 100), 20, "another client has its own");
        assert_eq!(admitted(&mut rates, "10.0.0.1", 60_000, 100), 20, "no more than that, however long it waits");
    }

    #[test]
    fn one_network_is_one_client() {
        let mut rates = Rates::default();
        assert_eq!(admitted(&mut rates, "2001:db8::1", 0, 15), 15);
        assert_eq!(admitted(&mut rates, "2001:db8::2", 0, 15), 5);
        assert_eq!(admitted(&mut rates, "::ffff:10.0.0.1", 0, 20), 20);
        assert_eq!(admitted(&mut rates, "10.0.0.1", 0, 1), 0);
    }

    #[test]
    fn many_clients_take_a_bounded_room() {
        let mut rates = Rates::default();
        for number in 0..2 * MOST as u32 {
            let admitted = rates.admit(IpAddr::V4(number.into()), Duration::ZERO);
            assert_eq!(admitted, number < MOST as u32, "{number}");
        }
        assert!(rates.admit(IpAddr::V4(9_999_999.into()), Duration::from_secs(1)), "the others have gone");
    }
}
