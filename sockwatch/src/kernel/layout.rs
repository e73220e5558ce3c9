//! Where the fields lie that the probes read: what the running kernel's BTF says of its structures, and tracefs of its
//! tracepoints' records.

use std::collections::HashMap;

use sockwatch_common::{ABSENT, Offsets};

use super::{btf::Btf, format::Format};

/// The offsets of all fields, and the names of those that this kernel does not have.
pub struct Layout {
    /// For the programs' `.rodata`.
    pub offsets: Offsets,
    /// Names of the fields in [`Offsets`] that are [`ABSENT`].
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
                None => btf.and_then(|btf| path.split('|').find_map(|path| in_structure(btf, structure, path))),
            };
            match found.filter(|offset| *offset != ABSENT) {
                Some(offset) => layout.offsets.set(index, offset),
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

/// A field and its size.
fn in_record(format: &Format, path: &str) -> Option<u32> {
    let (name, size) = path.split_once(' ')?;
    format.offset(name, size.parse().ok()?)
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
    fn a_field_of_a_record_says_where_it_belongs() {
        assert_eq!(tracepoint_of("accept_enter_fd"), Some(("syscalls:sys_enter_accept4", "fd")));
        assert_eq!(tracepoint_of("skc_cookie"), None);
    }
}
