//! Any event, for property tests.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    endpoint::Endpoint,
    event::{Certainty, CloseEvidence, Comm, Event, EventKind, Incident, Occasion, Place, SocketKey, Task},
    listing::{Listing, Record, Round},
    queue::{Follows, NamespaceDrops, QueueRecord, Verdict},
    state::{ALL, TcpState},
};

pub(crate) fn any_state() -> impl Strategy<Value = TcpState> {
    select(ALL.to_vec())
}

pub(crate) fn any_task() -> impl Strategy<Value = Task> {
    let comm = vec(1_u8.., 0..16).prop_map(|name| {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(&name);
        Comm(comm)
    });
    (any::<u32>(), any::<u32>(), comm).prop_map(|(pid, tid, comm)| Task { pid, tid, comm })
}

fn any_evidence() -> impl Strategy<Value = CloseEvidence> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u32>(), any::<i32>(), any::<u32>(), any::<u32>());
    let small = (any::<u16>(), any::<u16>(), any::<u8>(), any::<u8>(), any::<u8>(), any::<u32>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (numbers, small, flags).prop_map(|(numbers, small, flags)| CloseEvidence {
        acked_bytes: numbers.0,
        received_bytes: numbers.1,
        unread_bytes: numbers.2,
        linger2: numbers.3,
        user_timeout_ms: numbers.4,
        segments_out: numbers.5,
        error: small.0,
        soft_error: small.1,
        retransmits: small.2,
        probes: small.3,
        shutdown: small.4,
        fin_timeout_ms: small.5,
        all_acked: flags.0,
        dead: flags.1,
        done: flags.2,
        linger: flags.3,
        has_socket: flags.4,
    })
}

fn any_incident() -> impl Strategy<Value = Incident> {
    prop_oneof![
        (any_task(), any::<i32>()).prop_map(|(by, errno)| Incident::AcceptFailed { by, errno }),
        (any::<u32>(), any::<bool>()).prop_map(|(reason, minisock)| Incident::ResetSent { reason, minisock }),
        any_state().prop_map(|state| Incident::MinisockSegment { state }),
        select(vec![
            Incident::ResetReceived,
            Incident::Retransmit,
            Incident::SynAckRetransmit,
            Incident::ListenOverflow,
        ]),
    ]
}

fn any_occasion() -> impl Strategy<Value = Occasion> {
    let interval = option::of(any::<u64>());
    interval.prop_map(|it| it.map_or(Occasion::Expected, |interval_ns| Occasion::Disagreement { interval_ns }))
}

fn any_queue_record() -> impl Strategy<Value = QueueRecord> {
    let namespace = any::<[u64; 7]>().prop_map(
        |[overflows, drops, requests_full, cookies, sent, received, time_wait_overflows]| {
            let (cookies_sent, cookies_received) = (sent, received);
            NamespaceDrops {
                overflows,
                drops,
                requests_full,
                cookies,
                cookies_sent,
                cookies_received,
                time_wait_overflows,
            }
        },
    );
    let figures = (any::<[u64; 2]>(), any::<[u32; 2]>(), option::of(any::<u32>()), option::of(any::<u32>()));
    (figures, namespace, select(vec![Follows::All, Follows::Some])).prop_map(|(figures, namespace, follows)| {
        let ([from_ns, to_ns], [depth, limit], drops, somaxconn) = figures;
        QueueRecord { from_ns, to_ns, depth, limit, drops, somaxconn, namespace, follows }
    })
}

