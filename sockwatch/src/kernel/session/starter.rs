//! Brings a session about: loads the object, and tries each probe's alternatives in turn.

use std::io;

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, ArrayOfMaps, Map, MapData, PerCpuArray, RingBuf},
    programs::{
        BtfTracePoint, FExit, KProbe, PerfEvent, Program as AyaProgram, ProgramError, TracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::{nr_cpus, online_cpus},
};
use aya_obj::generated::bpf_map_type;
use sockwatch_common::{
    Filter as WireFilter, Plain, SYSCALL_ACCEPTS, SYSCALL_ACCEPTS_ONLY, SYSCALL_DESCRIPTORS, Settings,
};

use super::{Choice, Options, Outcome, Session, StartError, Telling, Threads};
use crate::{
    kernel::{
        btf::Btf,
        layout::{Layout, tracepoint_of},
        probes::{Alternative, Hook, Need, Part, Probe, Program, Requirement},
        refusal::{self, Refusal},
        tallies::{self, Tallies},
        threads,
    },
    tcp::reset::ResetReasons,
};

static OBJECT: &[u8] = include_bytes_aligned!("../sockwatch-probes.o");

/// Loads and attaches.
pub(super) struct Starter<'a> {
    ebpf: Ebpf,
    kernel_btf: Option<aya::Btf>,
    btf: Option<Btf>,
    layout: Layout,
    options: &'a Options,
    attached: Vec<Program>,
    /// Those that watch threads.
    aside: Vec<Program>,
    outcomes: Vec<Outcome>,
}

impl<'a> Starter<'a> {
    pub(super) fn load(options: &'a Options) -> Result<Self, StartError> {
        let btf = Btf::of_running_kernel().ok();
        if btf.is_none() && options.filter.netns_count != 0 {
            return Err(StartError::Namespaces);
        }
        let layout = Layout::resolve(btf.as_ref());
        let settings = settings(btf.as_ref(), options);
        let kernel_btf = aya::Btf::from_sys_fs().ok();
        let by_task = options.filter.pid_count != 0 || options.filter.has_cgroup != 0;
        let by_tuple = options.filter != WireFilter::ANY;
        let cpus = nr_cpus().map_err(|(_, error)| StartError::Object(Refusal::Other(error.to_string())))? as u32;
        let mut loader = EbpfLoader::new();
        loader
            .btf(kernel_btf.as_ref())
            .override_global("OFFSETS", layout.offsets.as_bytes(), true)
            .override_global("SETTINGS", settings.as_bytes(), true)
            .override_global("FILTER", options.filter.as_bytes(), true)
            .map_max_entries("EVENTS", cpus);
        if settings.has_task_pt_regs != 0 {
            loader.map_max_entries("CALLS", 1);
        }
        match btf {
            Some(_) => loader.map_max_entries("CHILDREN", 1).map_max_entries("REMOTES", 1),
            None => loader.map_max_entries("QUEUED", cpus),
        };
        if !by_task && !by_tuple {
            loader.map_max_entries("MEMBERS", 1).map_max_entries("WAITING", 1).map_max_entries("CLOSED", 1);
        }
        if options.threads == Threads::Watched {
            threads::size(&mut loader, options.telling);
        }
        if options.telling == Telling::Tallies {
            tallies::size(&mut loader);
        }
        #[cfg(feature = "probe-log")]
        let object = crate::kernel::log::object().map_err(|error| StartError::Mismatch(error.to_string()))?;
        #[cfg(not(feature = "probe-log"))]
        let object: Option<Vec<u8>> = None;
        let object = object.as_deref().unwrap_or(OBJECT);
        let ebpf = loader.load(object).map_err(|error| StartError::Object(refusal::of_object(&error)))?;
        Ok(Self {
            ebpf,
            kernel_btf,
            btf,
            layout,
            options,
            attached: Vec::new(),
            aside: Vec::new(),
            outcomes: Vec::new(),
        })
    }

    pub(super) fn attach_probe(&mut self, probe: &'static Probe) -> Result<(), StartError> {
        let mut outcome = Outcome { probe, taken: None, refused: Vec::new() };
        for alternative in probe.alternatives {
            let attached = self.allowed(probe, alternative).and_then(|()| self.attach_all(alternative));
            match attached {
                Ok(()) => {
                    outcome.taken = Some(alternative);
                    break;
                }
                // Rows of one name often fail for one reason.
                Err(refusal) if outcome.refused.contains(&(alternative.name, refusal.clone())) => {}
                Err(refusal) => outcome.refused.push((alternative.name, refusal)),
            }
        }
        if outcome.taken.is_none() && probe.need == Need::Required {
            return Err(StartError::Probe { probe: probe.name, reasons: reasons(&outcome.refused) });
        }
        self.outcomes.push(outcome);
        Ok(())
    }

