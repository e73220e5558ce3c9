//! Columns to rows.

use super::{
    columns::ADDRESS_BYTES,
    rows::{Mark, Said},
    schema::{Cells, flag},
    words::Kind,
};
use crate::{
    process::{Process, cgroup::Workload, names::Named},
    tcp::{
        endpoint::Endpoint,
        event::{Certainty, CloseEvidence, Comm, Event, EventKind, Incident, SocketKey, Task},
        listing::{Listing, Record, Round},
        queue::{COUNTERS, Follows},
    },
};

/// Sockets in one round of listings at most: a file with more is not one of ours.
const MOST_SOCKETS: usize = 16_000_000;

/// What a table of rows says. Rounds may go over several tables.
#[derive(Debug, Default)]
pub(super) struct Reading {
    round: Round,
    sockets: usize,
    /// Rows that this version does not understand: of a later one, or without what they must have.
    pub(super) not_understood: u64,
}

/// Why a row cannot be understood.
struct NotUnderstood;

impl Reading {
    /// Appends what the rows of a table say.
    ///
    /// # Errors
    /// In words, if it cannot be from a recording.
    pub(super) fn read(&mut self, cells: &Cells, rows: usize, said: &mut Said) -> Result<(), String> {
        for row in 0..rows {
            if let Err(NotUnderstood) = self.row(cells, row, said) {
                self.not_understood += 1;
            }
            if self.sockets > MOST_SOCKETS {
                return Err(format!("a listing of more than {MOST_SOCKETS} sockets"));
            }
        }
        Ok(())
    }

    #[inline]
    fn row(&mut self, cells: &Cells, row: usize, said: &mut Said) -> Result<(), NotUnderstood> {
        let at_ns = cells.at_ns.get(row).ok_or(NotUnderstood)?;
        let kind = cells.kind.get(row).ok_or(NotUnderstood)?;
        let mark = match kind {
            Kind::Tick => Mark::Tick { now_ns: at_ns },
            Kind::Loss => Mark::Loss {
                index: cells.what.get(row).filter(|what| what.as_counter().is_none()).ok_or(NotUnderstood)?.0,
                count: cells.count.or_zero(row),
            },
            Kind::Clock => Mark::Clock { at_ns, wall_offset_ns: cells.count.or_zero(row) },
            Kind::RoundExpected => Mark::RoundExpected,
            Kind::Round => {
                self.sockets = 0;
                let round = std::mem::take(&mut self.round);
                Mark::Round(Round { to_ns: at_ns, unlisted: cells.count.or_zero(row), ..round })
            }
            Kind::Process => Mark::Process(named(cells, row, at_ns)?),
            Kind::Listing | Kind::Socket | Kind::Holder | Kind::Counter | Kind::NamespaceGone => {
                return self.listing(cells, row, kind, at_ns);
            }
            event => {
                said.events.push(Event {
                    at_ns,
                    key: key(cells, row)?,
                    skaddr: cells.skaddr.or_zero(row),
                    tuple: tuple(cells, row),
                    kind: event_kind(cells, row, event)?,
                    certainty: if flags(cells, row) & flag::AGAIN == 0 {
                        Certainty::Once
                    } else {
                        Certainty::PerhapsRepeated
                    },
                });
                return Ok(());
            }
        };
        said.marks.push((said.events.len(), mark));
        Ok(())
    }

    /// A part of a round.
    fn listing(&mut self, cells: &Cells, row: usize, kind: Kind, at_ns: u64) -> Result<(), NotUnderstood> {
        let flags = flags(cells, row);
        if kind == Kind::Listing {
            self.round.listings.push(Listing {
                netns: cells.netns.get(row).ok_or(NotUnderstood)?,
                from_ns: cells.from_ns.or_zero(row),
                to_ns: at_ns,
                first: flags & flag::FIRST != 0,
                somaxconn: cells.somaxconn.get(row),
                follows: if flags & flag::FOLLOWS_ALL == 0 { Follows::Some } else { Follows::All },
                ..Listing::default()
            });
            return Ok(());
        }
        if kind == Kind::NamespaceGone {
            self.round.gone.push(cells.netns.get(row).ok_or(NotUnderstood)?);
            return Ok(());
        }
        let listing = self.round.listings.last_mut().ok_or(NotUnderstood)?;
        self.sockets += 1;
        match kind {
            Kind::Socket => listing.records.push(Record {
                key: key(cells, row)?,
                tuple: tuple(cells, row).ok_or(NotUnderstood)?,
                state: cells.new.get(row).ok_or(NotUnderstood)?,
                expires_in_ns: cells.expires_in_ns.get(row),
                queue: queue(cells, row),
                from_ns: cells.from_ns.or_zero(row),
                to_ns: at_ns,
                drops: cells.drops.get(row),
                inode: cells.inode.or_zero(row),
                ours: flags & flag::OURS != 0,
            }),
            Kind::Holder => {
                let inode = cells.inode.get(row).ok_or(NotUnderstood)?;
                listing.holders.entry(inode).or_default().push(task(cells, row)?);
            }
            _counter => {
                let counter = cells.what.get(row).and_then(super::words::What::as_counter).ok_or(NotUnderstood)?;
                *COUNTERS[counter].1(&mut listing.dropped) = cells.count.or_zero(row);
            }
        }
        Ok(())
    }
}

