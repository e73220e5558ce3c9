//! From registers and a copy of a stack to return addresses: by the call frame information of the program's files, or, where code
//! has none, by frame pointers.

use std::{
    collections::HashMap,
    fs,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use framehop::{CacheNative, ExplicitModuleSectionInfo, Module, UnwindRegsNative, Unwinder, UnwinderNative};
use object::{Object, ObjectSection, ObjectSegment, SegmentFlags, elf::PF_X};

/// Frames of a stack that are kept.
const MOST_FRAMES: usize = 64;

/// Programs that are known at once.
const MOST_PROGRAMS: usize = 256;

/// Files that are known at once.
const MOST_FILES: usize = 1024;

/// Where a program's files lie is looked up again after so long, if an address lies in none of them.
const AGAIN: Duration = Duration::from_secs(1);

/// The registers that unwinding begins with; 0 where they are not known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Registers {
    pub(super) ip: u64,
    pub(super) sp: u64,
    pub(super) bp: u64,
    #[cfg_attr(not(target_arch = "aarch64"), expect(dead_code, reason = "x86 has none"))]
    pub(super) lr: u64,
}

/// Processes' programs.
#[derive(Default)]
pub(super) struct Programs {
    programs: HashMap<u32, Program>,
    /// By device and inode: workers of one server have the same files.
    files: HashMap<String, Arc<Unwindable>>,
}

struct Program {
    unwinder: UnwinderNative<Arc<[u8]>, framehop::MayAllocateDuringUnwind>,
    cache: CacheNative<framehop::MayAllocateDuringUnwind>,
    code: Vec<Range<u64>>,
    looked: Instant,
}

impl Programs {
    /// The addresses of a stack's calls, the innermost first: of each the instruction itself, not where it returns to.
    pub(super) fn unwind(&mut self, pid: u32, registers: &Registers, stack: &[u8]) -> Vec<u64> {
        let Registers { ip, sp, .. } = *registers;
        if ip == 0 {
            return Vec::new();
        }
        let Self { programs, files } = self;
        if programs.len() >= MOST_PROGRAMS && !programs.contains_key(&pid) {
            programs.clear();
        }
        let program = programs.entry(pid).or_insert_with(|| Program::look(pid, files));
        if !program.code.iter().any(|code| code.contains(&ip)) && program.looked.elapsed() >= AGAIN {
            *program = Program::look(pid, files);
        }
        let mut read = |address: u64| {
            let at = usize::try_from(address.checked_sub(sp).ok_or(())?).map_err(|_| ())?;
            let bytes = stack.get(at..at + 8).ok_or(())?;
            Ok(u64::from_ne_bytes(bytes.try_into().map_err(|_| ())?))
        };
        let Program { unwinder, cache, .. } = program;
        let mut frames = unwinder.iter_frames(ip, native(registers), cache, &mut read);
        let mut addresses = Vec::new();
        while addresses.len() < MOST_FRAMES
            && let Ok(Some(frame)) = frames.next()
        {
            addresses.push(frame.address_for_lookup());
        }
        addresses
    }
}

#[cfg(target_arch = "x86_64")]
fn native(registers: &Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.ip, registers.sp, registers.bp)
}

#[cfg(target_arch = "aarch64")]
fn native(registers: &Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.lr, registers.sp, registers.bp)
}

impl Program {
    fn look(pid: u32, files: &mut HashMap<String, Arc<Unwindable>>) -> Self {
        let mut program = Self {
            unwinder: UnwinderNative::new(),
            cache: CacheNative::new(),
            code: Vec::new(),
            looked: Instant::now(),
        };
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        for mapping in maps.lines().filter_map(Mapping::parse) {
            program.code.push(mapping.addresses.clone());
            if files.len() >= MOST_FILES && !files.contains_key(mapping.file) {
                files.clear();
            }
            let known = files.get(mapping.file).cloned();
            let Some(file) = known.or_else(|| mapping.read(pid).map(Arc::new)) else { continue };
            if let Some(module) = mapping.module(&file) {
                program.unwinder.add_module(module);
            }
            files.entry(mapping.file.to_owned()).or_insert(file);
        }
        program
    }
}

/// What a file says of a part of itself that is mapped.
#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    address: u64,
    offset: u64,
    bytes: u64,
    is_code: bool,
}

/// What unwinding takes of a file.
struct Unwindable {
    segments: Vec<Segment>,
    sections: ExplicitModuleSectionInfo<Arc<[u8]>>,
}