    /// Whether the user and the kernel's own description allow an alternative.
    fn allowed(&self, probe: &Probe, alternative: &Alternative) -> Result<(), Refusal> {
        match self.options.choices.get(probe.name) {
            Some(Choice::Off) => return Err(Refusal::SwitchedOff),
            Some(Choice::Only(name)) if name != alternative.name => return Err(Refusal::SwitchedOff),
            Some(Choice::Only(_)) | None => {}
        }
        alternative.requirements.iter().try_for_each(|requirement| self.met(requirement))
    }

    fn met(&self, requirement: &Requirement) -> Result<(), Refusal> {
        let btf = self.btf.as_ref();
        match *requirement {
            Requirement::Parameters(function, count) => match btf.and_then(|btf| btf.function_parameters(function)) {
                Some(found) if found == count => Ok(()),
                Some(_) => Err(Refusal::NotNeeded),
                None => Err(Refusal::Missing(format!("function {function} in its BTF"))),
            },
            Requirement::Arguments(tracepoint, count) => {
                match btf.and_then(|btf| btf.tracepoint_parameters(tracepoint)) {
                    Some(found) if found >= count => Ok(()),
                    Some(_) => Err(Refusal::Missing(format!("argument {count} of tracepoint {tracepoint}"))),
                    None => Err(Refusal::Missing(format!("tracepoint {tracepoint}"))),
                }
            }
            Requirement::Fields(fields) => match fields.iter().find(|field| !self.layout.has(field)) {
                Some(field) => Err(self.without(field)),
                None => Ok(()),
            },
            Requirement::NoBtf => match btf {
                Some(_) => Err(Refusal::NotNeeded),
                None => Ok(()),
            },
            Requirement::Enumerator(enumeration, name) => match btf.map(|btf| btf.enumerator(enumeration, name)) {
                Some(Some(_)) => Ok(()),
                Some(None) => Err(Refusal::NotNeeded),
                None => Err(Refusal::NoBtf),
            },
            Requirement::Taken(probe, alternative) => {
                let taken = self.outcomes.iter().find(|outcome| outcome.probe.name == probe);
                match taken.and_then(|outcome| outcome.taken) {
                    Some(taken) if taken.name == alternative => Ok(()),
                    _ => Err(Refusal::NotNeeded),
                }
            }
        }
    }

    /// Why a field is not known.
    fn without(&self, field: &str) -> Refusal {
        match tracepoint_of(field) {
            Some((tracepoint, name)) => {
                Refusal::Missing(format!("field {name} of tracepoint {tracepoint}, or tracefs is not mounted"))
            }
            None if self.btf.is_none() => Refusal::NoBtf,
            None => Refusal::Missing(format!("field {field} in its BTF")),
        }
    }

    /// Whether an alternative attaches, whatever the other probes took.
    pub(super) fn try_alone(&mut self, alternative: &'static Alternative) -> Result<(), Refusal> {
        let of_this_kernel = |requirement: &&Requirement| !matches!(requirement, Requirement::Taken(..));
        alternative.requirements.iter().filter(of_this_kernel).try_for_each(|requirement| self.met(requirement))?;
        let attached = self.attach_all(alternative);
        for program in std::mem::take(&mut self.attached) {
            self.detach(program.name);
        }
        attached
    }

    /// Attaches all programs of an alternative, or none.
    fn attach_all(&mut self, alternative: &Alternative) -> Result<(), Refusal> {
        let before = self.attached.len();
        for program in alternative.programs {
            if let Err(refusal) = self.attach(program) {
                for program in self.attached.split_off(before) {
                    self.detach(program.name);
                }
                return Err(refusal);
            }
        }
        Ok(())
    }

    pub(super) fn attach(&mut self, program: &Program) -> Result<(), Refusal> {
        // Two probes may share a program: it attaches once. Counting goes without relief.
        let is_relief = program.part == Part::Relief && self.options.telling == Telling::Tallies;
        if is_relief || self.attached.iter().any(|attached| attached.name == program.name) {
            return Ok(());
        }
        let loaded = self.ebpf.program_mut(program.name);
        let loaded = loaded.ok_or_else(|| Refusal::Other(format!("the object has no program {}", program.name)))?;
        load_and_attach(loaded, program.hook, self.kernel_btf.as_ref()).map_err(|error| {
            unload(loaded);
            refusal::of_program(&error, program.hook)
        })?;
        self.attached.push(*program);
        Ok(())
    }

