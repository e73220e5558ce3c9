//! A small kernel: a listener, clients, both ends of each connection, minisocks. What it does is legal, and it tells what the
//! probes tell. Its table is what a listing would show.

use std::collections::BTreeMap;

use super::super::*;
use crate::tcp::{
    event::{CloseEvidence, Comm, Incident},
    listing::{Listing, Record},
};
use TcpState::{
    Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent, TimeWait,
};

pub(super) const MS: u64 = 1_000_000;
const NETNS: u32 = 1;
/// Few, so that tuples are used again.
const PORTS: u16 = 5;
const FIN_TIMEOUT_MS: u32 = 2_000;

type Ends = (Endpoint, Endpoint);

#[derive(Debug)]
struct Socket {
    ends: Ends,
    state: TcpState,
}

#[derive(Debug)]
struct Rest {
    cookie: u64,
    state: TcpState,
    expires_ns: u64,
}

/// How far a connection is. `client` and `server` are cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Requested,
    /// Refused, its descriptor still open.
    Refused,
    Queued,
    Open,
    /// Reset by its client before it was accepted.
    DeadInQueue,
    /// This end has closed its half.
    HalfClosed(Side),
    /// And nobody has it any more: a minisock in `FIN_WAIT2`.
    Orphaned(Side),
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    client: u64,
    server: u64,
    phase: Phase,
}

#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) now_ns: u64,
    /// What the probes told since they were last asked.
    pub(super) events: Vec<Event>,
    cookies: u64,
    sockets: BTreeMap<u64, Socket>,
    rests: BTreeMap<Ends, Rest>,
    /// Requests, by their ends, with their children's cookies.
    requests: BTreeMap<Ends, u64>,
    links: Vec<Link>,
}

fn task() -> Task {
    Task { pid: 7, tid: 7, comm: Comm::from("model") }
}

fn client_ends(port: u16) -> Ends {
    (Endpoint::v4([10, 0, 0, 1], 1000 + port), Endpoint::v4([10, 0, 0, 2], 80))
}

impl Kernel {
    pub(super) fn new() -> Self {
        let mut kernel = Self { now_ns: 1_000_000 * MS, ..Self::default() };
        let ends = (Endpoint::v4([10, 0, 0, 2], 80), Endpoint::v4([0; 4], 0));
        let listener = kernel.socket(ends, Listen);
        kernel.tell(listener, EventKind::Opening { new: Listen, by: task(), limit: Some(128) });
        kernel
    }

    /// Time passes; timers of minisocks fire, and late.
    pub(super) fn pass(&mut self, for_ns: u64) {
        self.now_ns += for_ns;
        let now_ns = self.now_ns;
        self.rests.retain(|ends, rest| rest.expires_ns + u64::from(ends.0.port % 5) * 1000 * MS > now_ns);
    }

    /// Does something legal: connects, or moves a connection on, in one of the ways that there are.
    pub(super) fn act(&mut self, which: usize, how: u8) {
        self.links.retain(|link| link.phase != Phase::Over);
        match self.links.get(which % (self.links.len() + 1)).copied() {
            Some(link) => {
                let at = which % (self.links.len() + 1);
                self.links[at] = self.advance(link, how);
            }
            None => self.connect(how),
        }
    }

    /// Ends everything but the listener.
    pub(super) fn finish(&mut self) {
        while let Some(link) = self.links.pop() {
            let link = self.advance(link, 0);
            self.pass(MS);
            if link.phase != Phase::Over {
                self.links.push(link);
            }
        }
    }

    /// How deep the listener's accept queue is: the dead keep their places.
    pub(super) fn depth(&self) -> u32 {
        let queued = |link: &&Link| matches!(link.phase, Phase::Queued | Phase::DeadInQueue);
        self.links.iter().filter(queued).count() as u32
    }

    /// The table, each record written at some time within `blur_ns` of now.
    pub(super) fn listing(&self, blur_ns: u64, first: bool) -> Listing {
        let (from_ns, to_ns) = (self.now_ns - blur_ns, self.now_ns + blur_ns);
        let depth = self.depth();
        let waits = |cookie| self.links.iter().any(|link| link.server == cookie && link.phase == Phase::Queued);
        let held = |cookie| self.sockets.contains_key(&cookie) && !waits(cookie);
        let record = |cookie, ends: Ends, state, expires_in_ns| Record {
            key: SocketKey { netns: NETNS, cookie },
            tuple: ends,
            state,
            expires_in_ns,
            queue: (state == Listen).then_some((depth, 128)),
            from_ns,
            to_ns,
            drops: None,
            inode: if held(cookie) { cookie as u32 } else { 0 },
            ours: true,
        };
        let sockets = self.sockets.iter().filter(|(_, socket)| socket.state != Close);
        let sockets = sockets.map(|(cookie, it)| record(*cookie, it.ends, it.state, None));
        let requests = self.requests.iter().map(|(ends, cookie)| record(*cookie, *ends, SynRecv, None));
        let left_ns = |rest: &Rest| Some(rest.expires_ns.saturating_sub(self.now_ns));
        let rests = self.rests.iter().map(|(ends, it)| record(it.cookie, *ends, it.state, left_ns(it)));
        let records = sockets.chain(requests).chain(rests).collect();
        Listing { netns: NETNS, from_ns, to_ns, first, records, ..Listing::default() }
    }

