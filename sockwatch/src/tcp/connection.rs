//! One connection's timeline, from birth to destroy.

use super::{
    close::{Ending, verdict_after_reset},
    endpoint::Endpoint,
    event::{CloseEvidence, SocketKey, Task},
    queue::QueueFigures,
    state::TcpState,
};

/// A RST that this end sends because of its `CLOSE` follows within microseconds, on an emulated machine that others keep from
/// running within tens of milliseconds. A minisock's may come any time later.
pub const RESET_BELONGS_NS: u64 = 100_000_000;

/// A child that another one has outrun goes within the call that made it: within microseconds, or an emulated machine's
/// milliseconds.
const NEWBORN_NS: u64 = 100_000_000;

/// Which part a socket plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It called connect().
    Active,
    /// It is a listener's child.
    Passive,
    /// It called listen().
    Listener,
    /// It was there before we looked.
    Unknown,
}

impl Role {
    /// One letter for a column: C(lient), S(erver), L(istener).
    pub const fn letter(self) -> char {
        match self {
            Self::Active => 'C',
            Self::Passive => 'S',
            Self::Listener => 'L',
            Self::Unknown => '?',
        }
    }

    /// The word in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::Listener => "listener",
            Self::Unknown => "unknown",
        }
    }
}

/// States that are remembered of one connection at most: none has so many, unless listings repair it again and again.
pub const MAX_SPANS: usize = 32;

/// A state and how long it lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The state.
    pub state: TcpState,
    /// How long it lasted, in nanoseconds; `None` if it began before we looked.
    pub lasted_ns: Option<u64>,
}

/// Who has, or had, a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Who called connect() or listen().
    pub opener: Option<Task>,
    /// Who accepted it.
    pub acceptor: Option<Task>,
    /// The descriptor that accept returned.
    pub fd: Option<i32>,
    /// A process that holds it, found in `/proc`: of a socket that was there before we looked.
    pub holder: Option<Task>,
    /// Who was found holding it when its owner did not any more, or closed it in its owner's stead: its descriptor was passed on.
    pub heir: Option<Task>,
    /// The listener's cookie.
    pub listener: Option<u64>,
    /// The listener's owner: it answers for a child that nobody accepted yet.
    pub listener_owner: Option<Task>,
    /// Who sent the first FIN or RST from this end.
    pub closer: Option<Task>,
}

impl Ownership {
    /// The owner: the heir, else the acceptor, else the opener, else who was found holding it, else the listener's owner.
    pub fn owner(&self) -> Option<Task> {
        self.held_by().or(self.listener_owner)
    }

    /// The owner, unless nobody has its descriptor yet.
    pub fn held_by(&self) -> Option<Task> {
        self.heir.or(self.acceptor).or(self.opener).or(self.holder)
    }
}

/// A child's way through the accept queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// When it entered; `None` if it waited before we looked.
    pub at_ns: Option<u64>,
    /// The queue's depth before it, where the kernel tells.
    pub depth: Option<u32>,
    /// The queue's limit, where the kernel tells: the queue takes one more than this.
    pub limit: Option<u32>,
    /// When it was accepted.
    pub accepted_ns: Option<u64>,
    /// It was accepted, and nobody saw by whom or when: only a socket that was accepted has a holder, or sends a FIN.
    pub accepted_unseen: bool,
    /// When its client left, by FIN or RST, if nobody had accepted it by then.
    pub left_ns: Option<u64>,
    /// First SYN-ACK to enqueue, in nanoseconds; `None` with SYN cookies or when no probe tells.
    pub handshake_ns: Option<i64>,
    /// SYN-ACKs sent again.
    pub synack_retransmits: u32,
}

impl Queued {
    /// How long it had waited when its client left, in nanoseconds.
    pub fn waited_until_left_ns(&self) -> Option<u64> {
        Some(self.left_ns?.saturating_sub(self.at_ns?))
    }

    /// Enqueue to accept, in nanoseconds; negative values are legal (Fast Open) and mean: accepted before it was queued.
    pub fn wait_ns(&self) -> Option<i64> {
        Some(self.accepted_ns?.cast_signed().wrapping_sub(self.at_ns?.cast_signed()))
    }
}

/// A connection, or a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Identity, together with `incarnation`.
    pub key: SocketKey,
    /// How often this socket was opened before: a reconnected descriptor keeps its cookie.
    pub incarnation: u32,
    /// Its part.
    pub role: Role,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// When it was first seen.
    pub first_seen_ns: u64,
    /// Whether `first_seen_ns` is its birth.
    pub birth_seen: bool,
    /// The current state.
    pub state: TcpState,
    /// When the current state was entered; `None` if before we looked.
    pub state_since_ns: Option<u64>,
    /// The states before the current one.
    pub spans: Vec<Span>,
    /// Who has it.
    pub ownership: Ownership,
    /// Its time in the accept queue, for a child.
    pub queued: Option<Queued>,
    /// What went through its accept queue, for a listener that is over.
    pub accept_queue: Option<Box<QueueFigures>>,
    /// Segments retransmitted.
    pub retransmits: u32,
    /// RSTs sent and received.
    pub resets: Resets,
    /// How it ended, and what that stands on.
    pub ending: Option<Ending>,
    /// The evidence at `CLOSE`.
    pub evidence: Option<CloseEvidence>,
    /// When it reached `CLOSE` or vanished.
    pub ended_ns: Option<u64>,
    /// From listings: times are right to within this many nanoseconds.
    pub sampled_ns: Option<u64>,
}

