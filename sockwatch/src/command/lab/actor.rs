//! Processes of labs that do what they are told: this program once more, for what takes a process to show (who owns,
//! who dies). Commands come on standard input, answers go back on it; standard output is what was handed over.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context, bail};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use super::sockets::listen;
use crate::cli::ActorArgs;

/// A process on strings; killed on drop.
pub(super) struct Actor {
    child: Child,
    strings: BufReader<UnixStream>,
}

impl Actor {
    /// A process of this name.
    pub(super) fn start(name: &str) -> anyhow::Result<Self> {
        Self::spawn(name, Stdio::null())
    }

    /// A process of this name that holds this socket, as after fork().
    pub(super) fn holding(name: &str, socket: impl Into<OwnedFd>) -> anyhow::Result<Self> {
        Self::spawn(name, socket.into().into())
    }

    fn spawn(name: &str, handed_over: Stdio) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot make strings")?;
        let child = Command::new("/proc/self/exe")
            .args(["lab-actor", name])
            .stdin(OwnedFd::from(theirs))
            .stdout(handed_over)
            .spawn()
            .context("cannot start a process")?;
        let mut actor = Self { child, strings: BufReader::new(ours) };
        actor.tell("hello")?;
        Ok(actor)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it a command and waits until it is done.
    pub(super) fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        match self.ask(command)?.as_str() {
            "ok" => Ok(()),
            answer => bail!("{command}: {answer}"),
        }
    }

    /// Tells it a command; its answer is `ok` or what went wrong.
    pub(super) fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.strings.get_mut(), "{command}").context("the process is gone")?;
        let mut answer = String::new();
        self.strings.read_line(&mut answer).context("the process is gone")?;
        Ok(answer.trim_end().to_owned())
    }

    /// Kills it, and waits until it is gone.
    pub(super) fn kill(mut self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).context("no such process id")?;
        kill(Pid::from_raw(pid), signal).context("cannot kill the process")?;
        self.child.wait().context("cannot wait for the process").map(|_| ())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Already gone, unless the lab failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `sockwatch lab-actor NAME`
pub(crate) fn play(args: &ActorArgs) -> anyhow::Result<ExitCode> {
    fs::write("/proc/self/comm", &args.name).context("cannot take the name")?;
    let strings = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut answers = strings.try_clone()?;
    let mut hands = Hands::default();
    for command in BufReader::new(strings).lines() {
        let answer = match hands.obey(&command?) {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("{error}"),
        };
        writeln!(answers, "{answer}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What an actor holds.
#[derive(Default)]
struct Hands {
    listener: Option<TcpListener>,
    streams: Vec<TcpStream>,
}

impl Hands {
    fn obey(&mut self, command: &str) -> io::Result<()> {
        let mut words = command.split(' ');
        let verb = words.next().unwrap_or_default();
        let mut object = || words.next().ok_or_else(|| io::Error::other("what?"));
        match verb {
            "hello" => {}
            "listen" => self.listener = Some(listen(object()?.parse().map_err(io::Error::other)?, 128)?),
            "take-listener" => self.listener = Some(handed_over()?.into()),
            "take-stream" => self.streams.push(handed_over()?.into()),
            "accept" => {
                let listener = self.listener.as_ref().ok_or_else(|| io::Error::other("no listener"))?;
                self.streams.push(listener.accept()?.0);
            }
            "connect" => self.streams.push(TcpStream::connect(object()?)?),
            "say" => self.oldest()?.write_all(object()?.as_bytes())?,
            // All that comes, up to the FIN.
            "read-all" => drop(io::copy(&mut self.oldest()?, &mut io::sink())?),
            // Waits for bytes, and leaves them unread.
            "peek" => drop(self.oldest()?.peek(&mut [0])?),
            "read" => drop(self.oldest()?.read(&mut [0; 64])?),
            "read-last" => drop(self.streams.last().ok_or_else(no_connection)?.read(&mut [0; 64])?),
            "shutdown" => self.oldest()?.shutdown(Shutdown::Write)?,
            "close" => drop(self.streams.drain(..1)),
            "descriptors" => {
                let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
                setrlimit(Resource::RLIMIT_NOFILE, object()?.parse().map_err(io::Error::other)?, hard)?;
            }
            unknown => return Err(io::Error::other(format!("cannot {unknown}"))),
        }
        Ok(())
    }

    fn oldest(&mut self) -> io::Result<&mut TcpStream> {
        self.streams.first_mut().ok_or_else(no_connection)
    }
}

fn no_connection() -> io::Error {
    io::Error::other("no connection")
}

/// The only one: standard output keeps none.
fn handed_over() -> io::Result<OwnedFd> {
    let socket = io::stdout().as_fd().try_clone_to_owned()?;
    let nowhere = fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(nowhere)?;
    Ok(socket)
}
