//! Where a thread was, by name.

/// A function of a thread's own code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Its name, or its address where that is not known.
    pub name: String,
    /// The file that it is from, without its directory; `None` for code that was made at run time.
    pub module: Option<String>,
}

/// Where a thread was, the innermost function first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stack {
    /// The kernel's functions.
    pub kernel: Vec<String>,
    /// Its own.
    pub user: Vec<Frame>,
}

/// System calls that take a connection from the queue.
const ACCEPTS: [&str; 2] = ["accept4", "accept"];

/// System calls that wait for any of several events.
const WAITS: [&str; 8] =
    ["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "io_uring_enter"];

/// Where a thread is that a signal, a debugger or the freezer of its cgroup has stopped (kernel/signal.c, kernel/freezer.c).
const STOPS: [&str; 4] = ["do_signal_stop", "ptrace_stop", "do_freezer_trap", "__refrigerator"];

/// Libraries that everybody calls: who called them is more telling.
const LIBRARIES: [&str; 7] = ["libc.", "libc-", "libpthread", "ld-linux", "ld-musl", "libstdc++", "[vdso]"];

/// The same of a language's own library.
const PREFIXES: [&str; 8] =
    ["std::", "core::", "alloc::", "<std::", "<core::", "<alloc::", "__rust", "tokio::runtime::"];

impl Stack {
    /// The system call that it was in.
    pub fn syscall(&self) -> Option<&str> {
        let name = |function: &'_ String| -> Option<String> {
            let (_, name) = function.split_once("_sys_")?;
            function.starts_with("__").then(|| name.to_owned())
        };
        let function = self.kernel.iter().find(|function| name(function).is_some())?;
        function.split_once("_sys_").map(|(_, name)| name)
    }

    /// Whether it was taking a connection from a queue.
    pub fn is_accepting(&self) -> bool {
        self.syscall().is_some_and(|name| ACCEPTS.contains(&name))
    }

    /// Whether it did nothing because it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.kernel.iter().any(|function| STOPS.contains(&function.as_str()))
    }

    /// Whether it waited for one of several events.
    pub fn waits_for_events(&self) -> bool {
        self.syscall().is_some_and(|name| WAITS.contains(&name))
    }

    /// Whether it slept until somebody comes, or something else happens: the kernel wakes one of those that do, or each.
    pub fn is_idle(&self) -> bool {
        !self.is_stopped() && (self.is_accepting() || self.waits_for_events())
    }

    /// The function that answers for it: of code made at run time, if there is some, else the innermost that is not a library's.
    pub fn function(&self) -> Option<&str> {
        let known = || self.user.iter().filter(|frame| !frame.name.starts_with("0x"));
        let scripts = || known().filter(|frame| frame.module.is_none() && is_script(&frame.name));
        let made = scripts().find(|frame| !is_standard(&frame.name)).or_else(|| scripts().next());
        let own = || known().find(|frame| !is_library(frame));
        made.or_else(own).or_else(|| known().next()).map(|frame| frame.name.as_str())
    }

    /// The same in words: `guilty (clock_nanosleep)`.
    pub fn words(&self) -> String {
        match (self.function(), self.syscall()) {
            (Some(function), Some(syscall)) if function != syscall => format!("{function} ({syscall})"),
            (Some(function), _) => function.to_owned(),
            (None, Some(syscall)) => syscall.to_owned(),
            (None, None) => self.kernel.first().cloned().unwrap_or_else(|| "a function without a name".into()),
        }
    }

    /// Its functions, the innermost first, as one line; at most so many.
    pub fn line(&self, most: usize) -> String {
        let mut names: Vec<_> = self.user.iter().take(most).map(|frame| frame.name.as_str()).collect();
        if self.user.len() > most {
            names.push("...");
        }
        names.join(" < ")
    }

    /// The stack as flame graphs take it: the outermost first, then the kernel's.
    pub fn folded(&self) -> String {
        let user = self.user.iter().rev().map(|frame| frame.name.replace(';', ":"));
        user.chain(self.kernel.iter().rev().map(|name| format!("{name}_[k]"))).collect::<Vec<_>>().join(";")
    }
}

/// As python and node call what they make at run time.
fn is_script(name: &str) -> bool {
    ["py::", "JS:", "LazyCompile:", "Function:", "Script:"].iter().any(|prefix| name.starts_with(prefix))
}

/// From the library that comes with python or node: `py::wait:/usr/lib/python3.12/threading.py`, `JS:*emit node:events:511`.
fn is_standard(name: &str) -> bool {
    let python = ["/lib/python3.", "/lib64/python3.", ":<frozen "].iter().any(|path| name.contains(path));
    (python && !name.contains("/site-packages/")) || name.contains(" node:")
}

fn is_library(frame: &Frame) -> bool {
    let by_module = |module: &String| LIBRARIES.iter().any(|library| module.starts_with(library));
    frame.module.as_ref().is_some_and(by_module) || PREFIXES.iter().any(|prefix| frame.name.starts_with(prefix))
}
