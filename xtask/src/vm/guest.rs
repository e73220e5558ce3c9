//! A running guest: its console line by line, and how it ended.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Lines of the guest's init that are meant for the host begin so.
pub(crate) const MARK: &str = "@sockwatch ";

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing of ours ran: worth another try.
    #[error("the guest did not start (QEMU: {0})")]
    NeverStarted(String),
    /// The kernel's own words.
    #[error("the guest's kernel panicked: {0}")]
    Panicked(String),
    /// Silence.
    #[error("the guest hangs: silent for {0} s since: {1}")]
    Hung(u64, String),
    /// Loud, and endless.
    #[error("the guest does not finish: stopped after {0} s at: {1}")]
    TooLong(u64, String),
    /// Gone without a word.
    #[error("the guest was killed, or crashed ({0}), after: {1}")]
    Died(String, String),
}

/// Lines that wait to be looked at; a guest that is faster waits, too.
const WAITING_LINES: usize = 1024;

/// How long a guest may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) silence: Duration,
    pub(crate) whole: Duration,
}

/// Runs a guest until it is done, gives `each` line of its console; returns the status that its init announced.
pub(crate) fn run(
    mut boot: Command,
    log: &Path,
    patience: Patience,
    mut each: impl FnMut(&str),
) -> Result<Result<i32, Failure>> {
    let mut log = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let child = boot.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut qemu = Qemu(child.context("cannot start QEMU: is it installed?")?);
    let lines = read_lines(&mut qemu.0)?;
    let began = Instant::now();
    let mut seen = Seen::default();
    loop {
        let left = patience.whole.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(Err(Failure::TooLong(patience.whole.as_secs(), seen.last)));
        }
        match lines.recv_timeout(left.min(patience.silence)) {
            Ok(line) => {
                writeln!(log, "{line}").context("cannot write the console's log")?;
                seen.note(&line);
                each(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if left > patience.silence => {
                return Ok(Err(seen.silent(patience.silence.as_secs())));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    let status = qemu.0.wait().context("QEMU is gone")?;
    Ok(seen.verdict(status))
}

/// Killed on drop: nothing keeps running behind a failure.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Already gone, unless it hung.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What matters of the console so far.
#[derive(Debug, Default)]
struct Seen {
    started: bool,
    done: Option<i32>,
    panic: Option<String>,
    last: String,
}

impl Seen {
    fn note(&mut self, line: &str) {
        if let Some(told) = line.strip_prefix(MARK) {
            self.started |= told.starts_with("started");
            if let Some(status) = told.strip_prefix("done ") {
                self.done = status.parse().ok();
            }
        }
        if self.panic.is_none()
            && let Some(at) = line.find("Kernel panic - not syncing: ")
        {
            self.panic = Some(line[at..].trim_start_matches("Kernel panic - not syncing: ").to_owned());
        }
        if !line.trim().is_empty() {
            line.clone_into(&mut self.last);
        }
    }

    fn silent(self, seconds: u64) -> Failure {
        match self {
            Self { panic: Some(panic), .. } => Failure::Panicked(panic),
            Self { started: false, last, .. } => Failure::NeverStarted(format!("silent for {seconds} s; {last}")),
            Self { last, .. } => Failure::Hung(seconds, last),
        }
    }

    fn verdict(self, status: ExitStatus) -> Result<i32, Failure> {
        match self {
            Self { panic: Some(panic), .. } => Err(Failure::Panicked(panic)),
            Self { done: Some(done), .. } => Ok(done),
            Self { started: false, last, .. } => Err(Failure::NeverStarted(format!("{status}; {last}"))),
            Self { last, .. } => Err(Failure::Died(status.to_string(), last)),
        }
    }
}

/// The console and QEMU's own complaints.
fn read_lines(child: &mut Child) -> Result<Receiver<String>> {
    let console = child.stdout.take().context("QEMU has no standard output")?;
    let complaints = child.stderr.take().context("QEMU has no standard error")?;
    let (sender, receiver) = mpsc::sync_channel(WAITING_LINES);
    forward(console, sender.clone());
    forward(complaints, sender);
    Ok(receiver)
}

fn forward(from: impl std::io::Read + Send + 'static, to: mpsc::SyncSender<String>) {
    thread::spawn(move || {
        // A crashing guest may print anything.
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if to.send(line).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell script in the place of QEMU.
    fn guest(script: &str, silence_ms: u64, whole_ms: u64) -> (Vec<String>, Result<i32, Failure>) {
        static LOGS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = LOGS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let log = std::env::temp_dir().join(format!("sockwatch-guest-{}-{number}.log", std::process::id()));
        let mut boot = Command::new("sh");
        boot.args(["-c", script]);
        let patience = Patience { silence: Duration::from_millis(silence_ms), whole: Duration::from_millis(whole_ms) };
        let mut lines = Vec::new();
        let ended = run(boot, &log, patience, |line| lines.push(line.to_owned()));
        let logged = std::fs::read_to_string(&log).unwrap_or_default();
        drop(std::fs::remove_file(&log));
        assert_eq!(logged.lines().collect::<Vec<_>>(), lines, "the log is the console");
        (lines, ended.unwrap_or_else(|error| panic!("{error:#}")))
    }

    const LONG: u64 = 20_000;

    #[test]
    fn a_status_is_passed_on() {
        let (lines, ended) = guest("echo '@sockwatch started 6.1'; echo x; echo '@sockwatch done 3'", LONG, LONG);
        assert_eq!(ended, Ok(3));
        assert_eq!(lines[1], "x");
    }

    #[test]
    fn what_never_started_is_worth_another_try() {
        let (_, ended) = guest("echo SeaBIOS; exit 1", LONG, LONG);
        assert_eq!(ended, Err(Failure::NeverStarted("exit status: 1; SeaBIOS".into())));
        let (_, ended) = guest("exec tail -f /dev/null", 50, LONG);
        assert!(matches!(ended, Err(Failure::NeverStarted(_))), "{ended:?}");
    }

    #[test]
    fn a_panic_says_what_the_kernel_said() {
        let panic =
            "echo '@sockwatch started 6.1'; echo '[ 4.2] Kernel panic - not syncing: sysrq triggered crash'; echo x";
        assert_eq!(guest(panic, LONG, LONG).1, Err(Failure::Panicked("sysrq triggered crash".into())));
        let silent = format!("{panic}; exec tail -f /dev/null");
        assert_eq!(guest(&silent, 50, LONG).1, Err(Failure::Panicked("sysrq triggered crash".into())));
    }

    #[test]
    fn a_killed_guest_says_after_what() {
        let (_, ended) = guest("echo '@sockwatch started 6.1'; echo 'test a ... ok'; kill -9 $$", LONG, LONG);
        assert_eq!(ended, Err(Failure::Died("signal: 9 (SIGKILL)".into(), "test a ... ok".into())));
    }

    #[test]
    fn a_hang_is_silence_and_an_endless_guest_is_not() {
        let (_, ended) = guest("echo '@sockwatch started 6.1'; exec tail -f /dev/null", 50, LONG);
        assert_eq!(ended, Err(Failure::Hung(0, "@sockwatch started 6.1".into())));
        let (_, ended) = guest("echo '@sockwatch started 6.1'; while echo on; do :; done", LONG, 50);
        assert!(matches!(ended, Err(Failure::TooLong(..))), "{ended:?}");
    }
}