    fn socket(&mut self, ends: Ends, state: TcpState) -> u64 {
        self.cookies += 1;
        self.sockets.insert(self.cookies, Socket { ends, state });
        self.cookies
    }

    fn tell(&mut self, cookie: u64, kind: EventKind) {
        let (local, remote) = self.sockets[&cookie].ends;
        // connect() has not chosen a port yet.
        let port = if let EventKind::Opening { new: SynSent, .. } = kind { 0 } else { local.port };
        self.tell_of(cookie, (Endpoint { port, ..local }, remote), kind);
    }

    fn tell_of(&mut self, cookie: u64, ends: Ends, kind: EventKind) {
        self.now_ns += 3_000;
        let tuple = (kind != EventKind::Destroy).then_some(ends);
        let key = SocketKey { netns: NETNS, cookie };
        let skaddr = 0xffff_8880_0000_0000 + cookie;
        self.events.push(Event { at_ns: self.now_ns, key, skaddr, tuple, kind, certainty: Certainty::Once });
    }

    fn step(&mut self, cookie: u64, new: TcpState) {
        let Some(socket) = self.sockets.get_mut(&cookie) else { return };
        let old = std::mem::replace(&mut socket.state, new);
        self.tell(cookie, EventKind::Transition { old, new, by: None });
    }

    fn close(&mut self, cookie: u64, evidence: CloseEvidence) {
        let Some(socket) = self.sockets.get_mut(&cookie) else { return };
        let old = std::mem::replace(&mut socket.state, Close);
        // Its SYN at least.
        let evidence = Some(CloseEvidence { segments_out: 1, ..evidence });
        self.tell(cookie, EventKind::Closing { old, current: task(), evidence });
    }

    fn destroy(&mut self, cookie: u64) {
        if self.sockets.contains_key(&cookie) {
            self.tell(cookie, EventKind::Destroy);
            self.sockets.remove(&cookie);
        }
    }

    fn reset(&mut self, cookie: u64) {
        self.close(cookie, CloseEvidence { error: 104, ..CloseEvidence::default() });
    }

    /// An end that closed first goes, and leaves a minisock.
    fn leave(&mut self, cookie: u64, state: TcpState) {
        let ends = self.sockets[&cookie].ends;
        let lasts_ms = if state == TimeWait { 60_000 } else { FIN_TIMEOUT_MS };
        self.rests.insert(ends, Rest { cookie, state, expires_ns: self.now_ns + u64::from(lasts_ms) * MS });
        let done = state == TimeWait;
        let fin_timeout_ms = FIN_TIMEOUT_MS;
        self.close(
            cookie,
            CloseEvidence { done, dead: true, all_acked: true, fin_timeout_ms, ..CloseEvidence::default() },
        );
        self.destroy(cookie);
    }

    fn connect(&mut self, how: u8) {
        let ends = client_ends(u16::from(how) % PORTS);
        let (local, remote) = ends;
        let taken = |ends: &Ends| {
            self.sockets.values().any(|it| it.ends == *ends && it.state != Close)
                || self.requests.contains_key(ends)
                || self.rests.get(ends).is_some_and(|rest| rest.state != TimeWait)
        };
        if taken(&ends) || taken(&(remote, local)) {
            return;
        }
        let client = self.socket(ends, SynSent);
        self.rests.remove(&ends);
        self.tell(client, EventKind::Opening { new: SynSent, by: task(), limit: None });
        self.links.push(Link { client, server: 0, phase: Phase::Connecting });
    }

    fn advance(&mut self, link: Link, how: u8) -> Link {
        match link.phase {
            Phase::Connecting => self.answer(link, how),
            Phase::Requested => self.establish(link),
            Phase::Refused => self.after_refusal(link, how),
            Phase::Queued if how % 3 == 1 => {
                self.close(link.client, CloseEvidence { dead: true, unread_bytes: 5, ..CloseEvidence::default() });
                self.destroy(link.client);
                self.reset(link.server);
                Link { phase: Phase::DeadInQueue, ..link }
            }
            Phase::Queued | Phase::DeadInQueue => {
                self.tell(link.server, EventKind::Accept { by: task(), fd: Some(4), listener: Some(1) });
                if link.phase == Phase::Queued {
                    return Link { phase: Phase::Open, ..link };
                }
                self.destroy(link.server);
                Link { phase: Phase::Over, ..link }
            }
            Phase::Open => self.shut(link, how),
            Phase::HalfClosed(side) => self.shut_other_half(link, side, how),
            Phase::Orphaned(side) => self.answer_orphan(link, side, how),
            Phase::Over => link,
        }
    }

