//! What the threads of the processes did that hold a listener, and when accepted connections were read from. A thread of its own reads
//! what the kernel side tells, unwinds stacks while their process is there, and finds names for them.

mod found;
mod limits;
mod names;
mod unwind;

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::libc;
use sockwatch_common::{FirstRead, Pause, Stacked, ThreadKind};

use self::{names::Names, unwind::Programs};
use crate::{
    diagnosis::blame::{CpuLimit, Deed, Stack, Sums, Suspect, What},
    kernel::threads::{Record, Threads},
    monotonic::now_ns,
    privilege::{self, Sandbox},
    tcp::event::SocketKey,
};

/// The ring buffer is read so often.
const EVERY: Duration = Duration::from_millis(20);

/// System calls that wait for any of several events, by their numbers here.
const WAITS: &[i64] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_io_uring_enter,
];

/// Stacks that are told apart.
const MOST_STACKS: usize = 1 << 16;

/// What came of it.
#[derive(Clone, Debug)]
pub enum News {
    /// A process holds a listener, and is watched.
    Holds {
        /// The process.
        pid: u32,
        /// The listener.
        listener: SocketKey,
    },
    /// A thread did something.
    Deed(Deed),
    /// An accepted connection was read from for the first time.
    Read {
        /// When.
        at_ns: u64,
        /// The connection.
        connection: SocketKey,
    },
    /// A process has been under this limit while it was watched, which has counted so much.
    Limited {
        /// The process.
        pid: u32,
        /// The limit.
        limit: CpuLimit,
    },
}

/// The watching thread.
#[derive(Debug)]
pub struct Watcher {
    orders: Option<Sender<Suspect>>,
    news: Receiver<News>,
    thread: Option<JoinHandle<()>>,
    tells_reads: bool,
}

