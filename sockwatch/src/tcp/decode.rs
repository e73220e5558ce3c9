//! Ring buffer records to events. Past this file no raw integer, offset or byte slice exists.

use bytes::Buf;
use sockwatch_common::{self as wire, Kind, NO_FD, RELIEF};

use super::{
    endpoint::Endpoint,
    event::{Certainty, CloseEvidence, Comm, Event, EventKind, Incident, SocketKey, Task},
    state::TcpState,
};

/// Why a record is not an event. Each is counted, none stops the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The record ends before its kind's fields do.
    #[error("record of kind {kind} has {length} bytes, not {expected}")]
    Length {
        /// The kind byte.
        kind: u8,
        /// Bytes in the record.
        length: usize,
        /// Bytes that the kind has.
        expected: usize,
    },
    /// No such kind.
    #[error("unknown record kind {0}")]
    UnknownKind(u8),
    /// No such state.
    #[error("unknown TCP state {0}")]
    UnknownState(u8),
    /// Neither `AF_INET` nor `AF_INET6`.
    #[error("unknown address family {0}")]
    UnknownFamily(u8),
}

const INET: u8 = 2;
const INET6: u8 = 10;
/// `SOCK_DEAD`, `SOCK_DONE` and `SOCK_LINGER` in `sk_flags` (`enum sock_flags`, the same from 5.10 to 7.2).
const DEAD: u16 = 1 << 0;
const DONE: u16 = 1 << 1;
const LINGER: u16 = 1 << 4;

/// The common part of a record, read.
struct Stub {
    at_ns: u64,
    key: SocketKey,
    skaddr: u64,
    certainty: Certainty,
    family: u8,
    old: TcpState,
    new: TcpState,
}

/// The rest of the head.
struct Head {
    pid: u32,
    tid: u32,
    value: u32,
    tuple: (Endpoint, Endpoint),
}

impl Head {
    fn task(&self, comm: Comm) -> Task {
        Task { pid: self.pid, tid: self.tid, comm }
    }
}

/// Reads one record: one event, but for a socket that a filter let in late. Returns the record's own time.
///
/// # Errors
/// A [`DecodeError`] for a record that is too short or too long, or holds a kind, state or family that does not exist.
pub fn decode(record: &[u8], events: &mut Vec<Event>) -> Result<u64, DecodeError> {
    let raw_kind = *record.get(28).ok_or(DecodeError::Length { kind: 0, length: record.len(), expected: 32 })?;
    let kind = kind(raw_kind & !RELIEF)?;
    let expected = length(kind);
    if record.len() != expected {
        return Err(DecodeError::Length { kind: raw_kind, length: record.len(), expected });
    }
    let mut bytes = record;
    let stub = stub(&mut bytes)?;
    match kind {
        Kind::Destroy => events.push(event(&stub, None, EventKind::Destroy)),
        Kind::Waited => waited(&stub, &head(&mut bytes, stub.family)?, bytes, events)?,
        kind => {
            let head = head(&mut bytes, stub.family)?;
            let kind = body(kind, &stub, &head, &mut bytes);
            events.push(event(&stub, Some(head.tuple), kind));
        }
    }
    Ok(stub.at_ns)
}

fn event(stub: &Stub, tuple: Option<(Endpoint, Endpoint)>, kind: EventKind) -> Event {
    Event { at_ns: stub.at_ns, key: stub.key, skaddr: stub.skaddr, tuple, kind, certainty: stub.certainty }
}

const KINDS: [Kind; 16] = [
    Kind::Transition,
    Kind::TaskTransition,
    Kind::Birth,
    Kind::Close,
    Kind::Enqueue,
    Kind::Accept,
    Kind::AcceptReturn,
    Kind::Destroy,
    Kind::ResetSent,
    Kind::ResetReceived,
    Kind::Retransmit,
    Kind::SynAckRetransmit,
    Kind::ListenOverflow,
    Kind::MinisockSegment,
    Kind::Waited,
    Kind::BareClose,
];