fn any_kind() -> impl Strategy<Value = EventKind> {
    let queue = || option::of((any::<u32>(), any::<u32>()));
    prop_oneof![
        (any_state(), any_state(), option::of(any_task())).prop_map(|(old, new, by)| EventKind::Transition {
            old,
            new,
            by
        }),
        (any_state(), any_task(), option::of(any::<u32>())).prop_map(|(new, by, limit)| EventKind::Opening {
            new,
            by,
            limit
        }),
        queue().prop_map(|queue| EventKind::Birth { queue }),
        (any_state(), any_task(), option::of(any_evidence()))
            .prop_map(|(old, current, evidence)| { EventKind::Closing { old, current, evidence } }),
        (option::of(any::<u64>()), option::of(any::<u64>()), any::<u32>()).prop_map(|it| EventKind::Enqueue {
            listener: it.0,
            synack_at_ns: it.1,
            synack_retransmits: it.2
        }),
        (any_task(), option::of(any::<i32>()), option::of(any::<u64>()))
            .prop_map(|(by, fd, listener)| { EventKind::Accept { by, fd, listener } }),
        any::<i32>().prop_map(|fd| EventKind::AcceptReturn { fd }),
        Just(EventKind::Destroy),
        any_incident().prop_map(EventKind::Incident),
        (any_state(), queue(), any::<u64>()).prop_map(|(state, queue, interval_ns)| EventKind::Listed {
            state,
            queue,
            interval_ns
        }),
        any::<u64>().prop_map(|interval_ns| EventKind::Unlisted { interval_ns }),
        (
            any_state(),
            option::of(any::<u64>()),
            queue(),
            option::of(any_task()),
            option::of(any::<u64>()),
            any_occasion()
        )
            .prop_map(|(state, expires_in_ns, queue, holder, listener, occasion)| EventKind::Found {
                state,
                expires_in_ns,
                queue,
                holder,
                listener,
                occasion
            }),
        any_task().prop_map(|by| EventKind::Held { by }),
        Just(EventKind::Taken),
        (any_queue_record(), select(vec![Verdict::Agrees, Verdict::Doubtful, Verdict::Differs]))
            .prop_map(|(record, verdict)| EventKind::QueueFound { record, verdict }),
        (select(vec![None, Some(Place::Free), Some(Place::Taken)]), any_occasion())
            .prop_map(|(minisock, occasion)| EventKind::Lost { minisock, occasion }),
    ]
}

pub(crate) fn any_event() -> impl Strategy<Value = Event> {
    let place = (any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>(), option::of(any_tuple()));
    (place, any_kind(), any::<bool>()).prop_map(|((at_ns, netns, cookie, skaddr, tuple), kind, again)| Event {
        at_ns,
        key: SocketKey { netns, cookie },
        skaddr,
        tuple,
        kind,
        certainty: if again { Certainty::PerhapsRepeated } else { Certainty::Once },
    })
}

/// Both ends of a socket are of its family.
pub(crate) fn any_tuple() -> impl Strategy<Value = (Endpoint, Endpoint)> {
    let v4 = || any::<([u8; 4], u16)>().prop_map(|(address, port)| Endpoint::v4(address, port));
    let v6 = || any::<([u8; 16], u16)>().prop_map(|(address, port)| Endpoint::v6(address, port));
    prop_oneof![(v4(), v4()), (v6(), v6())]
}

/// A name as it comes back from a recording: text, cut at 15 bytes.
pub(crate) fn told(task: Task) -> Task {
    Task { comm: Comm::from(&*String::from_utf8_lossy(task.comm.bytes())), ..task }
}

pub(crate) fn any_record() -> impl Strategy<Value = Record> {
    let place = (any::<u32>(), any::<u64>(), any_tuple(), any_state());
    let figures = (option::of(any::<u64>()), option::of(any::<(u32, u32)>()), any::<(u64, u64)>());
    let rest = (option::of(any::<u32>()), any::<u32>(), any::<bool>());
    (place, figures, rest).prop_map(|((netns, cookie, tuple, state), figures, (drops, inode, ours))| {
        let (expires_in_ns, queue, (from_ns, to_ns)) = figures;
        Record {
            key: SocketKey { netns, cookie },
            tuple,
            state,
            expires_in_ns,
            queue,
            from_ns,
            to_ns,
            drops,
            inode,
            ours,
        }
    })
}

pub(crate) fn any_round() -> impl Strategy<Value = Round> {
    let holders = vec((any::<u32>(), any_task().prop_map(told)), 0..3);
    let holders = holders.prop_map(|holders| holders.into_iter().map(|(inode, it)| (inode, vec![it])).collect());
    let dropped = any::<[u64; 4]>().prop_map(|[overflows, drops, cookies, time_wait_overflows]| NamespaceDrops {
        overflows,
        drops,
        cookies,
        time_wait_overflows,
        ..NamespaceDrops::default()
    });
    let place = (any::<u32>(), any::<(u64, u64)>(), any::<bool>(), option::of(any::<u32>()));
    let follows = select(vec![Follows::All, Follows::Some]);
    let listing = (place, vec(any_record(), 0..4), holders, dropped, follows).prop_map(
        |((netns, (from_ns, to_ns), first, somaxconn), records, holders, dropped, follows)| Listing {
            netns,
            from_ns,
            to_ns,
            first,
            records,
            holders,
            dropped,
            somaxconn,
            follows,
        },
    );
    (vec(listing, 0..3), vec(any::<u32>(), 0..3), any::<(u64, u64)>())
        .prop_map(|(listings, gone, (unlisted, to_ns))| Round { listings, gone, unlisted, to_ns })
}
