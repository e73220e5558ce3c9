//! What processes are called and where they belong, remembered: a process that has ended is still known by its name, and one
//! that got its number is not taken for it.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};

use super::{Process, look};
use crate::tcp::event::{Comm, Task};

/// For so long nobody looks whether a number has got another process.
const FRESH: Duration = Duration::from_secs(1);

/// A process starts in a tick of the kernel's clock, and is seen a little later.
const TICK_NS: u64 = 20_000_000;

/// Processes that are remembered at once; of those that are told, twice as many.
const MOST: usize = 10_000;

/// A process, and since when its number was its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// When it started, in nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// What it is called and where it belongs.
    pub process: Process,
}

/// Processes by number.
#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<u32, Known>,
    /// Who tells what processes there are, instead of `/proc`.
    told: Option<Told>,
    /// The last one of those that was asked for.
    found: Option<Arc<Named>>,
    /// What is shown of units and cgroups of those, if not all.
    shows: Option<fn(&str) -> String>,
}

/// The processes that a recording names, until it names others of their numbers. Whoever reads it tells; nothing waits until
/// somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<Lately>>);

/// Those that were told or asked for lately, and those before them.
#[derive(Debug, Default)]
struct Lately {
    now: HashMap<u32, Arc<Named>>,
    before: HashMap<u32, Arc<Named>>,
}

#[derive(Debug)]
struct Known {
    looked: Instant,
    /// `None` if it had ended when it was looked for.
    named: Option<Named>,
}

impl Names {
    /// Knows only what it is told: the processes were another machine's, or are gone.
    pub fn told(told: Told) -> Self {
        Self { told: Some(told), ..Self::default() }
    }

    /// The same, and of units and cgroups only so much.
    #[must_use]
    pub fn showing(self, shows: fn(&str) -> String) -> Self {
        Self { shows: Some(shows), ..self }
    }

    /// The process that had this number at that time, in nanoseconds of `CLOCK_MONOTONIC`; `None` if it ended before it was
    /// looked at.
    pub fn of(&mut self, pid: u32, at_ns: u64) -> Option<&Process> {
        Some(&self.named(pid, at_ns)?.process)
    }

    /// Whether the process that had this number at that time was in a cgroup, by its path, or in one below it.
    pub fn is_in(&mut self, pid: u32, at_ns: u64, cgroup: &str) -> bool {
        self.of(pid, at_ns).is_some_and(|process| process.workload.is_in(cgroup))
    }

    /// The same, with its start.
    pub fn named(&mut self, pid: u32, at_ns: u64) -> Option<&Named> {
        let named = match &self.told {
            Some(told) => {
                let found = told.of(pid);
                self.found = match self.shows {
                    Some(shows) => found.map(|named| Arc::new(shown(&named, shows))),
                    None => found,
                };
                self.found.as_deref()
            }
            None => self.look(pid),
        };
        named.filter(|named| named.started_ns <= at_ns.saturating_add(TICK_NS))
    }

    fn look(&mut self, pid: u32) -> Option<&Named> {
        if self.known.len() >= MOST && !self.known.contains_key(&pid) {
            self.known.clear();
        }
        let known = self.known.entry(pid).or_insert_with(|| Known { looked: Instant::now(), named: find(pid) });
        if known.looked.elapsed() >= FRESH {
            known.look_again(pid);
        }
        known.named.as_ref()
    }

    /// The name of a thread's process, where it is another one; a first thread's is its process's.
    pub fn of_thread(&mut self, task: Task, at_ns: u64) -> Option<Comm> {
        if task.tid == task.pid {
            return None;
        }
        let comm = self.of(task.pid, at_ns)?.comm;
        (comm != task.comm).then_some(comm)
    }
}

impl Told {
    /// Takes in what a process is called, and where it belongs.
    pub fn tell(&self, named: Named) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(Arc::new(named));
    }

    /// The process that was told last under this number.
    fn of(&self, pid: u32) -> Option<Arc<Named>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).of(pid)
    }
}

