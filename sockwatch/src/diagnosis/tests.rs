//! Text in, text out: a server's story, through a tracker, and what is found.

mod counted;
mod handshakes;
mod healthy;
mod looks;
mod ports;
mod resets;
mod sick;

use super::{finding::Finding, *};
use crate::tcp::{
    endpoint::Endpoint,
    event::{Certainty, CloseEvidence, Comm, Event, EventKind, Incident, Occasion, Task},
    queue::{Follows, NamespaceDrops, QueueRecord, Verdict},
    tracker::Tracker,
};

const MS: u64 = 1_000_000;

/// Times of stories count from here, so that there is a time before them.
const BEGAN_NS: u64 = 1_000_000 * MS;

/// A server and its clients, told to a diagnosis event by event, in the order of their times.
struct Story {
    tracker: Tracker,
    diagnosis: Diagnosis,
    events: Vec<Event>,
    settings: HashMap<u32, Settings>,
    looks: Vec<Look>,
}

fn task(name: &str) -> Task {
    let pid = 100 + u32::from(name.as_bytes()[0]);
    Task { pid, tid: pid, comm: Comm::from(name) }
}

impl Story {
    fn new() -> Self {
        Self {
            tracker: Tracker::default(),
            diagnosis: Diagnosis::new(BEGAN_NS, 100 * MS),
            events: Vec::new(),
            settings: HashMap::new(),
            looks: Vec::new(),
        }
    }

    fn push(&mut self, at_ms: f64, cookie: u64, kind: EventKind) {
        let server = Endpoint::v4([127, 0, 0, 1], 80);
        let client = Endpoint::v4([127, 0, 0, 1], 5000 + (cookie % 50_000) as u16);
        let remote = if cookie < 10 { Endpoint::v4([0; 4], 0) } else { client };
        let at_ns = BEGAN_NS + (at_ms * MS as f64) as u64;
        let key = SocketKey { netns: 1, cookie };
        let tuple = Some((server, remote));
        self.events.push(Event { at_ns, key, skaddr: cookie, tuple, kind, certainty: Certainty::Once });
    }

    fn incident(&mut self, at_ms: f64, cookie: u64, incident: Incident) {
        self.push(at_ms, cookie, EventKind::Incident(incident));
    }

    /// Cookies below 10 are listeners.
    fn listen(&mut self, at_ms: f64, listener: u64, backlog: u32, by: &str) {
        let opening = EventKind::Opening { new: TcpState::Listen, by: task(by), limit: Some(backlog) };
        self.push(at_ms, listener, opening);
    }

    fn arrive(&mut self, at_ms: f64, client: u64, listener: u64) {
        self.arrive_after(at_ms, client, listener, 0.02, 0);
    }

    fn arrive_after(&mut self, at_ms: f64, client: u64, listener: u64, handshake_ms: f64, synack_retransmits: u32) {
        let synack = BEGAN_NS + (at_ms * MS as f64) as u64 - (handshake_ms * MS as f64) as u64;
        self.push(at_ms, client, EventKind::Birth { queue: None });
        let established = (TcpState::SynRecv, TcpState::Established);
        self.push(at_ms, client, EventKind::Transition { old: established.0, new: established.1, by: None });
        let enqueue = EventKind::Enqueue { listener: Some(listener), synack_at_ns: Some(synack), synack_retransmits };
        self.push(at_ms, client, enqueue);
    }

    fn accept(&mut self, at_ms: f64, client: u64, listener: u64, by: &str) {
        self.push(at_ms, client, EventKind::Accept { by: task(by), fd: Some(7), listener: Some(listener) });
    }

    /// The client's FIN.
    fn fin(&mut self, at_ms: f64, client: u64) {
        let step = EventKind::Transition { old: TcpState::Established, new: TcpState::CloseWait, by: None };
        self.push(at_ms, client, step);
    }

