//! A place where servers are made ill, or left well, and looked at.

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Instant,
};

use super::server::{Language, Workshop};
use crate::{
    diagnose::{Diagnosis, Verdict, begin_connecting},
    harness::{patience, skip},
    netns::Netns,
};

pub(super) const HEALTHY: &str = "healthy";

/// A server and its clients.
pub(super) struct Patient {
    pub(super) name: String,
    /// What must be found first; or that it is healthy.
    pub(super) must: &'static str,
    /// What follows from that, and must be found, too.
    pub(super) also: Option<&'static str>,
    pub(super) language: Language,
    treat: Treatment,
}

/// Makes the server, lets clients come, and diagnoses it; `None` where that cannot be.
type Treatment = Box<dyn Fn(&Ward) -> Option<Seen>>;

/// What was diagnosed, and what the finding must name.
pub(super) struct Seen {
    pub(super) verdict: Verdict,
    pub(super) names: Vec<String>,
}

/// What a patient got.
pub(super) enum Score {
    Right { got: String },
    Wrong { got: String, why: String },
    Skipped { why: String },
}

/// Whatever patients need.
pub(super) struct Ward {
    pub(super) workshop: Workshop,
}

impl Patient {
    pub(super) fn ill(
        must: &'static str,
        language: Language,
        name: impl Into<String>,
        treat: impl Fn(&Ward) -> Option<Seen> + 'static,
    ) -> Self {
        let name = format!("{must}, {language:?}: {}", name.into());
        Self { name, must, also: None, language, treat: Box::new(treat) }
    }

    pub(super) fn healthy(language: Language, name: &str, treat: impl Fn(&Ward) -> Option<Verdict> + 'static) -> Self {
        Self::ill(HEALTHY, language, name, move |ward| Some(treat(ward)?.naming([])))
    }

    /// What follows from it.
    pub(super) fn and(mut self, also: &'static str) -> Self {
        self.name = format!("{also} after {}", self.name);
        self.also = Some(also);
        self
    }

    /// The finding that it is a variant of.
    pub(super) fn row(&self) -> String {
        self.also.map_or(self.must.to_owned(), |also| format!("{also} after {}", self.must))
    }

    pub(super) fn score(&self, ward: &Ward) -> Score {
        if let Some(why) = ward.workshop.lacks(self.language) {
            return Score::Skipped { why };
        }
        match catch_unwind(AssertUnwindSafe(|| (self.treat)(ward))) {
            Err(_) => Score::Wrong { got: "panicked".into(), why: "see above".into() },
            Ok(None) => Score::Skipped { why: "this kernel does not tell enough".into() },
            Ok(Some(seen)) => self.judge(&seen),
        }
    }

    fn judge(&self, seen: &Seen) -> Score {
        let Seen { verdict, names } = seen;
        let report = &verdict.report;
        let findings = report["findings"].as_array().unwrap();
        let word = |index: usize| findings.get(index).and_then(|finding| finding["name"].as_str());
        let got = word(0).unwrap_or(report["verdict"].as_str().unwrap()).to_owned();
        let is_unwatched = || report["listeners"].as_array().unwrap().iter().all(|it| it["blame"].is_null());
        if self.must.starts_with("acceptor-") && is_unwatched() {
            return Score::Skipped { why: "this kernel lets nobody watch threads".into() };
        }
        let code = if self.must == HEALTHY { 0 } else { 1 };
        let said = findings.first().map_or(String::new(), |finding| finding.to_string());
        let unnamed: Vec<_> = names.iter().filter(|name| !said.contains(name.as_str())).collect();
        let follows = (0..findings.len()).any(|index| self.also.is_some() && word(index) == self.also);
        let why = match () {
            () if got != self.must => "it is something else".to_owned(),
            () if verdict.code != Some(code) => format!("its exit code is {:?}", verdict.code),
            () if self.also.is_some() && !follows => "what follows from it is not found".into(),
            () if !unnamed.is_empty() => format!("it does not name {unnamed:?}"),
            () => return Score::Right { got },
        };
        let mut report = report.clone();
        report["listeners"].as_array_mut().unwrap().iter_mut().for_each(|it| it["course"] = "left out".into());
        Score::Wrong { got, why: format!("{why}: {report:#}") }
    }
}

impl Verdict {
    /// With what its finding must name.
    pub(super) fn naming<const COUNT: usize>(self, names: [&str; COUNT]) -> Seen {
        Seen { verdict: self, names: names.map(str::to_owned).into() }
    }
}

impl Ward {
    /// Begins to diagnose.
    pub(super) fn diagnose(&self, arguments: &[&str]) -> Option<Diagnosis> {
        const NAME: &str = "a patient";
        let diagnosis = Diagnosis::begin(NAME, arguments, None)?;
        let missing = ["enqueue", "accept-return"].into_iter().find(|probe| !diagnosis.probes.has(probe));
        let Some(missing) = missing else { return Some(diagnosis) };
        diagnosis.interrupt();
        skip(NAME, &format!("without the {missing} probe"));
        None
    }

    /// The same of both ends at a server's port.
    pub(super) fn diagnose_port(&self, address: SocketAddr) -> Option<Diagnosis> {
        self.diagnose(&["--port", &address.port().to_string()])
    }

    /// The same of the server's ends only, for so long: its clients misbehave on purpose.
    pub(super) fn diagnose_server(&self, address: SocketAddr, duration: &str) -> Option<Diagnosis> {
        self.diagnose(&["--local-port", &address.port().to_string(), "--duration", duration])
    }

    /// The same in a namespace; a wait is slow only if it is long.
    pub(super) fn diagnose_netns(&self, netns: &Netns, duration: &str) -> Option<Diagnosis> {
        self.diagnose(&["--netns", &netns.name, "--duration", duration, "--slow", "500ms"])
    }
}

/// So many clients, each connected.
pub(super) fn clients(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// They close when their server has, or is gone.
pub(super) fn close_in_turn(clients: impl IntoIterator<Item = TcpStream>) {
    for mut client in clients {
        client.set_nonblocking(false).unwrap();
        thread::spawn(move || {
            let _end = client.read(&mut [0]);
        });
    }
}

/// So many clients that have begun to connect.
pub(super) fn beginners(address: SocketAddr, count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| begin_connecting(address)).collect()
}

/// Waits until the calling thread's namespace has so many sockets at this port in that state (`01` `ESTABLISHED`, `03`
/// `SYN_RECV`).
pub(super) fn until(port: u16, state: &str, count: usize) {
    let asked = Instant::now();
    let local = format!(":{port:04X}");
    loop {
        let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = fields.filter(|it| it[1].ends_with(&local) && it[3] == state).count();
        if found >= count {
            return;
        }
        assert!(asked.elapsed() < patience(), "only {found} of {count} in state {state}");
        thread::yield_now();
    }
}