impl Unwindable {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let file = object::File::parse(bytes).ok()?;
        let segment = |segment: object::Segment<'_, '_>| {
            let (offset, bytes) = segment.file_range();
            let SegmentFlags::Elf { p_flags } = segment.flags() else { return Segment::default() };
            Segment { address: segment.address(), offset, bytes, is_code: p_flags & PF_X != 0 }
        };
        let range = |name: &str| {
            let section = file.section_by_name(name)?;
            Some(section.address()..section.address() + section.size())
        };
        let section = |name: &str| {
            let data = file.section_by_name(name)?.uncompressed_data().ok()?;
            Some((range(name)?, Arc::from(data.as_ref())))
        };
        let (eh_frame_svma, eh_frame) = section(".eh_frame").unzip();
        let (eh_frame_hdr_svma, eh_frame_hdr) = section(".eh_frame_hdr").unzip();
        let sections = ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: range(".text"),
            got_svma: range(".got"),
            eh_frame_svma,
            eh_frame,
            eh_frame_hdr_svma,
            eh_frame_hdr,
            debug_frame: section(".debug_frame").map(|(_, bytes)| bytes),
            ..ExplicitModuleSectionInfo::default()
        };
        Some(Self { segments: file.segments().map(segment).collect(), sections })
    }
}

/// Code of a file.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    addresses: Range<u64>,
    offset: u64,
    /// Its device and inode, as they are printed.
    file: &'a str,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    /// A line of `/proc/PID/maps`, if it is about code.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let (from, to) = words.next()?.split_once('-')?;
        let is_code = words.next()?.as_bytes().get(2) == Some(&b'x');
        let hexadecimal = |word| u64::from_str_radix(word, 16).ok();
        let offset = hexadecimal(words.next()?)?;
        let rest = words.next()?;
        let inode = rest.find(' ')? + 1;
        let end = rest[inode..].find(' ').map_or(rest.len(), |length| inode + length);
        let (file, path) = (&rest[..end], rest[end..].trim_start());
        is_code.then_some(Self { addresses: hexadecimal(from)?..hexadecimal(to)?, offset, file, path })
    }

    /// What is to be added to an address of the file to have the one in memory. A mapping begins at a page; its segment may begin
    /// within that page, and another one end there.
    fn base(&self, segments: &[Segment]) -> Option<u64> {
        let bytes = self.addresses.end - self.addresses.start;
        let mapped = segments.iter().find(|segment| {
            let Segment { offset, bytes: all, is_code, .. } = **segment;
            is_code && offset < self.offset.saturating_add(bytes) && self.offset < offset.saturating_add(all)
        })?;
        let first = mapped.address.wrapping_add(self.offset).wrapping_sub(mapped.offset);
        Some(self.addresses.start.wrapping_sub(first))
    }

    fn read(&self, pid: u32) -> Option<Unwindable> {
        if !self.path.starts_with('/') {
            return None;
        }
        // As the process sees it, whatever has become of the path since.
        let Range { start, end } = self.addresses;
        let bytes = fs::read(format!("/proc/{pid}/map_files/{start:x}-{end:x}"))
            .or_else(|_| fs::read(format!("/proc/{pid}/root{}", self.path)))
            .ok()?;
        Unwindable::parse(&bytes)
    }

    fn module(&self, file: &Unwindable) -> Option<Module<Arc<[u8]>>> {
        let base = self.base(&file.segments)?;
        Some(Module::new(self.path.to_owned(), self.addresses.clone(), base, file.sections.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_told_from_the_rest() {
        let code = "7f00-8f00 r-xp 00001000 fe:00 42                 /usr/lib/a b.so";
        let expected = Mapping { addresses: 0x7f00..0x8f00, offset: 0x1000, file: "fe:00 42", path: "/usr/lib/a b.so" };
        assert_eq!(Mapping::parse(code), Some(expected));
        assert_eq!(Mapping::parse(&code.replace("r-xp", "r--p")), None);
        assert_eq!(Mapping::parse("7f00-8f00 r-xp 00000000 00:00 0").map(|it| it.path), Some(""));
    }

    /// As a linker lays them out that leaves no gaps in the file: two segments share a page of it.
    #[test]
    fn code_may_begin_within_its_first_page() {
        let segments = [
            Segment { address: 0, offset: 0, bytes: 0x1c30, is_code: false },
            Segment { address: 0x2c40, offset: 0x1c40, bytes: 0x3000, is_code: true },
        ];
        let mapping = Mapping { addresses: 0x7000_2000..0x7000_6000, offset: 0x1000, file: "fe:00 1", path: "/a" };
        assert_eq!(mapping.base(&segments), Some(0x7000_0000));
        assert_eq!(mapping.base(&segments[..1]), None);
    }
}
