//! Which sockets a command is about: parsed once, then told to the kernel side, or applied here where the source cannot
//! filter (polling).

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use super::endpoint::Endpoint;

/// Ports, one or a range: `8080` or `8000-8100`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub RangeInclusive<u16>);

/// An address or a network: `10.0.0.7`, `10.0.0.0/8`, `2001:db8::/32`. IPv4 is held as `::ffff:a.b.c.d`, so that it also
/// matches the v4-mapped ends of IPv6 sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    network: u128,
    mask: u128,
}

/// A filter word that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not a port or range of ports.
    #[error("not a port (1 to 65535) or a range like 8000-8100")]
    Ports,
    /// A range that ends before it begins.
    #[error("the range ends before it begins: write {1}-{0}")]
    Backwards(u16, u16),
    /// Not an address or network.
    #[error("not an address or network like 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32")]
    Prefix,
    /// A prefix longer than its address.
    #[error("the prefix is longer than the address: at most /{0}")]
    PrefixLength(u8),
    /// Bits set behind the prefix.
    #[error("bits are set behind the prefix: write {0}")]
    HostBits(String),
}

impl FromStr for Ports {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let port = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(FilterError::Ports),
            Ok(port) => Ok(port),
        };
        let Some((first, last)) = text.split_once('-') else {
            let port = port(text)?;
            return Ok(Self(port..=port));
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(FilterError::Backwards(first, last));
        }
        Ok(Self(first..=last))
    }
}

impl FromStr for Prefix {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| FilterError::Prefix)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse().map_err(|_| FilterError::Prefix)?,
            None => width,
        };
        if length > width {
            return Err(FilterError::PrefixLength(width));
        }
        let bits = u32::from(128 - width + length);
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        let prefix = Self { network: mapped(address) & mask, mask };
        if prefix.network != mapped(address) {
            return Err(FilterError::HostBits(prefix.to_string()));
        }
        Ok(prefix)
    }
}

/// An address as 128 bits; IPv4 as `::ffff:a.b.c.d`.
fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Prefix {
    /// The network's bytes in network order, IPv4 mapped.
    pub fn network(&self) -> [u8; 16] {
        self.network.to_be_bytes()
    }

    /// The mask's bytes.
    pub fn mask(&self) -> [u8; 16] {
        self.mask.to_be_bytes()
    }

    /// Whether an address lies in it.
    pub fn holds(&self, address: IpAddr) -> bool {
        mapped(address) & self.mask == self.network
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.network);
        let length = self.mask.count_ones();
        match address.to_ipv4_mapped() {
            Some(address) if length >= 96 => write!(f, "{address}/{}", length - 96),
            _ => write!(f, "{address}/{length}"),
        }
    }
}

/// A cgroup, for the kernel's `bpf_get_current_ancestor_cgroup_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The inode number of its cgroup v2 directory.
    pub id: u64,
    /// Its depth below the root of the hierarchy.
    pub level: u32,
}

/// Everything asked for. Words of one kind are alternatives; different kinds must all match. Empty matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Either end's port.
    pub ports: Vec<Ports>,
    /// The local port.
    pub local_ports: Vec<Ports>,
    /// The remote port.
    pub remote_ports: Vec<Ports>,
    /// Either end's address.
    pub prefixes: Vec<Prefix>,
    /// The owner's process.
    pub pids: Vec<u32>,
    /// The owner's cgroup.
    pub cgroup: Option<Cgroup>,
    /// Network namespaces, by inode number.
    pub netns: Vec<u32>,
}

impl Filter {
    /// Whether a socket's tuple and namespace match. Owners are not looked at.
    pub fn matches_tuple(&self, netns: u32, local: Endpoint, remote: Endpoint) -> bool {
        let port = |set: &[Ports], ports: &[u16]| {
            set.is_empty() || set.iter().any(|Ports(range)| ports.iter().any(|port| range.contains(port)))
        };
        let address = |prefix: &Prefix| prefix.holds(local.address) || prefix.holds(remote.address);
        (self.netns.is_empty() || self.netns.contains(&netns))
            && (self.prefixes.is_empty() || self.prefixes.iter().any(address))
            && port(&self.ports, &[local.port, remote.port])
            && port(&self.local_ports, &[local.port])
            && port(&self.remote_ports, &[remote.port])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_or_a_range() {
        assert_eq!("80".parse(), Ok(Ports(80..=80)));
        assert_eq!("8000-8100".parse(), Ok(Ports(8000..=8100)));
        assert_eq!("9-8".parse::<Ports>(), Err(FilterError::Backwards(9, 8)));
        for bad in ["", "0", "65536", "http", "1-", "-1", "1-2-3"] {
            assert_eq!(bad.parse::<Ports>(), Err(FilterError::Ports), "{bad}");
        }
    }

    #[test]
    fn prefixes_hold_addresses_of_both_families() {
        let prefix: Prefix = "10.0.0.0/8".parse().unwrap();
        assert!(prefix.holds("10.1.2.3".parse().unwrap()) && prefix.holds("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!prefix.holds("11.0.0.0".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Prefix>().unwrap().holds("1.2.3.4".parse().unwrap()));
        assert!(!"0.0.0.0/0".parse::<Prefix>().unwrap().holds("2001:db8::1".parse().unwrap()));
        assert!("::/0".parse::<Prefix>().unwrap().holds("1.2.3.4".parse().unwrap()));
        assert!("2001:db8::/32".parse::<Prefix>().unwrap().holds("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn a_wrong_prefix_says_what_to_write() {
        assert_eq!("10.0.0.0/33".parse::<Prefix>(), Err(FilterError::PrefixLength(32)));
        assert_eq!("10.0.0.7/8".parse::<Prefix>(), Err(FilterError::HostBits("10.0.0.0/8".into())));
        assert_eq!("2001:db8::7/32".parse::<Prefix>(), Err(FilterError::HostBits("2001:db8::/32".into())));
        for bad in ["", "10.0.0/8", "10.0.0.0/x", "host"] {
            assert_eq!(bad.parse::<Prefix>(), Err(FilterError::Prefix), "{bad}");
        }
    }

    #[test]
    fn kinds_must_all_match() {
        let filter =
            Filter { ports: vec![Ports(80..=80)], prefixes: vec!["10.0.0.0/8".parse().unwrap()], ..Filter::default() };
        let (server, client) = (Endpoint::v4([10, 0, 0, 1], 80), Endpoint::v4([192, 168, 0, 1], 5000));
        assert!(filter.matches_tuple(1, server, client) && filter.matches_tuple(1, client, server));
        assert!(!filter.matches_tuple(1, Endpoint::v4([11, 0, 0, 1], 80), client));
        assert!(!filter.matches_tuple(1, Endpoint::v4([10, 0, 0, 1], 81), client));
    }
}
