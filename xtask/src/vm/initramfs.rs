//! The guest's file system: an uncompressed `newc` cpio archive, as `Documentation/driver-api/early-userspace` describes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive that grows.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    known: BTreeSet<String>,
}

impl Archive {
    /// Everything is executable: what is a program and what is not makes no difference here.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.entry(path, PROGRAM, content);
    }

    pub(crate) fn directory(&mut self, path: &str) {
        self.parents(&format!("{path}/x"));
    }

    /// A file of the host, at this path.
    pub(crate) fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, &content);
        Ok(())
    }

    /// A program of the host with the libraries that it needs, each at its own path.
    pub(crate) fn host_program(&mut self, path: &str) -> Result<()> {
        let libraries = shell::read(Command::new("ldd").arg(path), "the program must be a dynamic one")?;
        for library in libraries_in(&String::from_utf8_lossy(&libraries)) {
            if !self.known.contains(library) {
                self.copy(library, Path::new(library))?;
            }
        }
        self.copy(path, Path::new(path))
    }

    /// The archive's bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let mut slashes: Vec<_> = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).collect();
        slashes.sort_unstable();
        for at in slashes {
            if !self.known.contains(&path[..at]) {
                self.entry(&path[..at], DIRECTORY, &[]);
            }
        }
    }

    /// Numbers are eight hexadecimal digits; names and contents are padded to four bytes.
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.known.insert(path.to_owned());
        self.entries += 1;
        let name = path.trim_start_matches('/');
        self.bytes.extend(b"070701");
        let numbers = [self.entries, mode, 0, 0, 1, 0, length(content), 0, 0, 0, 0, length(name.as_bytes()) + 1, 0];
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("no file of the guest is larger than 4 GiB")
}

/// `libc.so.6 => /lib/libc.so.6 (0x...)`, or `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn libraries_in(said: &str) -> impl Iterator<Item = &str> {
    said.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_reads_what_was_written() {
        let mut archive = Archive::default();
        archive.file("/a/b/one", b"hello");
        archive.directory("/tmp");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let names: Vec<_> = ["a", "a/b", "a/b/one", "tmp", "TRAILER!!!"].map(|name| format!("{name}\0")).into();
        let mut at = 0;
        for name in names {
            assert_eq!(&bytes[at..at + 6], b"070701", "{name}");
            let number = |index: usize| {
                let digits = std::str::from_utf8(&bytes[at + 6 + 8 * index..at + 14 + 8 * index]).unwrap_or_default();
                usize::from_str_radix(digits, 16).unwrap_or(usize::MAX)
            };
            let (size, name_size) = (number(6), number(11));
            assert_eq!(&bytes[at + 110..at + 110 + name_size], name.as_bytes());
            let content = (at + 110 + name_size).next_multiple_of(4);
            if name == "a/b/one\0" {
                assert_eq!(&bytes[content..content + size], b"hello");
            }
            at = (content + size).next_multiple_of(4);
        }
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux.so.2 (0x3)\n";
        assert_eq!(libraries_in(said).collect::<Vec<_>>(), ["/lib/libc.so.6", "/lib64/ld-linux.so.2"]);
    }
}
