//! A line's words: `name=value` fields and flags, written and read.

use std::{fmt::Display, net::IpAddr, str::FromStr};

use crate::tcp::{
    endpoint::Endpoint,
    state::{ALL, TcpState},
};

/// Why a line is no event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotationError {
    /// Time, key, address, two ends and a word are the least.
    #[error("too short for an event")]
    TooShort,
    /// No event is called so.
    #[error("there is no event {0:?}")]
    Unknown(String),
    /// The event needs this field.
    #[error("no field {0}")]
    Missing(&'static str),
    /// A value that makes no sense.
    #[error("{name} cannot be {value:?}")]
    Bad {
        /// Whose value.
        name: &'static str,
        /// The value.
        value: String,
    },
    /// A field that the event does not have.
    #[error("the event has no field {0:?}")]
    Left(String),
}

impl NotationError {
    pub(super) fn bad(name: &'static str, value: &str) -> Self {
        Self::Bad { name, value: value.to_owned() }
    }
}

/// A line in the making.
pub(super) struct Words(pub(super) String);

impl Words {
    pub(super) fn word(&mut self, word: &str) -> &mut Self {
        self.0.push(' ');
        self.0.push_str(word);
        self
    }

    pub(super) fn field(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.word(&format!("{name}={value}"))
    }

    pub(super) fn option(&mut self, name: &str, value: Option<impl Display>) -> &mut Self {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    /// A number, unless it is 0.
    pub(super) fn count<N: Display + Default + PartialEq>(&mut self, name: &str, number: N) -> &mut Self {
        self.option(name, (number != N::default()).then_some(number))
    }

    pub(super) fn flag(&mut self, name: &str, set: bool) -> &mut Self {
        if set { self.word(name) } else { self }
    }
}

/// What is left to read of a line.
pub(super) struct Fields<'a>(Vec<&'a str>);

impl<'a> Fields<'a> {
    pub(super) fn new(words: impl Iterator<Item = &'a str>) -> Self {
        Self(words.collect())
    }

    /// An optional field.
    pub(super) fn take<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, NotationError> {
        let value_of = |word: &'a str| word.strip_prefix(name)?.strip_prefix('=');
        let Some(at) = self.0.iter().position(|word| value_of(word).is_some()) else { return Ok(None) };
        let value = value_of(self.0.remove(at)).unwrap_or_default();
        parse(value).map(Some).ok_or_else(|| NotationError::bad(name, value))
    }

    /// A field that must be there.
    pub(super) fn need<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, NotationError> {
        self.take(name, parse)?.ok_or(NotationError::Missing(name))
    }

    /// A number, 0 if it is not there.
    pub(super) fn count<N: FromStr + Default>(&mut self, name: &'static str) -> Result<N, NotationError> {
        Ok(self.take(name, number)?.unwrap_or_default())
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        let at = self.0.iter().position(|word| *word == name);
        at.map(|at| self.0.remove(at)).is_some()
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), NotationError> {
        self.0.first().map_or(Ok(()), |left| Err(NotationError::Left((*left).to_owned())))
    }
}

pub(super) fn number<N: FromStr>(text: &str) -> Option<N> {
    text.parse().ok()
}

pub(super) fn state(name: &str) -> Option<TcpState> {
    ALL.into_iter().find(|state| state.name() == name)
}

/// As [`Endpoint`] prints it: a port of 0 is `*`.
pub(super) fn endpoint(text: &str) -> Option<Endpoint> {
    let (address, port) = text.rsplit_once(':')?;
    let address: IpAddr = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    let port = if port == "*" { 0 } else { port.parse().ok()? };
    Some(Endpoint { address, port })
}

/// Accept queue depth and limit: `0/128`.
pub(super) mod pair {
    use std::fmt;

    pub(in super::super) struct Text(pub(in super::super) (u32, u32));

    impl fmt::Display for Text {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}/{}", self.0.0, self.0.1)
        }
    }

    pub(in super::super) fn parse(text: &str) -> Option<(u32, u32)> {
        let (depth, limit) = text.split_once('/')?;
        Some((depth.parse().ok()?, limit.parse().ok()?))
    }
}

/// A thread: `name/pid/tid`. Bytes of the name that would not survive as a word are `\xNN`.
pub(super) mod task {
    use std::fmt;

    use crate::tcp::event::{Comm, Task};

    pub(in super::super) struct Text(pub(in super::super) Task);

    impl fmt::Display for Text {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for byte in self.0.comm.bytes() {
                match byte {
                    b'\\' | 0..=b' ' | 0x7f.. => write!(f, "\\x{byte:02x}")?,
                    _ => write!(f, "{}", char::from(*byte))?,
                }
            }
            write!(f, "/{}/{}", self.0.pid, self.0.tid)
        }
    }

    pub(in super::super) fn parse(text: &str) -> Option<Task> {
        let mut parts = text.rsplitn(3, '/');
        let (tid, pid, name) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Task { pid: pid.parse().ok()?, tid: tid.parse().ok()?, comm: comm(name)? })
    }

    fn comm(name: &str) -> Option<Comm> {
        let (mut comm, mut length, mut rest) = ([0; 16], 0, name.as_bytes());
        while let Some((first, behind)) = rest.split_first() {
            let (byte, behind) = match (first, behind) {
                (b'\\', [b'x', high, low, behind @ ..]) => {
                    let digits = [*high, *low];
                    (u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?, behind)
                }
                _ => (*first, behind),
            };
            // The last byte is the terminating zero.
            *comm[..15].get_mut(length)? = byte;
            (length, rest) = (length + 1, behind);
        }
        Some(Comm(comm))
    }
}
