//! Addresses hidden: the same address always becomes the same other one, and with another key another one. So who talked to the
//! same machine can still be told, and who does not have the key cannot tell which machine that was.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
};

use crate::{
    pipeline::Totals,
    recording::header::Header,
    sink::Sink,
    tcp::{
        endpoint::Endpoint,
        update::{Happening, Subject, Update},
    },
};

/// What keys are derived for (BLAKE3's context strings never change).
const CONTEXT: &str = "sockwatch 2026 export addresses";

/// Hidden addresses are in 2001:db8::/32, which nobody has (RFC 3849); the rest of them is a hash.
const PREFIX: [u8; 4] = [0x20, 0x01, 0x0d, 0xb8];

/// Hides addresses.
#[derive(Clone)]
pub struct Redaction {
    key: [u8; 32],
}

impl Redaction {
    /// With this key.
    pub fn new(key: &[u8]) -> Self {
        Self { key: blake3::derive_key(CONTEXT, key) }
    }

    /// What stands for an address. Loopback and unspecified ones stay: they tell nothing.
    pub fn hide(&self, address: IpAddr) -> IpAddr {
        let canonical = address.to_canonical();
        if canonical.is_loopback() || canonical.is_unspecified() {
            return address;
        }
        let bytes = match canonical {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let hash = blake3::keyed_hash(&self.key, &bytes);
        let mut hidden = [0; 16];
        hidden[..PREFIX.len()].copy_from_slice(&PREFIX);
        hidden[PREFIX.len()..].copy_from_slice(&hash.as_bytes()[..16 - PREFIX.len()]);
        IpAddr::V6(Ipv6Addr::from_octets(hidden))
    }

    /// Hides what a recording's header tells of addresses.
    pub fn header(&self, header: &mut Header) {
        (header.host, header.filter) = (self.host(&header.host), without_addresses(&header.filter));
    }

    /// What stands for a machine's name, which is often made of its address.
    fn host(&self, host: &str) -> String {
        format!("host-{}", &blake3::keyed_hash(&self.key, host.as_bytes()).to_hex()[..12])
    }

    fn end(&self, end: Endpoint) -> Endpoint {
        Endpoint { address: self.hide(end.address), ..end }
    }

    fn update(&self, update: &Update) -> Update {
        let Update { at_ns, subject, ref happening } = *update;
        let subject = Subject { local: self.end(subject.local), remote: self.end(subject.remote), ..subject };
        let mut happening = happening.clone();
        match &mut happening {
            Happening::Ended(connection) => {
                connection.local = self.end(connection.local);
                connection.remote = self.end(connection.remote);
            }
            Happening::SynAckRetransmitted { client } => *client = self.end(*client),
            Happening::Transition { .. }
            | Happening::Listed { .. }
            | Happening::Enqueued { .. }
            | Happening::Accepted { .. }
            | Happening::AcceptFailed { .. }
            | Happening::ResetSent { .. }
            | Happening::ResetReceived
            | Happening::Retransmitted { .. }
            | Happening::Queue(_)
            | Happening::Inherited { .. }
            | Happening::ListenOverflow
            | Happening::MinisockSegment
            | Happening::MinisockEnded { .. }
            | Happening::Disagreed { .. }
            | Happening::QueueDisagreed { .. }
            | Happening::Unexpected { .. } => {}
        }
        Update { at_ns, subject, happening }
    }
}

/// A filter's words without the addresses in it.
fn without_addresses(words: &str) -> String {
    let mut is_address = false;
    let words = words.split(' ').map(|word| {
        let shown = if is_address { "(hidden)".to_owned() } else { without_instance(word) };
        is_address = word == "--addr";
        shown
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A unit's name, or a cgroup's path, without instances that may hold addresses: a service that its socket has started for one
/// connection is called after both ends (`sshd@0-10.0.0.1:22-10.0.0.2:50000.service`).
pub fn without_instance(path: &str) -> String {
    let hidden = |name: &str| {
        let (before, rest) = name.split_once('@')?;
        let (instance, kind) = rest.rsplit_once('.').unwrap_or((rest, ""));
        let dot = if kind.is_empty() { "" } else { "." };
        instance.contains(['.', ':']).then(|| format!("{before}@(hidden){dot}{kind}"))
    };
    let names = path.split('/').map(|name| hidden(name).unwrap_or_else(|| name.to_owned()));
    names.collect::<Vec<_>>().join("/")
}

/// A sink that sees hidden addresses only.
pub struct Redacted<S> {
    /// The sink.
    pub sink: S,
    /// How to hide them; without it, they stay.
    pub redaction: Option<Redaction>,
}

impl<S: Sink> Sink for Redacted<S> {
    fn wants(&mut self, update: &Update) -> bool {
        self.sink.wants(update)
    }

    fn update(&mut self, update: &Update) -> io::Result<()> {
        match &self.redaction {
            Some(redaction) => self.sink.update(&redaction.update(update)),
            None => self.sink.update(update),
        }
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        self.sink.tick(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::{
        close::Ending,
        connection::{Connection, Role},
        event::SocketKey,
        sentence::sentence,
        state::TcpState,
    };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_becomes_the_same_other_one_for_the_same_key_only() {
        let (one, other) = (Redaction::new(b"one"), Redaction::new(b"other"));
        let hidden = one.hide(address("10.1.2.3"));
        assert!(hidden.to_string().starts_with("2001:db8:"), "{hidden}");
        assert_eq!(hidden, Redaction::new(b"one").hide(address("10.1.2.3")));
        assert_ne!(hidden, other.hide(address("10.1.2.3")));
        assert_ne!(hidden, one.hide(address("10.1.2.4")));
        assert_eq!(hidden, one.hide(address("::ffff:10.1.2.3")), "the same machine");
    }

    #[test]
    fn what_tells_nothing_stays() {
        for text in ["127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"] {
            assert_eq!(Redaction::new(b"key").hide(address(text)), address(text));
        }
    }

    #[test]
    fn what_else_holds_addresses_is_hidden_too() {
        let (one, other) = (Redaction::new(b"one"), Redaction::new(b"other"));
        assert_eq!(one.host("ip-10-1-2-3"), Redaction::new(b"one").host("ip-10-1-2-3"));
        assert_ne!(one.host("ip-10-1-2-3"), other.host("ip-10-1-2-3"));
        assert!(one.host("web").starts_with("host-"));
        assert_eq!(without_addresses("--port 80 --addr 10.0.0.0/8,::1 --pid 7"), "--port 80 --addr (hidden) --pid 7");
        assert_eq!(without_addresses(""), "");
        let unit = |text: &str, expected: &str| assert_eq!(without_instance(text), expected);
        unit("sshd@0-10.0.0.1:22-10.0.0.2:50000.service", "sshd@(hidden).service");
        unit("/a.slice/sshd@1-[2001:db8::1]:22-[::1]:5.service/x", "/a.slice/sshd@(hidden).service/x");
        unit("postgresql@15-main.service", "postgresql@15-main.service");
        unit("nginx.service", "nginx.service");
    }

    /// What is said of a connection is made of its ends as the sink sees them.
    #[test]
    fn a_sentence_names_the_hidden_address() {
        let secret = Endpoint::v4([10, 1, 2, 3], 80);
        let key = SocketKey { netns: 1, cookie: 5 };
        let ends = (Endpoint::v4([10, 9, 9, 9], 5000), secret);
        let mut connection = Connection::new(key, Role::Active, ends, TcpState::Close, 0);
        connection.ending = Some(Ending::Refused);
        let subject = Subject::from(&connection);
        let update = Update { at_ns: 1, subject, happening: Happening::Ended(Box::new(connection)) };
        let hidden = Redaction::new(b"key").update(&update);
        let Happening::Ended(connection) = &hidden.happening else { panic!("{hidden:?}") };
        let said = sentence(connection, None).unwrap();
        assert!(said.contains("2001:db8:") && !said.contains("10.1.2.3"), "{said}");
        assert!(
            !format!("{hidden:?}").contains("10.1.2.3") && !format!("{hidden:?}").contains("10.9.9.9"),
            "{hidden:?}"
        );
    }
}
