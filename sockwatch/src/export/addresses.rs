//! Addresses as they are told, or hashed: the same address always to the same word, and with another key to another one.

use std::net::IpAddr;

/// What keys are derived for (BLAKE3's context strings never change).
const CONTEXT: &str = "sockwatch 2026 export addresses";

/// Digits of a hashed address: 2^48 of them, so that a million addresses hardly ever meet.
const DIGITS: usize = 12;

/// How addresses are told.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    key: Option<[u8; 32]>,
}

impl Addresses {
    /// Hashes them with this key; who does not have it cannot tell which address was which.
    pub fn hashed(key: &str) -> Self {
        Self { key: Some(blake3::derive_key(CONTEXT, key.as_bytes())) }
    }

    /// An address in a table.
    pub fn tell(&self, address: IpAddr) -> String {
        let Some(key) = &self.key else { return address.to_string() };
        let bytes = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let hash = blake3::keyed_hash(key, &bytes).to_hex();
        format!("x{}", &hash.as_str()[..DIGITS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_same_for_the_same_key_only() {
        let address: IpAddr = "10.1.2.3".parse().unwrap();
        let (one, other) = (Addresses::hashed("one"), Addresses::hashed("other"));
        assert_eq!(Addresses::default().tell(address), "10.1.2.3");
        assert_eq!(one.tell(address), Addresses::hashed("one").tell(address));
        assert_ne!(one.tell(address), other.tell(address));
        assert_ne!(one.tell(address), one.tell("10.1.2.4".parse().unwrap()));
        assert_eq!(one.tell(address), one.tell("::ffff:10.1.2.3".parse().unwrap()), "the same machine");
        assert_eq!(one.tell(address).len(), DIGITS + 1);
    }
}
