//! A running `sockwatch serve`, for those who look at it from outside.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::shell;

/// Whatever takes longer is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with this one.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, perhaps.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The debug build's `sockwatch serve` for one port, and where it answers.
pub(crate) fn serve(workspace: &Path, port: u16) -> Result<(Running, SocketAddr)> {
    serve_by(&shell::target_directory(workspace).join("debug/sockwatch"), port)
}

/// The same of another build.
pub(crate) fn serve_by(program: &Path, port: u16) -> Result<(Running, SocketAddr)> {
    let mut command = Command::new(program);
    command.args(["serve", "--source", "ebpf", "--listen", "127.0.0.1:0", "--port", &port.to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let stderr = child.stderr.take().context("no standard error")?;
    let service = Running(child);
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    let mut said = Vec::new();
    let address = lines.find_map(|line| {
        let address = line.strip_prefix("serving http://").and_then(|rest| rest.split('/').next()?.parse().ok());
        said.push(line);
        address
    });
    // What it says later must not fill the pipe.
    thread::spawn(move || lines.for_each(drop));
    Ok((service, address.with_context(|| format!("`sockwatch serve` does not serve: {}", said.join("; ")))?))
}

/// Ends it by SIGTERM, as a service manager does.
pub(crate) fn end(service: &mut Running) -> Result<()> {
    let pid = i32::try_from(service.0.id()).context("no such process id")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot end `sockwatch serve`")?;
    let status = service.0.wait().context("cannot wait for `sockwatch serve`")?;
    ensure!(status.success(), "`sockwatch serve` ended with {status}");
    Ok(())
}

/// The body. HTTP/1.0: it comes in one piece, up to the connection's end.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut client = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    client.set_read_timeout(Some(PATIENCE)).context("cannot limit the time")?;
    write!(client, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").context("cannot ask")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).context("cannot read the answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{address}{path}: {head}");
    Ok(body.to_owned())
}
