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

/// Rows of listings between two ticks at most, and in one round: a file with more is not one of ours.
pub(crate) const MOST_LISTED: usize = 16_000_000;

/// Other rows between two ticks at most: whoever replays keeps them until there is one.
const MOST_SAID: usize = 4_000_000;

/// Bytes of a command, or of a cgroup's path, that are kept (`PATH_MAX`).
const MOST_TEXT: usize = 4096;

/// What a table of rows says. Rounds may go over several tables.
#[derive(Debug, Default)]
pub(super) struct Reading {
    round: Round,
    /// Rows of listings since the last tick that was not within a round.
    listed: usize,
    /// Other rows since the last tick.
    said: usize,
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
            if self.listed > MOST_LISTED {
                return Err(format!("listings of more than {MOST_LISTED} rows without a tick"));
            }
            if self.said > MOST_SAID {
                return Err(format!("more than {MOST_SAID} rows without a tick"));
            }
        }
        Ok(())
    }

    #[inline]
    fn row(&mut self, cells: &Cells, row: usize, said: &mut Said) -> Result<(), NotUnderstood> {
        let at_ns = cells.at_ns.get(row).ok_or(NotUnderstood)?;
        let kind = cells.kind.get(row).ok_or(NotUnderstood)?;
        let mark = match kind {
            Kind::Tick => {
                self.pass();
                Mark::Tick { now_ns: at_ns }
            }
            Kind::Loss => {
                let what = cells.what.get(row).filter(|what| what.as_counter().is_none()).ok_or(NotUnderstood)?;
                let (index, count) = (what.0, cells.count.or_zero(row));
                if flags(cells, row) & flag::BEFORE == 0 {
                    Mark::Loss { index, count }
                } else {
                    Mark::LostBefore { index, count }
                }
            }
            Kind::Clock => Mark::Clock { at_ns, wall_offset_ns: cells.count.or_zero(row) },
            Kind::RoundExpected => Mark::RoundExpected,
            Kind::Round => {
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
                self.said += 1;
                return Ok(());
            }
        };
        said.marks.push((said.events.len(), mark));
        self.said += 1;
        Ok(())
    }

    /// What was said until now needs to be kept no longer, unless it belongs to a round that goes on.
    fn pass(&mut self) {
        self.said = 0;
        if self.round.listings.is_empty() && self.round.gone.is_empty() {
            self.listed = 0;
        }
    }

    /// A part of a round.
    fn listing(&mut self, cells: &Cells, row: usize, kind: Kind, at_ns: u64) -> Result<(), NotUnderstood> {
        let flags = flags(cells, row);
        self.listed += 1;
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
            workload: cells.cgroup.get(row).map(short).map(Workload::of_path).unwrap_or_default(),
        },
    })
}

/// What a file says is foreign to us.
fn printable(text: &str) -> String {
    short(text).replace(crate::tcp::event::is_unprintable, "?")
}

/// As much of it as is kept.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_TEXT)]
}

#[cfg(test)]
mod tests {
    use arrow_schema::Metadata;

    use super::*;
    use crate::recording::{batch::Batch, schema::schema};

    /// What comes of rows.
    fn read(reading: &mut Reading, fill: impl FnOnce(&mut Batch)) -> Result<Said, String> {
        let (mut batch, mut said) = (Batch::default(), Said::default());
        fill(&mut batch);
        let batch = batch.finish(&schema(Metadata::new())).unwrap();
        reading.read(&Cells::of(&batch).unwrap(), batch.num_rows(), &mut said).map(|()| said)
    }

    #[test]
    fn without_a_tick_only_so_much_is_said() {
        let nearly = || Reading { said: MOST_SAID - 1, ..Reading::default() };
        read(&mut nearly(), |batch| batch.clock(1, 2)).unwrap();
        let error = read(&mut nearly(), |batch| (0..2).for_each(|at_ns| batch.clock(at_ns, 2))).unwrap_err();
        assert_eq!(error, "more than 4000000 rows without a tick");
        let mut reading = nearly();
        for at_ns in 0..3 {
            read(&mut reading, |batch| {
                batch.tick(at_ns);
                batch.round_expected(at_ns);
            })
            .unwrap();
        }
    }

    /// Every row counts that is kept, of all rounds that wait for the same tick.
    #[test]
    fn without_a_tick_only_so_much_is_listed() {
        let nearly = || Reading { listed: MOST_LISTED - 2, ..Reading::default() };
        let empty = Round { listings: vec![Listing::default()], gone: vec![7], ..Round::default() };
        read(&mut nearly(), |batch| batch.round(&empty)).unwrap();
        let error = read(&mut nearly(), |batch| (0..2).for_each(|_| batch.round(&empty))).unwrap_err();
        assert_eq!(error, "listings of more than 16000000 rows without a tick");
        let mut reading = nearly();
        for at_ns in 0..3 {
            read(&mut reading, |batch| {
                batch.round(&empty);
                batch.tick(at_ns);
            })
            .unwrap();
        }
        // A round that goes on is kept across a tick.
        let mut reading = nearly();
        reading.round.gone.push(7);
        read(&mut reading, |batch| batch.tick(1)).unwrap();
        assert_eq!(reading.listed, MOST_LISTED - 2);
    }

    #[test]
    fn a_process_s_words_are_cut() {
        let named = Named {
            started_ns: 1,
            process: Process {
                pid: 7,
                comm: "nginx".into(),
                command: Some("x".repeat(MOST_TEXT + 1)),
                workload: Workload::of_path(&"/x".repeat(MOST_TEXT)),
            },
        };
        let said = read(&mut Reading::default(), |batch| batch.process(&named)).unwrap();
        let [(_, Mark::Process(Named { process, .. }))] = &said.marks[..] else { panic!("{said:?}") };
        let lengths = (process.command.as_ref().map(String::len), process.workload.cgroup.as_ref().map(String::len));
        assert_eq!(lengths, (Some(MOST_TEXT), Some(MOST_TEXT)));
    }
}