fn kind(number: u8) -> Result<Kind, DecodeError> {
    KINDS.get(usize::from(number).wrapping_sub(1)).copied().ok_or(DecodeError::UnknownKind(number))
}

/// How many bytes a record of this kind has.
const fn length(kind: Kind) -> usize {
    match kind {
        Kind::Destroy => size_of::<wire::Stub>(),
        Kind::TaskTransition | Kind::BareClose => size_of::<wire::Task>(),
        Kind::Birth => size_of::<wire::Birth>(),
        Kind::Close => size_of::<wire::Close>(),
        Kind::Enqueue => size_of::<wire::Enqueue>(),
        Kind::Accept | Kind::AcceptReturn => size_of::<wire::Accept>(),
        Kind::Waited => size_of::<wire::Waited>(),
        Kind::Transition
        | Kind::ResetSent
        | Kind::ResetReceived
        | Kind::Retransmit
        | Kind::SynAckRetransmit
        | Kind::ListenOverflow
        | Kind::MinisockSegment => size_of::<wire::Head>(),
    }
}

fn stub(bytes: &mut &[u8]) -> Result<Stub, DecodeError> {
    let at_ns = bytes.get_u64_ne();
    let cookie = bytes.get_u64_ne();
    let skaddr = bytes.get_u64_ne();
    let netns = bytes.get_u32_ne();
    let certainty = if bytes.get_u8() & RELIEF == 0 { Certainty::Once } else { Certainty::PerhapsRepeated };
    let family = bytes.get_u8();
    let old = TcpState::try_from(bytes.get_u8()).map_err(DecodeError::UnknownState)?;
    let new = TcpState::try_from(bytes.get_u8()).map_err(DecodeError::UnknownState)?;
    Ok(Stub { at_ns, key: SocketKey { netns, cookie }, skaddr, certainty, family, old, new })
}

fn head(bytes: &mut &[u8], family: u8) -> Result<Head, DecodeError> {
    let pid = bytes.get_u32_ne();
    let tid = bytes.get_u32_ne();
    let local_port = bytes.get_u16_ne();
    let remote_port = bytes.get_u16_ne();
    let value = bytes.get_u32_ne();
    let local = sixteen(bytes);
    let remote = sixteen(bytes);
    let tuple = match family {
        INET => (Endpoint::v4(first_four(local), local_port), Endpoint::v4(first_four(remote), remote_port)),
        INET6 => (Endpoint::v6(local, local_port), Endpoint::v6(remote, remote_port)),
        other => return Err(DecodeError::UnknownFamily(other)),
    };
    Ok(Head { pid, tid, value, tuple })
}

fn sixteen(bytes: &mut &[u8]) -> [u8; 16] {
    let mut array = [0; 16];
    bytes.copy_to_slice(&mut array);
    array
}