    /// The server closes, after the client.
    fn close_second(&mut self, at_ms: f64, client: u64, by: &str) {
        let (old, new) = (TcpState::CloseWait, TcpState::LastAck);
        self.push(at_ms, client, EventKind::Transition { old, new, by: Some(task(by)) });
        let evidence = Some(CloseEvidence { all_acked: true, dead: true, done: true, ..CloseEvidence::default() });
        self.push(at_ms + 0.01, client, EventKind::Closing { old: new, current: task("x"), evidence });
        self.push(at_ms + 0.02, client, EventKind::Destroy);
    }

    /// The server closes first, and no FIN comes.
    fn close_first(&mut self, at_ms: f64, client: u64, by: &str) {
        let (old, new) = (TcpState::Established, TcpState::FinWait1);
        self.push(at_ms, client, EventKind::Transition { old, new, by: Some(task(by)) });
        let acked = (TcpState::FinWait1, TcpState::FinWait2);
        self.push(at_ms + 0.01, client, EventKind::Transition { old: acked.0, new: acked.1, by: None });
        let evidence =
            CloseEvidence { all_acked: true, dead: true, fin_timeout_ms: 60_000, ..CloseEvidence::default() };
        let closing = EventKind::Closing { old: acked.1, current: task("x"), evidence: Some(evidence) };
        self.push(at_ms + 0.02, client, closing);
        self.push(at_ms + 0.03, client, EventKind::Destroy);
    }

    /// The client's RST.
    fn rst(&mut self, at_ms: f64, client: u64) {
        let evidence = CloseEvidence { error: 104, ..CloseEvidence::default() };
        let closing = EventKind::Closing { old: TcpState::Established, current: task("x"), evidence: Some(evidence) };
        self.push(at_ms, client, closing);
    }

    fn fail(&mut self, at_ms: f64, listener: u64, by: &str, errno: i32) {
        self.incident(at_ms, listener, Incident::AcceptFailed { by: task(by), errno });
    }

    /// The kernel's word: so many dropped since the run began.
    fn drops(&mut self, at_ms: f64, listener: u64, (depth, limit): (u32, u32), drops: u32, somaxconn: u32) {
        let at_ns = BEGAN_NS + (at_ms * MS as f64) as u64;
        let namespace = NamespaceDrops { overflows: drops.into(), drops: drops.into(), ..NamespaceDrops::default() };
        let record = QueueRecord {
            from_ns: at_ns,
            to_ns: at_ns,
            depth,
            limit,
            drops: Some(drops),
            somaxconn: Some(somaxconn),
            namespace,
            follows: Follows::All,
        };
        self.push(at_ms, listener, EventKind::QueueFound { record, verdict: Verdict::Agrees });
    }

    fn report(self, now_ms: f64) -> Report {
        let now_ns = BEGAN_NS + (now_ms * MS as f64) as u64;
        let (looks, settings) = (self.looks.clone(), self.settings.clone());
        let mut diagnosis = self.told(now_ms);
        diagnosis.look(looks);
        diagnosis.report(now_ns, &Totals::default(), &settings)
    }

    /// The diagnosis, with all updates taken in.
    fn told(mut self, now_ms: f64) -> Diagnosis {
        let mut updates = Vec::new();
        self.events.sort_by_key(|event| event.at_ns);
        for event in &self.events {
            self.tracker.apply(event, &mut updates);
            self.tracker.expire(event.at_ns, &mut updates);
        }
        let now_ns = BEGAN_NS + (now_ms * MS as f64) as u64;
        self.tracker.settle_all(now_ns, &mut updates);
        updates.iter().for_each(|update| self.diagnosis.take(update));
        self.diagnosis
    }

    /// The findings' names, the worst first, must be these.
    #[track_caller]
    fn check(self, now_ms: f64, expected: &[&str]) -> Report {
        let report = self.report(now_ms);
        let names: Vec<_> = report.findings.iter().map(|finding| finding.name.word()).collect();
        assert_eq!(names, expected, "{:#?}", report.findings);
        report
    }
}

#[track_caller]
fn says(finding: &Finding, words: &[&str]) {
    let Finding { sentence, evidence, rules_out, fix, .. } = finding;
    let all = format!("{sentence}\n{}\n{}\n{}", evidence.join("\n"), rules_out.join("\n"), fix.join("\n"));
    for word in words {
        assert!(all.contains(word), "no `{word}` in:\n{all}");
    }
}
