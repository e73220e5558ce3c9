//! Where the fields lie that the probes read: what the running kernel's BTF says of its structures, and tracefs of its
//! tracepoints' records.
//!
//! Without BTF nothing is known of the kernel's own structures. The fields of a socket are then those of the copy that the
//! programs make of a record, and registers lie where the architecture's ABI has them.

use std::{collections::HashMap, mem::offset_of};

use sockwatch_common::{ABSENT, Offsets, RECORD_BYTES, RecordedSocket};

use super::{btf::Btf, format::Format};

/// Where a socket's fields lie in the copy of a record.
const RECORDED: [(&str, usize); 8] = [
    ("skc_family", offset_of!(RecordedSocket, family)),
    ("skc_state", offset_of!(RecordedSocket, state)),
    ("skc_rcv_saddr", offset_of!(RecordedSocket, local) + RecordedSocket::V4_IN_V6),
    ("skc_daddr", offset_of!(RecordedSocket, remote) + RecordedSocket::V4_IN_V6),
    ("skc_v6_rcv_saddr", offset_of!(RecordedSocket, local)),
    ("skc_v6_daddr", offset_of!(RecordedSocket, remote)),
    ("skc_num", offset_of!(RecordedSocket, local_port)),
    ("skc_dport", offset_of!(RecordedSocket, remote_port_be)),
];

/// Where `struct pt_regs` holds what a function returned: it begins as the ABI's `user_regs_struct` does.
#[cfg(target_arch = "x86_64")]
const REGISTERS: [(&str, usize); 1] = [("regs_return", offset_of!(nix::libc::user_regs_struct, rax))];
#[cfg(target_arch = "aarch64")]
const REGISTERS: [(&str, usize); 1] = [("regs_return", offset_of!(nix::libc::user_regs_struct, regs))];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const REGISTERS: [(&str, usize); 0] = [];

/// What other architectures have: no kernel on this one lacks it.
const ELSEWHERE: &[&str] = if cfg!(target_arch = "x86_64") { &["regs_lr"] } else { &[] };

/// The offsets of all fields, and the names of those that this kernel does not have.
pub struct Layout {
    /// For the programs' `.rodata`.
    pub offsets: Offsets,
    /// Names of the fields in [`Offsets`] that this kernel should have and that are [`ABSENT`].
    pub absent: Vec<&'static str>,
}

impl Layout {
    /// Looks every field up.
    pub fn resolve(btf: Option<&Btf>) -> Self {
        let mut layout = Self { offsets: Offsets::NONE, absent: Vec::new() };
        let mut formats = HashMap::new();
        for (index, (field, structure, path)) in Offsets::SOURCES.iter().enumerate() {
            let found = match structure.split_once(':') {
                Some((category, name)) => {
                    let format = formats.entry(*structure).or_insert_with(|| Format::of(category, name));
                    format.as_ref().and_then(|format| in_record(format, path))
                }
                None => match btf {
                    Some(btf) => path.split('|').find_map(|path| in_structure(btf, structure, path)),
                    None => without_btf(field),
                },
            };
            match found.filter(|offset| *offset != ABSENT) {
                Some(offset) => layout.offsets.set(index, offset),
                None if ELSEWHERE.contains(field) => {}
                None => layout.absent.push(field),
            }
        }
        layout
    }

    /// Whether a field is known.
    pub fn has(&self, field: &str) -> bool {
        !self.absent.contains(&field)
    }
}

/// The tracepoint whose record a field belongs to, and its name there; `None` for a field of a structure.
pub fn tracepoint_of(field: &str) -> Option<(&'static str, &'static str)> {
    let (_, structure, path) = Offsets::SOURCES.iter().find(|(name, _, _)| *name == field)?;
    structure.contains(':').then(|| (*structure, path.split(' ').next().unwrap_or(path)))
}

/// One alternative of a path: members joined by dots, then perhaps `+N` bytes.
fn in_structure(btf: &Btf, structure: &str, path: &str) -> Option<u32> {
    let (path, more) = path.split_once('+').unwrap_or((path, "0"));
    Some(btf.member_offset(structure, path)? + more.parse::<u32>().ok()?)
}

fn without_btf(field: &str) -> Option<u32> {
    let known = RECORDED.iter().chain(&REGISTERS).find(|(name, _)| *name == field);
    known.map(|(_, offset)| *offset as u32)
}

/// A field and its size. The programs read records in units of two bytes, and only their beginning.
fn in_record(format: &Format, path: &str) -> Option<u32> {
    let (name, size) = path.split_once(' ')?;
    let size = size.parse().ok()?;
    let offset = format.offset(name, size)?;
    let ends_within = offset.checked_add(size)? <= RECORD_BYTES as u32;
    (offset % 2 == 0 && ends_within).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_place_on_this_kernel() {
        let Ok(btf) = Btf::of_running_kernel() else {
            eprintln!("skipped: this kernel has no BTF");
            return;
        };
        let layout = Layout::resolve(Some(&btf));
        for field in ["skc_cookie", "inet_sport", "sk_max_ack_backlog", "rskq_accept_tail", "snt_synack"] {
            assert!(layout.has(field), "{field}");
        }
    }

    #[test]
    fn without_btf_a_socket_is_its_record() {
        let layout = Layout::resolve(None);
        for (field, _) in RECORDED {
            assert!(layout.has(field), "{field}");
        }
        assert!(layout.has("regs_return"));
        assert!(!layout.has("skc_cookie") && !layout.has("skc_net"), "or rows that read them would be taken");
    }

    #[test]
    fn a_record_is_read_within_its_bounds() {
        let field = |offset| Format::parse(&format!("field:int x;\toffset:{offset};\tsize:4;\tsigned:1;"));
        assert_eq!(in_record(&field(22), "x 4"), Some(22));
        assert_eq!(in_record(&field(23), "x 4"), None);
        assert_eq!(in_record(&field(RECORD_BYTES - 4), "x 4"), Some(RECORD_BYTES as u32 - 4));
        assert_eq!(in_record(&field(RECORD_BYTES - 2), "x 4"), None);
        assert_eq!(in_record(&field(u32::MAX as usize - 1), "x 4"), None);
    }

    #[test]
    fn a_field_of_a_record_says_where_it_belongs() {
        assert_eq!(tracepoint_of("accept_enter_fd"), Some(("syscalls:sys_enter_accept4", "fd")));
        assert_eq!(tracepoint_of("skc_cookie"), None);
    }
}