const fn first_four(bytes: [u8; 16]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// What happened to a socket before a filter could decide on it, each with its own time.
fn waited(stub: &Stub, head: &Head, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), DecodeError> {
    let mut later = bytes;
    later.advance(wire::STEPS * size_of::<wire::Step>());
    let count = later.get_u32_ne() as usize;
    let (depth, limit, synack_retransmits) = (later.get_u32_ne(), later.get_u32_ne(), later.get_u32_ne());
    let opener = Task { pid: later.get_u32_ne(), tid: later.get_u32_ne(), comm: Comm(sixteen(&mut later)) };
    let (enqueued_ns, listener, synack_us) = (later.get_u64_ne(), later.get_u64_ne(), later.get_u64_ne());
    for _ in 0..count.min(wire::STEPS) {
        let at_ns = bytes.get_u64_ne();
        let [old, new] = [bytes.get_u8(), bytes.get_u8()].map(TcpState::try_from);
        let (old, new) = (old.map_err(DecodeError::UnknownState)?, new.map_err(DecodeError::UnknownState)?);
        bytes.advance(6);
        let kind = match (old, new) {
            (TcpState::Listen, TcpState::SynRecv) => EventKind::Birth { queue: known(depth).zip(known(limit)) },
            (TcpState::Close, TcpState::SynSent) => EventKind::Opening { new, by: opener, limit: None },
            (old, TcpState::Close) => {
                let evidence = (head.value != 0).then(|| evidence(&mut &*later));
                EventKind::Closing { old, current: head.task(Comm::default()), evidence }
            }
            (old, new) => EventKind::Transition { old, new, by: None },
        };
        events.push(Event { at_ns, ..event(stub, Some(head.tuple), kind) });
    }
    if enqueued_ns != 0 {
        let kind = enqueued(listener, synack_us, synack_retransmits);
        events.push(Event { at_ns: enqueued_ns, ..event(stub, Some(head.tuple), kind) });
    }
    Ok(())
}

fn body(kind: Kind, stub: &Stub, head: &Head, bytes: &mut &[u8]) -> EventKind {
    match kind {
        Kind::Transition => EventKind::Transition { old: stub.old, new: stub.new, by: None },
        Kind::TaskTransition => task_transition(stub, head, Comm(sixteen(bytes))),
        Kind::Birth => EventKind::Birth { queue: known(head.value).zip(known(bytes.get_u32_ne())) },
        Kind::Close => {
            let current = head.task(Comm(sixteen(bytes)));
            EventKind::Closing { old: stub.old, current, evidence: Some(evidence(bytes)) }
        }
        Kind::BareClose => {
            let current = head.task(Comm(sixteen(bytes)));
            EventKind::Closing { old: stub.old, current, evidence: None }
        }
        Kind::Enqueue => enqueue(bytes),
        Kind::Accept => accept(head, bytes),
        Kind::AcceptReturn => accept_return(head, bytes),
        Kind::Destroy | Kind::Waited => unreachable!("read before"),
        Kind::ResetSent => {
            let minisock = stub.old == TcpState::TimeWait;
            EventKind::Incident(Incident::ResetSent { reason: head.value, minisock })
        }
        Kind::ResetReceived => EventKind::Incident(Incident::ResetReceived),
        Kind::Retransmit => EventKind::Incident(Incident::Retransmit),
        Kind::SynAckRetransmit => EventKind::Incident(Incident::SynAckRetransmit),
        Kind::ListenOverflow => EventKind::Incident(Incident::ListenOverflow),
        Kind::MinisockSegment => EventKind::Incident(Incident::MinisockSegment { state: stub.new }),
    }
}

/// A number that the kernel side may not know.
fn known(value: u32) -> Option<u32> {
    (value != wire::UNKNOWN).then_some(value)
}

fn task_transition(stub: &Stub, head: &Head, comm: Comm) -> EventKind {
    let by = head.task(comm);
    match (stub.old, stub.new) {
        (TcpState::Close, TcpState::Listen) => {
            EventKind::Opening { new: TcpState::Listen, by, limit: known(head.value) }
        }
        (TcpState::Close, TcpState::SynSent) => EventKind::Opening { new: TcpState::SynSent, by, limit: None },
        (old, new) => EventKind::Transition { old, new, by: Some(by) },
    }
}

fn evidence(bytes: &mut &[u8]) -> CloseEvidence {
    let acked_bytes = bytes.get_u64_ne();
    let received_bytes = bytes.get_u64_ne();
    let (snd_una, write_seq) = (bytes.get_u32_ne(), bytes.get_u32_ne());
    let unread_bytes = bytes.get_u32_ne();
    let linger2 = bytes.get_i32_ne();
    let user_timeout_ms = bytes.get_u32_ne();
    let segments_out = bytes.get_u32_ne();
    let (error, soft_error, flags) = (bytes.get_u16_ne(), bytes.get_u16_ne(), bytes.get_u16_ne());
    let (retransmits, probes, shutdown) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u8());
    let has_socket = bytes.get_u8() != 0;
    bytes.advance(2);
    let fin_timeout_ms = bytes.get_u32_ne();
    CloseEvidence {
        acked_bytes,
        received_bytes,
        all_acked: snd_una == write_seq,
        unread_bytes,
        linger2,
        user_timeout_ms,
        segments_out,
        error,
        soft_error,
        dead: flags & DEAD != 0,
        done: flags & DONE != 0,
        linger: flags & LINGER != 0,
        retransmits,
        probes,
        shutdown,
        has_socket,
        fin_timeout_ms,
    }
}

