//! One end of a connection.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An address and a port. The family is the socket's: a v4-mapped end of an IPv6 socket stays `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address; unspecified for a listener's remote end.
    pub address: IpAddr,
    /// The port, 0 when unknown or none.
    pub port: u16,
}

/// The longest text of an IPv4 endpoint: `255.255.255.255:65535`.
pub const IPV4_WIDTH: usize = 21;

impl Endpoint {
    /// From the kernel's bytes: the first 4 for IPv4, all 16 for IPv6.
    pub const fn v4(bytes: [u8; 4], port: u16) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])), port }
    }

    /// From the kernel's 16 bytes.
    pub const fn v6(bytes: [u8; 16], port: u16) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::from_octets(bytes)), port }
    }

    /// The same port at all addresses of the family.
    #[must_use]
    pub const fn at_any_address(&self) -> Self {
        match self.address {
            IpAddr::V4(_) => Self::v4([0; 4], self.port),
            IpAddr::V6(_) => Self::v6([0; 16], self.port),
        }
    }

    /// Whether neither address nor port is set.
    pub const fn is_unspecified(&self) -> bool {
        self.port == 0 && self.address.is_unspecified()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port: &dyn fmt::Display = if self.port == 0 { &"*" } else { &self.port };
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:{port}"),
            IpAddr::V6(address) => write!(f, "[{address}]:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_print_as_ss_prints_them() {
        assert_eq!(Endpoint::v4([127, 0, 0, 1], 80).to_string(), "127.0.0.1:80");
        assert_eq!(Endpoint::v4([0; 4], 0).to_string(), "0.0.0.0:*");
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 7]);
        assert_eq!(Endpoint::v6(mapped, 443).to_string(), "[::ffff:10.0.0.7]:443");
        assert_eq!(Endpoint::v4([255; 4], 65535).to_string().len(), IPV4_WIDTH);
    }
}