    fn detach(&mut self, name: &str) {
        if let Some(program) = self.ebpf.program_mut(name) {
            unload(program);
        }
    }

    /// Makes a ring buffer for each CPU. Before anything attaches: an event without a ring would be lost uncounted.
    pub(super) fn make_rings(&mut self) -> Result<Vec<RingBuf<MapData>>, StartError> {
        let events = self.ebpf.map_mut("EVENTS").ok_or_else(|| StartError::Mismatch("it has no map EVENTS".into()))?;
        let mut events: ArrayOfMaps<&mut MapData, RingBuf<MapData>> = ArrayOfMaps::try_from(events)?;
        (0..events.len())
            .map(|cpu| {
                let kind = bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
                let definition = aya_obj::Map::new_from_params(kind, 0, 0, self.options.ring_bytes, 0);
                let ring = RingBuf::try_from(Map::RingBuf(MapData::create(definition, "events", None)?))?;
                events.set(cpu, &ring, 0)?;
                Ok(ring)
            })
            .collect()
    }

    /// Says what the exits of the accept system calls mean, before there are transitions that they could contradict.
    pub(super) fn set_accept_exits(&mut self) -> Result<(), StartError> {
        let taken = |probe: &str| {
            let outcome = self.outcomes.iter().find(|outcome| outcome.probe.name == probe);
            outcome.and_then(|outcome| outcome.taken).map(|taken| taken.name)
        };
        let reports = match (taken("accept"), taken("accept-return")) {
            (Some("syscall"), Some("syscall") | None) => SYSCALL_ACCEPTS,
            (Some("syscall"), Some(_)) => SYSCALL_ACCEPTS_ONLY,
            (Some(_) | None, _) => SYSCALL_DESCRIPTORS,
        };
        let exits = self.ebpf.map_mut("ACCEPT_EXITS");
        let exits = exits.ok_or_else(|| StartError::Mismatch("it has no map ACCEPT_EXITS".into()))?;
        let mut exits: Array<&mut MapData, u32> = Array::try_from(exits)?;
        Ok(exits.set(0, reports, 0)?)
    }

    /// Attaches what watches threads, apart from the probes: what it misses is no event's loss.
    pub(super) fn watch_threads(&mut self) -> Result<threads::Threads, Refusal> {
        threads::REQUIREMENTS.iter().try_for_each(|requirement| self.met(requirement))?;
        threads::PROGRAMS.iter().try_for_each(|program| self.attach_aside(program))?;
        let samples = self.attach_aside(&threads::SAMPLE).err();
        let map = |ebpf: &mut Ebpf, name| ebpf.take_map(name).ok_or(Refusal::Missing(format!("map {name}")));
        let maps = [threads::RING, threads::WATCHED, threads::THREADS].map(|name| map(&mut self.ebpf, name));
        let [ring, watched, threads] = maps;
        let tells_reads = self.options.telling == Telling::Events
            && has_socket_cookie(self.btf.as_ref())
            && self.met(&threads::OF_FIRST_READ).and_then(|()| self.attach_aside(&threads::FIRST_READ)).is_ok();
        threads::Threads::new([ring?, watched?, threads?], samples, tells_reads)
            .map_err(|error| Refusal::Other(error.to_string()))
    }

    fn attach_aside(&mut self, program: &Program) -> Result<(), Refusal> {
        let before = self.attached.len();
        let attached = self.attach(program);
        self.aside.extend(self.attached.drain(before..));
        attached
    }

    pub(super) fn finish(
        mut self,
        rings: Vec<RingBuf<MapData>>,
    ) -> Result<(Session, Vec<RingBuf<MapData>>), StartError> {
        let members = aya::maps::HashMap::try_from(self.take_map("MEMBERS")?)?;
        let counted = PerCpuArray::try_from(self.take_map("COUNTED")?)?;
        #[cfg(feature = "probe-log")]
        let log = crate::kernel::log::ProbeLog::of(&mut self.ebpf);
        let tallies = (self.options.telling == Telling::Tallies).then(|| Tallies::of(&mut self.ebpf)).transpose()?;
        let Self { ebpf, attached, aside, outcomes, btf, .. } = self;
        let session = Session {
            ebpf,
            counted,
            members,
            #[cfg(feature = "probe-log")]
            log,
            attached,
            aside,
            outcomes,
            threads: None,
            tallies,
            tells_cookies: btf.is_some(),
            reset_reasons: btf.map(|btf| ResetReasons::of(btf.enumerators("sk_rst_reason"))).unwrap_or_default(),
        };
        Ok((session, rings))
    }