fn event_kind(cells: &Cells, row: usize, kind: Kind) -> Result<EventKind, NotUnderstood> {
    let old = || cells.old.get(row).ok_or(NotUnderstood);
    let new = || cells.new.get(row).ok_or(NotUnderstood);
    Ok(match kind {
        Kind::Transition => EventKind::Transition { old: old()?, new: new()?, by: task(cells, row).ok() },
        Kind::Opening => EventKind::Opening { new: new()?, by: task(cells, row)?, limit: cells.queue_limit.get(row) },
        Kind::Birth => EventKind::Birth { queue: queue(cells, row) },
        Kind::Closing => EventKind::Closing { old: old()?, current: task(cells, row)?, evidence: evidence(cells, row) },
        Kind::Enqueue => EventKind::Enqueue {
            listener: cells.listener.get(row),
            synack_at_ns: cells.synack_at_ns.get(row),
            synack_retransmits: cells.synack_retransmits.or_zero(row),
        },
        Kind::Accept => {
            EventKind::Accept { by: task(cells, row)?, fd: cells.fd.get(row), listener: cells.listener.get(row) }
        }
        Kind::AcceptReturn => EventKind::AcceptReturn { fd: cells.fd.get(row).ok_or(NotUnderstood)? },
        Kind::Destroy => EventKind::Destroy,
        Kind::Listed => {
            EventKind::Listed { state: new()?, queue: queue(cells, row), interval_ns: cells.interval_ns.or_zero(row) }
        }
        Kind::Unlisted => EventKind::Unlisted { interval_ns: cells.interval_ns.or_zero(row) },
        incident => EventKind::Incident(self::incident(cells, row, incident)?),
    })
}

fn incident(cells: &Cells, row: usize, kind: Kind) -> Result<Incident, NotUnderstood> {
    Ok(match kind {
        Kind::AcceptFailed => Incident::AcceptFailed { by: task(cells, row)?, errno: cells.errno.or_zero(row) },
        Kind::ResetSent => Incident::ResetSent {
            reason: cells.reset_reason.or_zero(row),
            minisock: flags(cells, row) & flag::MINISOCK != 0,
        },
        Kind::ResetReceived => Incident::ResetReceived,
        Kind::Retransmit => Incident::Retransmit,
        Kind::SynAckRetransmit => Incident::SynAckRetransmit,
        Kind::ListenOverflow => Incident::ListenOverflow,
        Kind::MinisockSegment => Incident::MinisockSegment { state: cells.new.get(row).ok_or(NotUnderstood)? },
        _no_event => return Err(NotUnderstood),
    })
}

fn flags(cells: &Cells, row: usize) -> u16 {
    cells.flags.or_zero(row)
}

fn key(cells: &Cells, row: usize) -> Result<SocketKey, NotUnderstood> {
    let netns = cells.netns.get(row).ok_or(NotUnderstood)?;
    Ok(SocketKey { netns, cookie: cells.cookie.or_zero(row) })
}

fn tuple(cells: &Cells, row: usize) -> Option<(Endpoint, Endpoint)> {
    let is_v4 = cells.family.get(row)? == 4;
    let end = |address: [u8; ADDRESS_BYTES], port| match address {
        [.., a, b, c, d] if is_v4 => Endpoint::v4([a, b, c, d], port),
        address => Endpoint::v6(address, port),
    };
    let local = end(cells.local_address.get(row)?, cells.local_port.or_zero(row));
    Some((local, end(cells.remote_address.get(row)?, cells.remote_port.or_zero(row))))
}

fn task(cells: &Cells, row: usize) -> Result<Task, NotUnderstood> {
    let pid = cells.pid.get(row).ok_or(NotUnderstood)?;
    let comm = cells.comm.get(row).map(Comm::from).unwrap_or_default();
    Ok(Task { pid, tid: cells.tid.get(row).unwrap_or(pid), comm })
}

fn queue(cells: &Cells, row: usize) -> Option<(u32, u32)> {
    cells.queue_depth.get(row).zip(cells.queue_limit.get(row))
}

fn evidence(cells: &Cells, row: usize) -> Option<CloseEvidence> {
    let flags = flags(cells, row);
    let set = |bit| flags & bit != 0;
    set(flag::EVIDENCE).then(|| CloseEvidence {
        acked_bytes: cells.acked_bytes.or_zero(row),
        received_bytes: cells.received_bytes.or_zero(row),
        all_acked: set(flag::ALL_ACKED),
        unread_bytes: cells.unread_bytes.or_zero(row),
        linger2: cells.linger2.or_zero(row),
        user_timeout_ms: cells.user_timeout_ms.or_zero(row),
        segments_out: cells.segments_out.or_zero(row),
        error: cells.error.or_zero(row),
        soft_error: cells.soft_error.or_zero(row),
        dead: set(flag::DEAD),
        done: set(flag::DONE),
        linger: set(flag::LINGER),
        retransmits: cells.retransmits.or_zero(row),
        probes: cells.probes.or_zero(row),
        shutdown: cells.shutdown.or_zero(row),
        fin_timeout_ms: cells.fin_timeout_ms.or_zero(row),
        has_socket: set(flag::HAS_SOCKET),
    })
}

fn named(cells: &Cells, row: usize, started_ns: u64) -> Result<Named, NotUnderstood> {
    Ok(Named {
        started_ns,
        process: Process {
            pid: cells.pid.get(row).ok_or(NotUnderstood)?,
            comm: cells.comm.get(row).map(Comm::from).unwrap_or_default(),
            command: cells.command.get(row).map(printable),
            workload: cells.cgroup.get(row).map(Workload::of_path).unwrap_or_default(),
        },
    })
}

/// What a file says is foreign to us.
fn printable(text: &str) -> String {
    text.replace(crate::tcp::event::is_unprintable, "?")
}