    fn answer(&mut self, link: Link, how: u8) -> Link {
        if how % 4 == 1 {
            self.close(link.client, CloseEvidence { error: 111, ..CloseEvidence::default() });
            return Link { phase: Phase::Refused, ..link };
        }
        let (local, remote) = self.sockets[&link.client].ends;
        self.cookies += 1;
        // A SYN takes the place of what its ends left.
        self.rests.remove(&(remote, local));
        self.requests.insert((remote, local), self.cookies);
        Link { server: self.cookies, phase: Phase::Requested, ..link }
    }

    fn establish(&mut self, link: Link) -> Link {
        self.step(link.client, Established);
        let (local, remote) = self.sockets[&link.client].ends;
        let ends = (remote, local);
        self.requests.remove(&ends);
        self.sockets.insert(link.server, Socket { ends, state: SynRecv });
        self.tell(link.server, EventKind::Birth { queue: Some((0, 128)) });
        self.step(link.server, Established);
        let enqueue = EventKind::Enqueue { listener: Some(1), synack_at_ns: None, synack_retransmits: 0 };
        self.tell(link.server, enqueue);
        Link { phase: Phase::Queued, ..link }
    }

    fn after_refusal(&mut self, link: Link, how: u8) -> Link {
        let (local, remote) = self.sockets[&link.client].ends;
        let taken = |ends| self.sockets.values().any(|it| it.ends == ends && it.state != Close);
        if how.is_multiple_of(2)
            || taken((local, remote))
            || taken((remote, local))
            || self.rests.contains_key(&(local, remote))
        {
            self.destroy(link.client);
            return Link { phase: Phase::Over, ..link };
        }
        if let Some(socket) = self.sockets.get_mut(&link.client) {
            socket.state = SynSent;
        }
        self.tell(link.client, EventKind::Opening { new: SynSent, by: task(), limit: None });
        Link { phase: Phase::Connecting, ..link }
    }

    fn shut(&mut self, link: Link, how: u8) -> Link {
        let (first, other, side) = if how & 1 == 0 {
            (link.client, link.server, Side::Client)
        } else {
            (link.server, link.client, Side::Server)
        };
        match how >> 1 & 3 {
            1 => {
                self.close(first, CloseEvidence { dead: true, unread_bytes: 5, ..CloseEvidence::default() });
                self.destroy(first);
                self.reset(other);
                self.destroy(other);
                Link { phase: Phase::Over, ..link }
            }
            2 => {
                for state in [FinWait1, Closing] {
                    self.step(first, state);
                    self.step(other, state);
                }
                self.leave(first, TimeWait);
                self.leave(other, TimeWait);
                Link { phase: Phase::Over, ..link }
            }
            _fin => {
                self.step(first, FinWait1);
                self.step(other, CloseWait);
                self.step(first, FinWait2);
                Link { phase: Phase::HalfClosed(side), ..link }
            }
        }
    }

    fn shut_other_half(&mut self, link: Link, side: Side, how: u8) -> Link {
        let (first, other) = link.from(side);
        if how % 3 == 1 {
            self.step(first, FinWait2);
            self.leave(first, FinWait2);
            return Link { phase: Phase::Orphaned(side), ..link };
        }
        self.step(other, LastAck);
        self.leave(first, TimeWait);
        self.close(other, CloseEvidence { dead: true, all_acked: true, ..CloseEvidence::default() });
        self.destroy(other);
        Link { phase: Phase::Over, ..link }
    }

    fn answer_orphan(&mut self, link: Link, side: Side, how: u8) -> Link {
        let (first, other) = link.from(side);
        let ends = self.sockets[&other].ends;
        let ends = (ends.1, ends.0);
        self.step(other, LastAck);
        let expires_ns = self.now_ns + 60_000 * MS;
        match self.rests.get_mut(&ends).filter(|rest| rest.cookie == first) {
            // A segment that the minisock cannot take ends both.
            Some(_) if how % 4 == 1 => {
                self.rests.remove(&ends);
                let incident = Incident::MinisockSegment { state: Close };
                self.tell_of(first, ends, EventKind::Incident(incident));
                self.reset(other);
            }
            Some(rest) => {
                (rest.state, rest.expires_ns) = (TimeWait, expires_ns);
                let incident = Incident::MinisockSegment { state: TimeWait };
                self.tell_of(first, ends, EventKind::Incident(incident));
                self.close(other, CloseEvidence { dead: true, all_acked: true, ..CloseEvidence::default() });
            }
            None => self.reset(other),
        }
        self.destroy(other);
        Link { phase: Phase::Over, ..link }
    }
}

impl Link {
    fn from(self, side: Side) -> (u64, u64) {
        match side {
            Side::Client => (self.client, self.server),
            Side::Server => (self.server, self.client),
        }
    }
}
