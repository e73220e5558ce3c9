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
        let left = patience.whole.saturating_sub(began.elapsed()).min(patience.silence);
        match lines.recv_timeout(left) {
            Ok(line) => {
                writeln!(log, "{line}").context("cannot write the console's log")?;
                seen.note(&line);
                each(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if began.elapsed() < patience.whole => {
                return Ok(Err(seen.silent(patience.silence.as_secs())));
            }
            Err(RecvTimeoutError::Timeout) => {
                return Ok(Err(Failure::TooLong(patience.whole.as_secs(), seen.last)));
            }
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
    let (sender, receiver) = mpsc::channel();
    forward(console, sender.clone());
    forward(complaints, sender);
    Ok(receiver)
}

fn forward(from: impl std::io::Read + Send + 'static, to: mpsc::Sender<String>) {
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
    use std::os::unix::process::ExitStatusExt;

    fn verdict(console: &[&str], status: i32) -> Result<i32, Failure> {
        let mut seen = Seen::default();
        console.iter().for_each(|line| seen.note(line));
        seen.verdict(ExitStatus::from_raw(status))
    }

    #[test]
    fn each_end_is_told_apart() {
        let started = "@sockwatch started 6.1";
        assert_eq!(verdict(&[started, "@sockwatch done 0"], 0), Ok(0));
        assert_eq!(verdict(&[started, "@sockwatch done 3"], 0), Ok(3));
        assert!(matches!(verdict(&["SeaBIOS"], 0), Err(Failure::NeverStarted(_))));
        let panic = "[    4.2] Kernel panic - not syncing: sysrq triggered crash";
        assert_eq!(verdict(&[started, panic, "x"], 0), Err(Failure::Panicked("sysrq triggered crash".into())));
        let killed = verdict(&[started, "test a ... ok"], 9);
        assert_eq!(killed, Err(Failure::Died("signal: 9 (SIGKILL)".into(), "test a ... ok".into())));
    }
}