    fn take_map(&mut self, name: &str) -> Result<Map, StartError> {
        self.ebpf.take_map(name).ok_or_else(|| StartError::Mismatch(format!("it has no map {name}")))
    }
}

/// What the programs must know of this kernel besides offsets.
fn settings(btf: Option<&Btf>, options: &Options) -> Settings {
    let reset_arguments = btf.and_then(|btf| btf.tracepoint_parameters("tcp_send_reset"));
    let drop_arguments = btf.and_then(|btf| btf.tracepoint_parameters("kfree_skb"));
    let overflow = btf.and_then(|btf| btf.enumerator("skb_drop_reason", "SKB_DROP_REASON_TCP_LISTEN_OVERFLOW"));
    let task_pt_regs = btf.and_then(|btf| btf.enumerator("bpf_func_id", "BPF_FUNC_task_pt_regs"));
    let has_socket_cookie = has_socket_cookie(btf);
    Settings {
        wakeup_bytes: u64::from(options.ring_bytes) / 4,
        reset_reason_index: if reset_arguments == Some(3) { 2 } else { 0 },
        drop_socket_index: if drop_arguments.is_some_and(|count| count >= 4) { 3 } else { 0 },
        listen_overflow_reason: overflow.unwrap_or(0),
        has_task_pt_regs: u32::from(task_pt_regs.is_some()),
        has_socket_cookie: u32::from(has_socket_cookie),
        tick_ns: tick_ns(),
        tallies: u32::from(options.telling == Telling::Tallies),
        first_reads: u32::from(
            options.threads == Threads::Watched && options.telling == Telling::Events && has_socket_cookie,
        ),
    }
}

/// Whether tracing programs may ask for a socket's cookie: from 5.12 on. The helper's number is older: 5.10 has it for other kinds
/// of programs.
fn has_socket_cookie(btf: Option<&Btf>) -> bool {
    btf.and_then(|btf| btf.function_parameters("bpf_get_socket_ptr_cookie")).is_some()
}

/// A jiffy, which is what the coarse clock counts in; 0 if that cannot be had.
fn tick_ns() -> u32 {
    let tick = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    tick.map_or(0, |tick| u32::try_from(tick.tv_nsec()).unwrap_or(0))
}

fn load_and_attach(program: &mut AyaProgram, hook: Hook, btf: Option<&aya::Btf>) -> Result<(), ProgramError> {
    let no_btf = || io::Error::new(io::ErrorKind::NotFound, "the kernel has no BTF");
    match hook {
        Hook::BtfTracepoint(name) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(name, btf.ok_or_else(no_btf)?)?;
            program.attach()?;
        }
        Hook::FExit(function) => {
            let program: &mut FExit = program.try_into()?;
            program.load(function, btf.ok_or_else(no_btf)?)?;
            program.attach()?;
        }
        Hook::Tracepoint(category, name) => {
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            program.attach(category, name)?;
        }
        Hook::KProbe(function) | Hook::KRetProbe(function) => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(function, 0)?;
        }
        Hook::CpuClock(hertz) => {
            let program: &mut PerfEvent = program.try_into()?;
            program.load()?;
            for cpu in online_cpus().map_err(|(_, error)| error)? {
                let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
                let scope = PerfEventScope::AllProcessesOneCpu { cpu };
                program.attach(clock, scope, SamplePolicy::Frequency(hertz), false)?;
            }
        }
    }
    Ok(())
}

/// Detaches a program and frees it; the object keeps its code for another try.
fn unload(program: &mut AyaProgram) {
    // What is not loaded has nothing to unload.
    let _ = match program {
        AyaProgram::BtfTracePoint(program) => program.unload(),
        AyaProgram::FExit(program) => program.unload(),
        AyaProgram::TracePoint(program) => program.unload(),
        AyaProgram::KProbe(program) => program.unload(),
        AyaProgram::PerfEvent(program) => program.unload(),
        _ => Ok(()),
    };
}

fn reasons(refused: &[(&str, Refusal)]) -> String {
    let reasons: Vec<_> = refused.iter().map(|(name, refusal)| format!("{name}: {refusal}")).collect();
    reasons.join("; ")
}