fn enqueue(bytes: &mut &[u8]) -> EventKind {
    let listener = bytes.get_u64_ne();
    let synack_us = bytes.get_u64_ne();
    bytes.advance(4);
    enqueued(listener, synack_us, bytes.get_u32_ne())
}

fn enqueued(listener: u64, synack_us: u64, synack_retransmits: u32) -> EventKind {
    let synack_at_ns = (synack_us != 0).then(|| synack_us.saturating_mul(1000));
    let listener = (listener != 0).then_some(listener);
    EventKind::Enqueue { listener, synack_at_ns, synack_retransmits }
}

fn accept(head: &Head, bytes: &mut &[u8]) -> EventKind {
    let by = head.task(Comm(sixteen(bytes)));
    let listener = bytes.get_u64_ne();
    let fd = (head.value != NO_FD).then_some(head.value as i32);
    EventKind::Accept { by, fd, listener: (listener != 0).then_some(listener) }
}

fn accept_return(head: &Head, bytes: &mut &[u8]) -> EventKind {
    let result = head.value as i32;
    if result >= 0 {
        return EventKind::AcceptReturn { fd: result };
    }
    let by = head.task(Comm(sixteen(bytes)));
    EventKind::Incident(Incident::AcceptFailed { by, errno: result.saturating_neg() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sockwatch_common::Plain;

    fn head(kind: Kind, old: TcpState, new: TcpState) -> wire::Head {
        let mut local = [0; 16];
        local[..4].copy_from_slice(&[127, 0, 0, 1]);
        wire::Head {
            stub: wire::Stub {
                at_ns: 7,
                cookie: 42,
                skaddr: 0xffff_8881_0000_0000,
                netns: 4_026_531_840,
                kind: kind as u8,
                family: INET,
                old_state: old as u8,
                new_state: new as u8,
            },
            pid: 10,
            tid: 11,
            local_port: 8080,
            remote_port: 50_000,
            value: 5,
            local,
            remote: local,
        }
    }

    fn decode_one(record: &[u8]) -> Result<Event, DecodeError> {
        let mut events = Vec::new();
        decode(record, &mut events)?;
        assert_eq!(events.len(), 1);
        Ok(events[0])
    }

    #[test]
    fn a_transition_is_read_back() {
        let head = head(Kind::Transition, TcpState::SynRecv, TcpState::Established);
        let event = decode_one(head.as_bytes()).unwrap();
        assert_eq!(event.at_ns, 7);
        assert_eq!(event.key, SocketKey { netns: 4_026_531_840, cookie: 42 });
        assert_eq!(event.tuple.unwrap().1.to_string(), "127.0.0.1:50000");
        let kind = EventKind::Transition { old: TcpState::SynRecv, new: TcpState::Established, by: None };
        assert_eq!(event.kind, kind);
    }

    #[test]
    fn an_accept_is_read_back() {
        let head = head(Kind::Accept, TcpState::Established, TcpState::Established);
        let accept = wire::Accept { head, comm: Comm::from("worker").0, listener: 9 };
        let by = Task { pid: 10, tid: 11, comm: Comm::from("worker") };
        let expected = EventKind::Accept { by, fd: Some(5), listener: Some(9) };
        assert_eq!(decode_one(accept.as_bytes()).unwrap().kind, expected);
    }

    #[test]
    fn a_failed_accept_is_an_errno() {
        let mut head = head(Kind::AcceptReturn, TcpState::Listen, TcpState::Listen);
        head.value = (-24_i32) as u32;
        let accept = wire::Accept { head, comm: [0; 16], listener: 9 };
        let by = Task { pid: 10, tid: 11, comm: Comm::default() };
        let expected = EventKind::Incident(Incident::AcceptFailed { by, errno: 24 });
        assert_eq!(decode_one(accept.as_bytes()).unwrap().kind, expected);
    }

    #[test]
    fn what_a_filter_held_back_is_read_back_with_its_own_times() {
        let mut wait =
            wire::Wait { count: 2, depth: 3, limit: 128, enqueued_ns: 2, listener: 9, ..wire::Wait::NOTHING };
        wait.steps[0] = wire::Step { at_ns: 1, old_state: 10, new_state: 3, reserved: [0; 6] };
        wait.steps[1] = wire::Step { at_ns: 3, old_state: 3, new_state: 1, reserved: [0; 6] };
        let head = head(Kind::Waited, TcpState::Established, TcpState::Established);
        let mut events = Vec::new();
        let record = wire::Waited { head, wait, evidence: wire::Evidence::NONE };
        assert_eq!(decode(record.as_bytes(), &mut events), Ok(7));
        let seen: Vec<_> = events.iter().map(|event| (event.at_ns, event.kind)).collect();
        let established = EventKind::Transition { old: TcpState::SynRecv, new: TcpState::Established, by: None };
        let enqueue = EventKind::Enqueue { listener: Some(9), synack_at_ns: None, synack_retransmits: 0 };
        assert_eq!(seen, [(1, EventKind::Birth { queue: Some((3, 128)) }), (3, established), (2, enqueue)]);
    }

    /// A kernel without BTF shows neither queues nor evidence.
    #[test]
    fn what_is_not_known_is_none() {
        let mut head = head(Kind::Birth, TcpState::Listen, TcpState::SynRecv);
        head.value = wire::UNKNOWN;
        let birth = wire::Birth { head, limit: wire::UNKNOWN, reserved: 0 };
        assert_eq!(decode_one(birth.as_bytes()).unwrap().kind, EventKind::Birth { queue: None });
        head.stub.kind = Kind::TaskTransition as u8;
        (head.stub.old_state, head.stub.new_state) = (TcpState::Close as u8, TcpState::Listen as u8);
        let current = Task { pid: 10, tid: 11, comm: Comm::from("worker") };
        let listen = wire::Task { head, comm: current.comm.0 };
        let expected = EventKind::Opening { new: TcpState::Listen, by: current, limit: None };
        assert_eq!(decode_one(listen.as_bytes()).unwrap().kind, expected);
        head.stub.kind = Kind::BareClose as u8;
        (head.stub.old_state, head.stub.new_state) = (TcpState::LastAck as u8, TcpState::Close as u8);
        let close = wire::Task { head, comm: current.comm.0 };
        let expected = EventKind::Closing { old: TcpState::LastAck, current, evidence: None };
        assert_eq!(decode_one(close.as_bytes()).unwrap().kind, expected);
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let good = head(Kind::Transition, TcpState::SynRecv, TcpState::Established);
        let mut record = good;
        record.stub.kind = 99;
        assert_eq!(decode_one(record.as_bytes()), Err(DecodeError::UnknownKind(99)));
        record = good;
        record.stub.new_state = 14;
        assert_eq!(decode_one(record.as_bytes()), Err(DecodeError::UnknownState(14)));
        record = good;
        record.stub.family = 1;
        assert_eq!(decode_one(record.as_bytes()), Err(DecodeError::UnknownFamily(1)));
        let short = &good.as_bytes()[..79];
        assert_eq!(decode_one(short), Err(DecodeError::Length { kind: 1, length: 79, expected: 80 }));
        assert!(decode_one(&[]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, &mut Vec::new());
        }

        #[test]
        fn no_bytes_behind_a_valid_kind_make_it_panic(
            kind in prop_oneof![1_u8..=14, Just(16)], states in (1_u8..=13, 1_u8..=13), mut bytes in proptest::collection::vec(any::<u8>(), 152),
        ) {
            let length = length(super::kind(kind).unwrap());
            bytes.truncate(length);
            bytes[28..32].copy_from_slice(&[kind, INET6, states.0, states.1]);
            prop_assert!(decode(&bytes, &mut Vec::new()).is_ok());
        }
    }
}