impl Lately {
    /// Where there are too many, those that were neither told nor asked for lately go.
    fn keep(&mut self, named: Arc<Named>) {
        let pid = named.process.pid;
        if self.now.len() >= MOST && !self.now.contains_key(&pid) {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.insert(pid, named);
    }

    fn of(&mut self, pid: u32) -> Option<Arc<Named>> {
        if let Some(named) = self.now.get(&pid) {
            return Some(Arc::clone(named));
        }
        let named = self.before.remove(&pid)?;
        self.keep(Arc::clone(&named));
        Some(named)
    }
}

impl Known {
    fn look_again(&mut self, pid: u32) {
        self.looked = Instant::now();
        // One that has ended keeps its name.
        if let Some(found) = find(pid) {
            self.named = Some(found);
        }
    }
}

/// A process of whose unit and cgroup not all is shown.
fn shown(named: &Named, shows: fn(&str) -> String) -> Named {
    let mut named = named.clone();
    let workload = &mut named.process.workload;
    workload.unit = workload.unit.as_deref().map(shows);
    workload.cgroup = workload.cgroup.as_deref().map(shows);
    named
}

/// A process and its start.
fn find(pid: u32) -> Option<Named> {
    let started_ns = started_ns(pid)?;
    let process = look(pid)?;
    // The number may have passed on between the two.
    (self::started_ns(pid)? == started_ns).then_some(Named { started_ns, process })
}

fn started_ns(pid: u32) -> Option<u64> {
    let ticks = start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    let since_boot_ns = ticks.saturating_mul(1_000_000_000) / per_second.max(1);
    // `/proc` counts what the machine slept, too.
    let slept = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()? - clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    Some(since_boot_ns.saturating_sub(u64::try_from(Duration::from(slept).as_nanos()).unwrap_or(0)))
}

/// The 22nd field of `/proc/PID/stat`. The second, a name in parentheses, may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{monotonic::now_ns, process::cgroup::Workload};
    use std::process::{Command, Stdio, id};

    #[test]
    fn a_cgroup_holds_itself_and_what_is_below() {
        let check = |cgroup: Option<&str>, wanted, expected| {
            let workload = Workload { cgroup: cgroup.map(str::to_owned), ..Workload::default() };
            assert_eq!(workload.is_in(wanted), expected, "{cgroup:?} {wanted}");
        };
        check(Some("/system.slice/nginx.service"), "/system.slice", true);
        check(Some("/system.slice/nginx.service"), "system.slice/nginx.service/", true);
        check(Some("/system.slice/nginx.service"), "/system", false);
        check(Some("/system.slice"), "/system.slice/nginx.service", false);
        check(Some("/system.slice"), "/", true);
        check(None, "/", true);
        check(None, "/system.slice", false);
    }

    #[test]
    fn the_start_is_the_22nd_field() {
        let stat = "1 (a) b) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(start_ticks(stat), Some(4711));
        assert_eq!(start_ticks("1 (a"), None);
    }

    #[test]
    fn a_process_is_known_after_its_end_and_not_before_its_start() {
        let before_ns = now_ns() - 5 * TICK_NS;
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let mut names = Names::default();
        assert_eq!(names.of(pid, before_ns), None, "another one's");
        assert!(names.of(pid, now_ns()).is_some());
        drop(child.stdin.take());
        child.wait().unwrap();
        names.known.get_mut(&pid).unwrap().look_again(pid);
        assert!(names.of(pid, now_ns()).is_some());
        assert!(names.of(id(), now_ns()).is_some_and(|process| process.pid == id()));
        assert_eq!(names.of(1 << 23, now_ns()), None, "above the largest pid_max");
    }

    /// However many a recording names, those that are asked for stay known.
    #[test]
    fn of_too_many_those_that_nobody_asks_for_are_forgotten() {
        let (told, most) = (Told::default(), u32::try_from(MOST).unwrap());
        let mut names = Names::told(told.clone());
        let process = |pid| Process { pid, comm: "nginx".into(), command: None, workload: Workload::default() };
        for pid in 1..=3 * most {
            told.tell(Named { started_ns: 0, process: process(pid) });
            assert!(names.of(1, 0).is_some(), "{pid}");
            let Lately { now, before } = &*told.0.lock().unwrap();
            assert!(now.len() <= MOST && before.len() <= MOST, "{pid}");
        }
        assert_eq!(names.of(2, 0), None);
        assert_eq!(names.of(3 * most, 0), Some(&process(3 * most)));
    }

    #[test]
    fn of_a_unit_only_so_much_is_shown() {
        let told = Told::default();
        let workload = Workload { unit: Some("a.service".into()), cgroup: Some("/b".into()), ..Workload::default() };
        told.tell(Named { started_ns: 0, process: Process { pid: 7, comm: "a".into(), command: None, workload } });
        let mut names = Names::told(told).showing(|text| text.to_uppercase());
        let shown = &names.of(7, 0).unwrap().workload;
        assert_eq!((shown.unit.as_deref(), shown.cgroup.as_deref()), (Some("A.SERVICE"), Some("/B")));
    }

    #[test]
    fn a_thread_s_process_has_a_name_of_its_own() {
        let mut names = Names::default();
        let own = names.of(id(), now_ns()).unwrap().comm;
        let mut check = |tid, comm, expected| {
            assert_eq!(names.of_thread(Task { pid: id(), tid, comm }, now_ns()), expected, "{tid} {comm}");
        };
        check(id() + 1, "picks up".into(), Some(own));
        check(id() + 1, own, None);
        check(id(), "as it was".into(), None);
    }
}