impl Watcher {
    /// Begins; the thread confines itself if it is to.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(threads: Threads, sandbox: Sandbox) -> io::Result<Self> {
        let (orders, ordered) = channel();
        let (tell, news) = channel();
        let tells_reads = threads.tells_reads();
        let work = move || {
            if sandbox == Sandbox::On {
                // What a kernel cannot do is no reason not to go on: `doctor` says it.
                privilege::confine(&privilege::role::THREADS, &[], || threads.may_read());
            }
            Watching {
                threads,
                tell,
                programs: Programs::default(),
                names: Names::default(),
                watched: HashMap::new(),
                stacks: HashMap::new(),
            }
            .run(&ordered)
        };
        let thread = thread::Builder::new().name("threads".into()).spawn(work)?;
        Ok(Self { orders: Some(orders), news, thread: Some(thread), tells_reads })
    }

    /// Whether it tells when connections are read from.
    pub fn tells_reads(&self) -> bool {
        self.tells_reads
    }

    /// Watches somebody more.
    pub fn watch(&self, suspect: Suspect) {
        if let Some(orders) = &self.orders {
            // It has ended: then there is no news either.
            let _ = orders.send(suspect);
        }
    }

    /// What has come since.
    pub fn news(&self) -> impl Iterator<Item = News> {
        self.news.try_iter()
    }

    /// Ends it; now the rest can be had.
    pub fn end(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // What it has told until then is told.
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Watching {
    threads: Threads,
    tell: Sender<News>,
    programs: Programs,
    names: Names,
    /// Those processes, and which limits they were under then.
    watched: HashMap<u32, Vec<CpuLimit>>,
    stacks: HashMap<(u32, Vec<u64>, Vec<u64>), Arc<Stack>>,
}

impl Watching {
    fn run(mut self, orders: &Receiver<Suspect>) {
        loop {
            match orders.recv_timeout(EVERY) {
                Ok(order) => self.follow(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.read();
        }
        self.read();
        for thread in self.threads.now() {
            // Who is on a CPU is known to be since it entered.
            if thread.pause.off_ns != 0 && thread.pause.on_ns == 0 && self.watched.contains_key(&thread.pause.pid) {
                self.long(&thread);
            }
        }
        for (pid, before) in &self.watched {
            for limit in limits::of(*pid) {
                let before = before.iter().find(|before| before.cgroup == limit.cgroup);
                if let Some(limit) = before.and_then(|before| limit.since(before)) {
                    self.say(News::Limited { pid: *pid, limit });
                }
            }
        }
    }

    fn follow(&mut self, order: Suspect) {
        let (pids, listener) = match order {
            Suspect::Acceptor { pid, listener } => (vec![pid], listener),
            Suspect::Holders { pid, listener, local } => (found::holders(pid, &local), listener),
        };
        for pid in pids {
            self.say(News::Holds { pid, listener });
            let Entry::Vacant(entry) = self.watched.entry(pid) else { continue };
            entry.insert(limits::of(pid));
            if self.threads.watch(pid).is_ok() {
                let at_ns = now_ns();
                for found in found::threads(pid) {
                    let sleeps = found.sleep.map(|asleep| {
                        let frames = self.programs.unwind(pid, &asleep.registers, &asleep.stack);
                        let user = self.names.of_program(pid, &frames);
                        Arc::new(Stack { kernel: asleep.kernel, user })
                    });
                    let what = What::Found { at_ns, comm: found.comm, sleeps };
                    self.say(News::Deed(Deed { pid, tid: found.tid, what }));
                }
            }
        }
    }

    fn read(&mut self) {
        // Copied out, so that its place is free before its stack is looked at.
        let mut records = Vec::new();
        self.threads.take(|record| records.push(record));
        for record in records {
            match record {
                Record::Short(pause) => self.say(News::Deed(deed(&pause, None))),
                Record::Long(stacked) => self.long(&stacked),
                Record::Read(FirstRead { at_ns, cookie, netns, .. }) => {
                    self.say(News::Read { at_ns, connection: SocketKey { netns, cookie } });
                }
            }
        }
    }

    fn long(&mut self, stacked: &Stacked) {
        let stack = self.stack(stacked);
        self.say(News::Deed(deed(&stacked.pause, Some(stack))));
    }

    fn stack(&mut self, stacked: &Stacked) -> Arc<Stack> {
        let pause = &stacked.pause;
        // Of one that is not back yet the kernel's part is not known.
        let kernel_bytes = if pause.on_ns == 0 { 0 } else { pause.kernel_bytes };
        let kernel = &stacked.kernel[..(kernel_bytes as usize / 8).min(stacked.kernel.len())];
        let user = &stacked.user[..(pause.user_bytes as usize).min(stacked.user.len())];
        let registers = unwind::Registers { ip: pause.ip, sp: pause.sp, bp: pause.bp, lr: pause.lr };
        let frames = self.programs.unwind(pause.pid, &registers, user);
        let key = (pause.pid, kernel.to_vec(), frames);
        if let Some(known) = self.stacks.get(&key) {
            return known.clone();
        }
        let mut named = Stack { kernel: self.names.of_kernel(kernel), user: self.names.of_program(pause.pid, &key.2) };
        if kernel.is_empty() && pause.on_ns == 0 {
            named.kernel = found::kernel_stack(pause.pid, pause.tid);
            return Arc::new(named);
        }
        let stack = Arc::new(named);
        if self.stacks.len() < MOST_STACKS {
            self.stacks.insert(key, stack.clone());
        }
        stack
    }

    fn say(&self, news: News) {
        // Nobody listens any more: the run is over.
        let _ = self.tell.send(news);
    }
}

fn deed(pause: &Pause, stack: Option<Arc<Stack>>) -> Deed {
    let known = |ns: u64| (ns != 0).then_some(ns);
    let Pause { off_ns, woken_ns, on_ns, pid, tid, state, number, kind, since_ns, .. } = *pause;
    let Pause { ran_ns, blocked_ns, starved_ns, syscall, .. } = *pause;
    let before = known(since_ns).map(|since_ns| Sums { since_ns, ran_ns, blocked_ns, starved_ns });
    let what = if kind == ThreadKind::Gone as u32 {
        What::Gone { at_ns: off_ns, before }
    } else if kind == ThreadKind::Sample as u32 {
        What::Sampled { at_ns: off_ns, stack: stack.unwrap_or_default() }
    } else {
        What::Paused {
            number,
            before,
            off_ns: known(off_ns),
            woken_ns: known(woken_ns),
            on_ns: known(on_ns),
            runnable: state == 0,
            asked: WAITS.contains(&i64::from(syscall)) || stack.as_ref().is_some_and(|stack| stack.waits_for_events()),
            stack,
        }
    };
    Deed { pid, tid, what }
}