/// Payload bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Sent and acknowledged; `None` where it is not known whether a SYN was counted.
    pub acked_bytes: Option<u64>,
    /// Received in order.
    pub received_bytes: u64,
    /// Received and never read.
    pub unread_bytes: u32,
}

/// RSTs of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resets {
    /// Sent.
    pub sent: u32,
    /// When the last one was sent.
    pub sent_ns: Option<u64>,
    /// Received.
    pub received: u32,
}

impl Connection {
    /// A socket that was first seen in `state`.
    pub fn new(key: SocketKey, role: Role, tuple: (Endpoint, Endpoint), state: TcpState, at_ns: u64) -> Self {
        Self {
            key,
            incarnation: 0,
            role,
            local: tuple.0,
            remote: tuple.1,
            first_seen_ns: at_ns,
            birth_seen: false,
            state,
            state_since_ns: None,
            spans: Vec::with_capacity(6),
            ownership: Ownership::default(),
            queued: None,
            accept_queue: None,
            retransmits: 0,
            resets: Resets::default(),
            ending: None,
            evidence: None,
            ended_ns: None,
            sampled_ns: None,
        }
    }

    /// A socket whose birth was seen.
    pub fn born(key: SocketKey, role: Role, tuple: (Endpoint, Endpoint), state: TcpState, at_ns: u64) -> Self {
        let new = Self::new(key, role, tuple, state, at_ns);
        Self { birth_seen: true, state_since_ns: Some(at_ns), ..new }
    }

    /// Takes over what its birth tells, which came after it was first seen: a filter had held it back while a listing showed it.
    /// Returns whether it may be its birth.
    pub fn learn_birth(&mut self, born: &Self) -> bool {
        if self.birth_seen || self.first_seen_ns < born.first_seen_ns {
            return false;
        }
        if self.spans.is_empty() && self.state_since_ns.is_none() {
            // Nothing but the listing told of it: its steps come now.
            let ownership = Ownership { opener: born.ownership.opener, ..self.ownership };
            *self = Self { incarnation: self.incarnation, ownership, ..born.clone() };
            return true;
        }
        self.role = born.role;
        self.ownership.opener = self.ownership.opener.or(born.ownership.opener);
        self.queued = self.queued.or(born.queued);
        true
    }

    /// Enters a state; returns how long the one before lasted.
    pub fn enter(&mut self, state: TcpState, at_ns: u64) -> Option<u64> {
        let lasted_ns = self.state_since_ns.map(|since| at_ns.saturating_sub(since));
        if self.spans.len() == MAX_SPANS {
            self.merge_oldest();
        }
        self.spans.push(Span { state: self.state, lasted_ns });
        self.state = state;
        self.state_since_ns = Some(at_ns);
        lasted_ns
    }

    /// The oldest state takes its successor's time as well: memory is bounded, and the sum stays what it was.
    fn merge_oldest(&mut self) {
        let second = self.spans.remove(1).lasted_ns;
        let first = &mut self.spans[0].lasted_ns;
        *first = first.zip(second).map(|(first, second)| first.saturating_add(second));
    }

    /// It is no longer in the kernel's table, and nothing told its end.
    pub fn vanish(&mut self, at_ns: u64) -> Option<u64> {
        let at_ns = at_ns.max(self.state_since_ns.unwrap_or(0));
        if self.state != TcpState::Close {
            self.ending = Some(Ending::Vanished);
            self.ended_ns = Some(at_ns);
        }
        self.enter(TcpState::Close, at_ns)
    }

    /// Whether something that was seen later is known already.
    pub fn is_known_after(&self, at_ns: u64) -> bool {
        self.state_since_ns.unwrap_or(self.first_seen_ns) > at_ns
    }

    /// A RST was sent. Just after `CLOSE` it may tell more of the ending than the transition did.
    pub fn note_reset_sent(&mut self, at_ns: u64) {
        self.resets.sent += 1;
        self.resets.sent_ns = Some(at_ns);
        if self.ended_ns.is_some_and(|ended_ns| at_ns.saturating_sub(ended_ns) < RESET_BELONGS_NS) {
            self.ending = self.ending_after_reset();
        }
    }

    /// The ending as it would be if a RST from this end followed.
    pub fn ending_after_reset(&self) -> Option<Ending> {
        let ending = self.ending?;
        match (self.spans.last(), &self.evidence) {
            (Some(span), Some(evidence)) => Some(verdict_after_reset(ending, span.state, evidence)),
            (None, _) | (_, None) => Some(ending),
        }
    }

    /// Whether a RST was sent in the current state.
    pub fn has_reset_in_state(&self) -> bool {
        self.resets.sent_ns.is_some_and(|sent_ns| self.state_since_ns.is_some_and(|since_ns| sent_ns >= since_ns))
    }

