//! Names for addresses: a program's functions by its files, their debug information and what a runtime writes for perf
//! (`/tmp/perf-PID.map`); the kernel's by `/proc/kallsyms`.

use std::collections::HashMap;

use blazesym::{
    MaybeDefault,
    symbolize::{
        Input, Symbolized, Symbolizer,
        source::{Kernel, Process, Source},
    },
};

use rustix::thread::CapabilitySet;

use crate::{diagnosis::blame::Frame, privilege::capability, tcp::event::is_unprintable};

/// Names that are remembered.
const MOST: usize = 1 << 18;

/// Characters of a name that are kept.
const LONGEST: usize = 512;

/// Functions that every stack of the kernel begins with.
const SCHEDULER: [&str; 5] =
    ["__schedule", "schedule", "preempt_schedule", "preempt_schedule_common", "__cond_resched"];

/// Names that were found.
pub(super) struct Names {
    symbolizer: Symbolizer,
    programs: HashMap<(u32, u64), Vec<Frame>>,
    kernel: HashMap<u64, String>,
}

impl Default for Names {
    fn default() -> Self {
        let symbolizer = Symbolizer::builder().enable_code_info(false).build();
        Self { symbolizer, programs: HashMap::new(), kernel: HashMap::new() }
    }
}

impl Names {
    /// A program's functions; where one was built into another, both.
    pub(super) fn of_program(&mut self, pid: u32, addresses: &[u64]) -> Vec<Frame> {
        if self.programs.len() >= MOST {
            self.programs.clear();
        }
        let known = |address: &&u64| !self.programs.contains_key(&(pid, **address));
        let new: Vec<u64> = addresses.iter().filter(known).copied().collect();
        if !new.is_empty() {
            let found = self.look_up(pid, &new);
            let named =
                new.iter().enumerate().map(|(index, address)| ((pid, *address), frames(*address, found.get(index))));
            let named: Vec<_> = named.collect();
            self.programs.extend(named);
        }
        addresses.iter().filter_map(|address| self.programs.get(&(pid, *address))).flatten().cloned().collect()
    }

    /// Debug information that cannot be read (compressed in a way that is not known) is no reason to go without names.
    fn look_up(&self, pid: u32, addresses: &[u64]) -> Vec<Symbolized<'_>> {
        let by = |debug_syms| {
            let mut process = Process::new(pid.into());
            // A file that was deleted or replaced is only found there.
            process.map_files = capability::held().contains(CapabilitySet::SYS_ADMIN);
            process.debug_syms = debug_syms;
            self.symbolizer.symbolize(&Source::Process(process), Input::AbsAddr(addresses))
        };
        by(true).or_else(|_| by(false)).unwrap_or_default()
    }

    /// The kernel's functions.
    pub(super) fn of_kernel(&mut self, addresses: &[u64]) -> Vec<String> {
        let new: Vec<u64> = addresses.iter().filter(|address| !self.kernel.contains_key(address)).copied().collect();
        if !new.is_empty() && self.kernel.len() < MOST {
            let kernel = Kernel { vmlinux: MaybeDefault::None, debug_syms: false, ..Kernel::default() };
            let found = self.symbolizer.symbolize(&Source::Kernel(kernel), Input::AbsAddr(&new));
            let found = found.unwrap_or_default();
            for (index, address) in new.iter().enumerate() {
                let name = found.get(index).and_then(Symbolized::as_sym).map(|symbol| symbol.name.clone().into_owned());
                self.kernel.insert(*address, name.unwrap_or_else(|| format!("{address:#x}")));
            }
        }
        let names = addresses.iter().filter_map(|address| self.kernel.get(address));
        names.skip_while(|name| SCHEDULER.contains(&name.as_str())).cloned().collect()
    }
}

fn frames(address: u64, symbol: Option<&Symbolized<'_>>) -> Vec<Frame> {
    let Some(symbol) = symbol.and_then(Symbolized::as_sym) else {
        return vec![Frame { name: format!("{address:#x}"), module: None }];
    };
    let path = symbol.module.as_ref().map(|module| module.to_string_lossy().into_owned());
    let file = path.map(|path| path.rsplit('/').next().unwrap_or("").to_owned());
    // What a runtime has made is in no file.
    let module = file.filter(|file| !file.starts_with("perf-"));
    let inlined = symbol.inlined.iter().rev().map(|function| function.name.as_ref());
    let names = inlined.chain([symbol.name.as_ref()]);
    names.map(|name| Frame { name: printable(name), module: module.as_deref().map(printable) }).collect()
}

/// Any process may write what its functions are called.
fn printable(name: &str) -> String {
    name.chars().take(LONGEST).map(|it| if is_unprintable(it) { '?' } else { it }).collect()
}
