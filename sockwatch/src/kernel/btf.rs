//! Reads the running kernel's BTF: where a field lies, what a function takes, what an enumerator is.
//!
//! aya parses BTF too, but keeps members to itself. Only lookups that the probes need; it must never guess.

use std::{fs, io, path::Path};

use memchr::memmem;

/// Where the kernel shows its own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why BTF cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read {VMLINUX}")]
    Read(#[from] io::Error),
    /// The bytes are not BTF.
    #[error("{VMLINUX} is not valid BTF: {0}")]
    Malformed(&'static str),
}

const MAGIC: u16 = 0xeb9f;
/// `struct btf_header` up to `str_len`.
const HEADER: usize = 24;

/// BTF kinds (`include/uapi/linux/btf.h`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Structures nested deeper than this do not exist; malformed BTF could otherwise loop.
const MAX_DEPTH: usize = 16;

/// Parsed BTF: the bytes, and where each type begins.
pub struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Offset of each type's record; type id 0 is void.
    types: Vec<usize>,
}

/// One type's record.
#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    length: usize,
    /// `kind_flag`: member offsets also hold bit-field sizes.
    flag: bool,
    /// The size, or the type that this one refers to.
    refers_to: u32,
}

impl Btf {
    /// Reads the running kernel's BTF.
    ///
    /// # Errors
    /// [`BtfError::Read`] where the kernel has none, [`BtfError::Malformed`] where it makes no sense.
    pub fn of_running_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(Path::new(VMLINUX))?)
    }

    /// Takes BTF apart.
    ///
    /// # Errors
    /// [`BtfError::Malformed`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        const SHORT: BtfError = BtfError::Malformed("it ends too early");
        let word = |at| word(&bytes, at).ok_or(SHORT);
        if bytes.len() < HEADER || u16::from_ne_bytes([bytes[0], bytes[1]]) != MAGIC {
            return Err(BtfError::Malformed("no magic number"));
        }
        let header = word(4)? as usize;
        let (first, length) = (header + word(8)? as usize, word(12)? as usize);
        let strings = header + word(16)? as usize;
        if first + length > bytes.len() || strings > bytes.len() {
            return Err(SHORT);
        }
        let mut btf = Self { bytes, strings, types: vec![0] };
        let mut at = first;
        while at < first + length {
            let record = btf.record(at).ok_or(SHORT)?;
            at += 12 + trailing(record.kind, record.length).ok_or(BtfError::Malformed("an unknown kind"))?;
            btf.types.push(record.at);
        }
        Ok(btf)
    }

    /// The byte offset of `path` (members joined by dots) in a structure. Members of anonymous structures and unions
    /// count as their parent's. `None` if there is none, or if it is a bit-field.
    pub fn member_offset(&self, structure: &str, path: &str) -> Option<u32> {
        let mut record = self.named(kind::STRUCT, structure)?;
        let mut offset = 0;
        for name in path.split('.') {
            let (at, member_type) = self.member(record, name.as_bytes(), 0)?;
            offset += at;
            record = self.resolve(member_type)?;
        }
        Some(offset)
    }

    /// How many parameters a function has.
    pub fn function_parameters(&self, function: &str) -> Option<usize> {
        let prototype = self.named(kind::FUNC, function)?.refers_to;
        Some(self.resolve(prototype)?.length)
    }

    /// How many arguments a tracepoint passes to BTF programs.
    pub fn tracepoint_parameters(&self, tracepoint: &str) -> Option<usize> {
        let pointer = self.named(kind::TYPEDEF, &format!("btf_trace_{tracepoint}"))?.refers_to;
        let prototype = self.resolve(self.resolve(pointer)?.refers_to)?;
        // The first parameter is the tracepoint's private data.
        (prototype.kind == kind::FUNC_PROTO).then(|| prototype.length.saturating_sub(1))
    }

    /// An enumerator's value.
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        let record = self.named(kind::ENUM, enumeration)?;
        (0..record.length).find_map(|index| {
            let at = record.at + 12 + index * 8;
            let found = self.string(word(&self.bytes, at)?)? == name.as_bytes();
            if found { word(&self.bytes, at + 4) } else { None }
        })
    }

    /// All enumerators and their values; none if there is no such enumeration.
    pub fn enumerators(&self, enumeration: &str) -> Vec<(String, u32)> {
        let Some(record) = self.named(kind::ENUM, enumeration) else { return Vec::new() };
        let one = |index| {
            let at = record.at + 12 + index * 8;
            let name = self.string(word(&self.bytes, at)?)?;
            Some((String::from_utf8_lossy(name).into_owned(), word(&self.bytes, at + 4)?))
        };
        (0..record.length).filter_map(one).collect()
    }

    fn named(&self, kind: u32, name: &str) -> Option<Type> {
        // BTF holds each string once, so types of one name share its offset: comparing numbers is 50 times faster than
        // an index of all names, which start-up would wait for.
        let strings = self.bytes.get(self.strings..)?;
        let name = memmem::find(strings, format!("\0{name}\0").as_bytes())? as u32 + 1;
        let records = self.types.iter().skip(1).filter_map(|at| self.record(*at));
        records.into_iter().find(|record| record.name == name && record.kind == kind)
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        if id == 0 { None } else { self.record(*self.types.get(id as usize)?) }
    }

    /// Looks through typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            let record = self.by_id(id)?;
            match record.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => id = record.refers_to,
                _ => return Some(record),
            }
        }
        None
    }

    /// A member's byte offset and type.
    fn member(&self, record: Type, name: &[u8], depth: usize) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH || !matches!(record.kind, kind::STRUCT | kind::UNION) {
            return None;
        }
        for index in 0..record.length {
            let at = record.at + 12 + index * 12;
            let (member_name, member_type, bits) =
                (word(&self.bytes, at)?, word(&self.bytes, at + 4)?, word(&self.bytes, at + 8)?);
            let (bits, field_size) = if record.flag { (bits & 0x00ff_ffff, bits >> 24) } else { (bits, 0) };
            let member_name = self.string(member_name)?;
            if member_name == name {
                return (field_size == 0 && bits % 8 == 0).then_some((bits / 8, member_type));
            }
            if member_name.is_empty()
                && let Some((inner, found)) = self.member(self.resolve(member_type)?, name, depth + 1)
            {
                return Some((bits / 8 + inner, found));
            }
        }
        None
    }

    fn record(&self, at: usize) -> Option<Type> {
        let (name, info, refers_to) = (word(&self.bytes, at)?, word(&self.bytes, at + 4)?, word(&self.bytes, at + 8)?);
        Some(Type {
            at,
            name,
            kind: info >> 24 & 0x1f,
            length: (info & 0xffff) as usize,
            flag: info >> 31 != 0,
            refers_to,
        })
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.bytes.get(self.strings + offset as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

/// Bytes behind a type's common part.
fn trailing(kind: u32, length: usize) -> Option<usize> {
    Some(match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * length,
        kind::ENUM | kind::FUNC_PROTO => 8 * length,
        kind::PTR | 7..=kind::FUNC | 16 | kind::TYPE_TAG => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_running_kernel_is_read() {
        let Ok(btf) = Btf::of_running_kernel() else {
            eprintln!("skipped: this kernel has no BTF");
            return;
        };
        assert_eq!(btf.member_offset("sock_common", "skc_daddr"), Some(0), "in two anonymous levels, always first");
        assert!(btf.member_offset("tcp_sock", "snd_una").is_some());
        assert!(btf.member_offset("net", "ns.inum").is_some());
        assert_eq!(btf.member_offset("sock", "no_such_member"), None);
        assert_eq!(btf.tracepoint_parameters("inet_sock_set_state"), Some(3));
        assert_eq!(btf.tracepoint_parameters("no_such_tracepoint"), None);
        assert!(btf.function_parameters("inet_csk_accept").is_some_and(|count| count == 2 || count == 4));
        assert_eq!(btf.enumerators("no_such_enumeration"), []);
        let states = btf.enumerators("bpf_prog_type");
        assert!(states.iter().any(|(name, value)| name == "BPF_PROG_TYPE_TRACING" && *value > 0), "{states:?}");
        assert!(btf.enumerator("skb_drop_reason", "SKB_DROP_REASON_NO_SOCKET").is_none_or(|value| value > 0));
    }

    #[test]
    fn what_is_not_btf_is_refused() {
        assert!(matches!(Btf::parse(vec![]), Err(BtfError::Malformed(_))));
        assert!(matches!(Btf::parse(vec![0; 100]), Err(BtfError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 24..200)) {
            bytes[..2].copy_from_slice(&MAGIC.to_ne_bytes());
            bytes[4..8].copy_from_slice(&24_u32.to_ne_bytes());
            for at in [8, 12, 16, 20] {
                bytes[at + 1..at + 4].fill(0);
            }
            if let Ok(btf) = Btf::parse(bytes) {
                let _ = btf.member_offset("sock", "a.b");
            }
        }
    }
}