    /// Whether it was ever in a state.
    pub fn has_been(&self, state: TcpState) -> bool {
        self.state == state || self.spans.iter().any(|span| span.state == state)
    }

    /// Whether its timeline holds this step.
    pub fn has_stepped(&self, old: TcpState, new: TcpState) -> bool {
        let before = self.spans.iter().map(|span| span.state);
        let after = before.clone().skip(1).chain([self.state]);
        before.zip(after).any(|step| step == (old, new))
    }

    /// Its states with their first and last instants, the latest first. What began before we looked began at 0.
    pub fn stays(&self) -> impl Iterator<Item = (TcpState, u64, u64)> {
        let now = (self.state, self.state_since_ns.unwrap_or(0), u64::MAX);
        let before = self.spans.iter().rev().scan(now.1, |until_ns, span| {
            let from_ns = span.lasted_ns.map_or(0, |lasted_ns| until_ns.saturating_sub(lasted_ns));
            let stay = (span.state, from_ns, *until_ns);
            *until_ns = from_ns;
            Some(stay)
        });
        std::iter::once(now).chain(before)
    }

    /// Whether it was in `state` at some instant from `from_ns` to `to_ns`, as [stored](Self::stored_stays).
    pub fn was_in(&self, state: TcpState, from_ns: u64, to_ns: u64, late_ns: u64) -> bool {
        let within = |(its, from, to): (TcpState, u64, u64)| its == state && from <= to_ns && to >= from_ns;
        self.stored_stays(late_ns).any(within)
    }

    /// Its states, the latest first, each with when it was left at the latest as the kernel's table shows it: a transition is told
    /// before the state is stored, but for `CLOSE`, which takes a socket out of the table before it is told. Whoever is kept from its
    /// CPU between the two (a virtual machine's CPU is at times) stores it that much later.
    pub fn stored_stays(&self, late_ns: u64) -> impl Iterator<Item = (TcpState, u64, u64)> {
        let mut next = None;
        self.stays().map(move |(state, from_ns, to_ns)| {
            let after = next.replace(state);
            // What a correction made of it was never stored.
            let is_late = after.is_some_and(|after| after != TcpState::Close && state.can_become(after));
            (state, from_ns, if is_late { to_ns.saturating_add(late_ns) } else { to_ns })
        })
    }

    /// Birth to end, in nanoseconds; `None` while it lives or when the birth was not seen.
    pub fn lifetime_ns(&self) -> Option<u64> {
        (self.birth_seen).then(|| Some(self.ended_ns?.saturating_sub(self.first_seen_ns)))?
    }

    /// The payload that it moved, without what TCP itself counts into the sequence space: SYN and FIN.
    pub fn payload(&self) -> Option<Payload> {
        let evidence = self.evidence?;
        let fin_received = u64::from(evidence.done);
        let fin_acked = self.spans.last().is_some_and(|span| match span.state {
            TcpState::FinWait2 | TcpState::TimeWait => true,
            TcpState::Closing | TcpState::LastAck => evidence.all_acked,
            _ => false,
        });
        // A child's count begins behind its SYN-ACK; of a socket that was there before nobody knows which it is.
        let syn_acked = match self.role {
            Role::Active => Some(u64::from(self.has_been(TcpState::Established))),
            Role::Passive => Some(0),
            Role::Listener | Role::Unknown => None,
        };
        Some(Payload {
            acked_bytes: syn_acked.map(|syn| evidence.acked_bytes.saturating_sub(syn + u64::from(fin_acked))),
            received_bytes: evidence.received_bytes.saturating_sub(fin_received),
            unread_bytes: evidence.unread_bytes.saturating_sub(u32::from(evidence.done)),
        })
    }

    /// Whether all that was seen of it is that somebody accepted it.
    pub fn is_known_by_accept(&self) -> bool {
        let accepted_ns = self.queued.and_then(|queued| queued.accepted_ns);
        !self.birth_seen && self.spans.is_empty() && accepted_ns == Some(self.first_seen_ns)
    }

    /// Whether it had ended when it was accepted, before anything was seen of it.
    pub fn was_dead_on_arrival(&self) -> bool {
        self.is_known_by_accept() && self.state == TcpState::Close
    }

    /// Whether it still waits in an accept queue.
    pub fn is_queued(&self) -> bool {
        // A descriptor tells of an accept that was not seen itself.
        let Ownership { fd, acceptor, holder, .. } = self.ownership;
        let taken = fd.is_some() || acceptor.is_some() || holder.is_some();
        let waits = |queued: Queued| queued.accepted_ns.is_none() && !queued.accepted_unseen;
        let is_child = self.role == Role::Passive && self.ending != Some(Ending::Duplicate);
        is_child && !taken && self.queued.is_some_and(waits)
    }

    /// Whether it is a child that was just born, and that no listener has in its queue yet.
    pub fn is_newborn(&self, at_ns: u64) -> bool {
        let is_young = self.birth_seen && at_ns.saturating_sub(self.first_seen_ns) < NEWBORN_NS;
        self.role == Role::Passive && is_young && self.spans.is_empty() && self.ownership.listener.is_none()
    }
}
