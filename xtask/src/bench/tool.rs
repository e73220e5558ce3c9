//! A tracing tool while it runs: started, waited for, watched and ended.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::contender::Ready;
use super::proc;

/// bpftrace compiles its program first.
const READY_WITHIN: Duration = Duration::from_secs(20);
const END_WITHIN: Duration = Duration::from_secs(20);
/// How long a tool may go on printing what it has read already.
const QUIET_WITHIN: Duration = Duration::from_secs(5);
/// A tool that neither printed nor used CPU for so long has nothing left to print.
const QUIET_FOR: Duration = Duration::from_millis(200);
/// A diagnosis that found something: no failure.
const FINDINGS: i32 = 1;
const POLL: Duration = Duration::from_millis(2);

/// A running tool. Dropping it kills it: nothing outlives the benchmark.
pub(super) struct Tool {
    child: Child,
    output: PathBuf,
    stderr: Receiver<String>,
    said: Vec<String>,
    /// What it used until it was ready: loading programs is not part of what tracing costs.
    cpu_when_ready: f64,
    /// From its start until it was attached.
    pub(super) started_in: Duration,
}

/// What is left of a tool.
pub(super) struct Ended {
    /// Its standard error, line by line.
    pub(super) said: Vec<String>,
    /// CPU time since it was ready.
    pub(super) cpu_seconds: f64,
    pub(super) peak_resident_mib: f64,
    pub(super) output_bytes: u64,
}

impl Tool {
    /// Starts the tool with its standard output in a file, and waits until it is attached.
    pub(super) fn start(mut command: Command, output: &Path, ready: Ready) -> Result<Self> {
        let file = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
        let began = Instant::now();
        command.stdin(Stdio::null()).stdout(file).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot be started: is it built and executable?")?;
        let stderr = child.stderr.take().map(lines_of).context("has no standard error")?;
        let output = output.to_path_buf();
        let mut tool =
            Self { child, output, stderr, said: Vec::new(), cpu_when_ready: 0.0, started_in: Duration::ZERO };
        match ready {
            Ready::Announced => tool.wait_for_announcement(began, "tracing ")?,
            Ready::Listening => tool.wait_for_announcement(began, "listening on ")?,
            Ready::Polling => tool.wait_for_polling(began)?,
        }
        tool.started_in = began.elapsed();
        tool.cpu_when_ready = proc::cpu_seconds(tool.pid())?;
        Ok(tool)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_for_announcement(&mut self, began: Instant, words: &str) -> Result<()> {
        loop {
            match self.stderr.recv_timeout(READY_WITHIN.saturating_sub(began.elapsed())) {
                Ok(line) => {
                    // tcpdump says its name first.
                    let announced = line.strip_prefix("tcpdump: ").unwrap_or(&line).starts_with(words);
                    let by_polling = line.starts_with("tracing by polling");
                    self.said.push(line);
                    if by_polling {
                        bail!("fell back to polling, which is not what is measured here: {}", self.last_words());
                    }
                    if announced {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => bail!("ended before it was attached: {}", self.last_words()),
                Err(RecvTimeoutError::Timeout) => bail!("did not say `{words}` in time: {}", self.last_words()),
            }
        }
    }

    fn wait_for_polling(&mut self, began: Instant) -> Result<()> {
        while began.elapsed() < READY_WITHIN {
            if self.child.try_wait().context("is gone")?.is_some() {
                bail!("ended before it was attached: {}", self.last_words());
            }
            // The process may end between the question above and these.
            let holds_program = proc::bpf_programs(self.pid()).is_ok_and(|programs| !programs.is_empty());
            if holds_program && proc::is_polling(self.pid()).unwrap_or(false) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        bail!("did not attach in time: {}", self.last_words())
    }

    /// Waits until the tool has printed everything that it has read, or five seconds have passed.
    pub(super) fn wait_until_quiet(&self) -> Result<()> {
        let began = Instant::now();
        let mut last = (0, 0.0);
        let mut unchanged_since = Instant::now();
        while began.elapsed() < QUIET_WITHIN && unchanged_since.elapsed() < QUIET_FOR {
            thread::sleep(QUIET_FOR / 10);
            let now = (file_length(&self.output)?, proc::cpu_seconds(self.pid())?);
            if now != last {
                last = now;
                unchanged_since = Instant::now();
            }
        }
        Ok(())
    }

    /// Interrupts the tool, as Ctrl-C does, and waits for its end.
    pub(super) fn end(mut self) -> Result<Ended> {
        let peak_resident_mib = proc::peak_resident_mib(self.pid())?;
        let before = children_cpu_seconds()?;
        kill(self.nix_pid()?, Signal::SIGINT).context("cannot be interrupted")?;
        let status = self.wait_for_end()?;
        // Reaping adds a child's whole CPU time to its parent's children; nothing else is reaped here.
        let cpu_seconds = (children_cpu_seconds()? - before - self.cpu_when_ready).max(0.0);
        self.said.extend(self.stderr.iter());
        if status.code().is_some_and(|code| code != 0 && code != FINDINGS) {
            bail!("ended with {status}: {}", self.last_words());
        }
        let said = std::mem::take(&mut self.said);
        Ok(Ended { said, cpu_seconds, peak_resident_mib, output_bytes: file_length(&self.output)? })
    }

    fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < END_WITHIN {
            if let Some(status) = self.child.try_wait().context("is gone")? {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
        bail!("does not end on SIGINT: {}", self.last_words())
    }

    fn nix_pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.pid()).context("has an impossible process id")?))
    }

    /// The last lines of its standard error, for messages.
    fn last_words(&mut self) -> String {
        self.said.extend(self.stderr.try_iter());
        let lines = &self.said[self.said.len().saturating_sub(3)..];
        if lines.is_empty() { "it said nothing".to_owned() } else { lines.join(" | ") }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // Both fail when the tool has ended already, which is as it should be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stderr: std::process::ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn file_length(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("{} is gone", path.display()))?.len())
}

/// CPU time of all children that have ended and were waited for.
fn children_cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage failed")?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("sockwatch-xtask-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_tool_is_waited_for_and_ended() {
        let output = scratch("tool");
        let text = "trap 'echo \"sockwatch: events=1\" >&2; exit 0' INT; echo loading >&2; printf 12345; \
                    echo tracing now >&2; while :; do :; done";
        let tool = Tool::start(script(text), &output, Ready::Announced).unwrap();
        let ended = tool.end().unwrap();
        std::fs::remove_file(&output).unwrap();
        assert_eq!(ended.said, ["loading", "tracing now", "sockwatch: events=1"]);
        assert_eq!(ended.output_bytes, 5);
    }

    #[test]
    fn a_tool_that_fails_is_quoted() {
        let output = scratch("failing");
        let error = Tool::start(script("echo no permission >&2; exit 1"), &output, Ready::Announced).err().unwrap();
        std::fs::remove_file(&output).unwrap();
        assert_eq!(error.to_string(), "ended before it was attached: no permission");
    }
}
