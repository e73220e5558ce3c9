//! What the running kernel's BTF says of the structures that the probes read.

use sockwatch_common::{ABSENT, Offsets};

use super::btf::Btf;

/// The offsets of all fields, and the names of those that this kernel does not have.
pub struct Layout {
    /// For the programs' `.rodata`.
    pub offsets: Offsets,
    /// Names of the fields in [`Offsets`] that are [`ABSENT`].
    pub absent: Vec<&'static str>,
}

impl Layout {
    /// Looks every field up.
    pub fn resolve(btf: &Btf) -> Self {
        let mut layout = Self { offsets: Offsets::NONE, absent: Vec::new() };
        for (index, (field, structure, path)) in Offsets::SOURCES.iter().enumerate() {
            match path.split('|').find_map(|path| offset(btf, structure, path)) {
                Some(offset) => layout.offsets.set(index, offset),
                None => layout.absent.push(field),
            }
        }
        layout
    }

    /// No BTF: no field is known.
    pub fn unknown() -> Self {
        Self { offsets: Offsets::NONE, absent: Offsets::SOURCES.iter().map(|(field, _, _)| *field).collect() }
    }

    /// Whether a field is known.
    pub fn has(&self, field: &str) -> bool {
        !self.absent.contains(&field)
    }
}

/// One alternative of a path: members joined by dots, then perhaps `+N` bytes.
fn offset(btf: &Btf, structure: &str, path: &str) -> Option<u32> {
    let (path, more) = path.split_once('+').unwrap_or((path, "0"));
    let offset = btf.member_offset(structure, path)? + more.parse::<u32>().ok()?;
    (offset != ABSENT).then_some(offset)
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
        let layout = Layout::resolve(&btf);
        for field in ["skc_cookie", "inet_sport", "sk_max_ack_backlog", "rskq_accept_tail", "snt_synack"] {
            assert!(layout.has(field), "{field}");
        }
    }
}
