//! How much one client may ask for: requests by address and time, and places. Pure: the time is an argument.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Requests a second that one address may send.
const PER_SECOND: u64 = 10;

/// And at once, after a pause.
const AT_ONCE: u64 = 20;

/// Clients at once.
const MOST_CLIENTS: usize = 64;

/// And of one network, but for this machine's own.
const MOST_OF_ONE: usize = 16;

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

/// Who is being answered, by network.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<IpAddr, usize>>);

/// A client's place; dropping it makes room for another.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    network: IpAddr,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a client, if there is one.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let network = network(client);
        let most = if network.is_loopback() { MOST_CLIENTS } else { MOST_OF_ONE };
        let mut taken = self.taken();
        let its = taken.get(&network).copied().unwrap_or(0);
        if its >= most || taken.values().sum::<usize>() >= MOST_CLIENTS {
            return None;
        }
        taken.insert(network, its + 1);
        Some(Place { places: Arc::clone(self), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(its) = taken.get_mut(&self.network) {
            *its -= 1;
            if *its == 0 {
                taken.remove(&self.network);
            }
        }
    }
}

/// Who has one IPv6 address has 2⁶⁴ of them, and everybody here has all of 127.0.0.0/8.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) if address.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
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
        assert_eq!(admitted(&mut rates, "127.0.0.1", 0, 20), 20);
        assert_eq!(admitted(&mut rates, "127.9.9.9", 0, 1), 0);
    }

    /// Places that clients of a network get, one more than so many of others.
    #[track_caller]
    fn check_places(network: &str, others: usize, expected: usize) {
        let places = Arc::new(Places::default());
        let other = |number: usize| places.take(IpAddr::V4((0x0a00_0000 + number as u32).into()));
        let others: Vec<_> = (0..others).map(|number| other(number).unwrap()).collect();
        let mine: Vec<_> = std::iter::from_fn(|| places.take(network.parse().unwrap())).collect();
        assert_eq!(mine.len(), expected, "{network}");
        drop((others, mine));
        assert!(places.taken().is_empty());
    }

    #[test]
    fn one_network_leaves_places_to_others() {
        check_places("192.0.2.1", 0, MOST_OF_ONE);
        check_places("192.0.2.1", 60, 4);
        check_places("2001:db8::1", 0, MOST_OF_ONE);
        check_places("127.0.0.1", 0, MOST_CLIENTS);
        check_places("127.0.0.1", 60, 4);
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
