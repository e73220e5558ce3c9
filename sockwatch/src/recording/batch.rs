//! Rows to columns.

use arrow_array::{RecordBatch, types::UInt16Type};
use arrow_schema::{ArrowError, SchemaRef};

use super::{
    columns::{ADDRESS_BYTES, Addresses, Numbers},
    schema::{Columns, flag},
    words::{Kind, What},
};
use crate::{
    process::names::Named,
    tcp::{
        endpoint::Endpoint,
        event::{Certainty, CloseEvidence, Event, EventKind, Incident, SocketKey, Task},
        listing::{Listing, Record, Round},
        loss::{COUNTED, Losses},
        queue::{COUNTERS, Follows},
        state::TcpState,
    },
};

/// A batch in the making.
#[derive(Debug, Default)]
pub(super) struct Batch {
    columns: Columns,
    rows: usize,
    /// Rows that tell more than that time has passed.
    telling: usize,
}

impl Batch {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether there is anything in it but ticks.
    pub(super) fn tells(&self) -> bool {
        self.telling > 0
    }

    /// The batch; empty afterwards.
    pub(super) fn finish(&mut self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let columns = self.columns.finish(self.rows);
        (self.rows, self.telling) = (0, 0);
        RecordBatch::try_new(SchemaRef::clone(schema), columns)
    }

    pub(super) fn event(&mut self, event: &Event) {
        let Some(kind) = Kind::of(&event.kind) else { return };
        let row = self.row(kind, event.at_ns);
        self.socket(row, event.key, event.tuple);
        if event.skaddr != 0 {
            self.columns.skaddr.set(row, event.skaddr);
        }
        let again = if event.certainty == Certainty::PerhapsRepeated { flag::AGAIN } else { 0 };
        let flags = again | self.own_part(row, &event.kind);
        self.flags(row, flags);
    }

    pub(super) fn tick(&mut self, now_ns: u64) {
        self.row(Kind::Tick, now_ns);
        self.telling -= 1;
    }

    /// What has grown since `before`.
    pub(super) fn losses(&mut self, at_ns: u64, mut before: Losses, mut now: Losses) {
        for (index, (_, count)) in COUNTED.iter().enumerate() {
            if *count(&mut now) != *count(&mut before) {
                self.count(Kind::Loss, at_ns, What(index), *count(&mut now));
            }
        }
    }

    /// What had been lost before this batch: its file may be read without the others. That is nothing new.
    pub(super) fn lost_before(&mut self, at_ns: u64, mut losses: Losses) {
        let telling = self.telling;
        for (index, (_, count)) in COUNTED.iter().enumerate() {
            if let count @ 1.. = *count(&mut losses) {
                let row = self.count(Kind::Loss, at_ns, What(index), count);
                self.flags(row, flag::BEFORE);
            }
        }
        self.telling = telling;
    }

    pub(super) fn clock(&mut self, at_ns: u64, wall_offset_ns: u64) {
        let row = self.row(Kind::Clock, at_ns);
        self.columns.count.set(row, wall_offset_ns);
    }

    pub(super) fn round_expected(&mut self, at_ns: u64) {
        self.row(Kind::RoundExpected, at_ns);
    }

    pub(super) fn round(&mut self, round: &Round) {
        round.listings.iter().for_each(|listing| self.listing(listing));
        for netns in &round.gone {
            let row = self.row(Kind::NamespaceGone, round.to_ns);
            self.columns.netns.set(row, *netns);
        }
        let row = self.row(Kind::Round, round.to_ns);
        self.columns.count.set(row, round.unlisted);
    }

    pub(super) fn process(&mut self, named: &Named) {
        let row = self.row(Kind::Process, named.started_ns);
        let process = &named.process;
        self.columns.pid.set(row, process.pid);
        self.columns.comm.set(row, &String::from_utf8_lossy(process.comm.bytes()));
        if let Some(command) = &process.command {
            self.columns.command.set(row, command);
        }
        if let Some(cgroup) = &process.workload.cgroup {
            self.columns.cgroup.set(row, cgroup);
        }
    }

    fn listing(&mut self, listing: &Listing) {
        let row = self.row(Kind::Listing, listing.to_ns);
        self.columns.netns.set(row, listing.netns);
        self.columns.from_ns.set(row, listing.from_ns);
        self.columns.somaxconn.option(row, listing.somaxconn);
        let first = if listing.first { flag::FIRST } else { 0 };
        self.flags(row, first | if listing.follows == Follows::All { flag::FOLLOWS_ALL } else { 0 });
        listing.records.iter().for_each(|record| self.record(record));
        for (inode, holders) in &listing.holders {
            for holder in holders {
                let row = self.row(Kind::Holder, listing.to_ns);
                self.columns.inode.set(row, *inode);
                self.task(row, *holder);
            }
        }
        let mut dropped = listing.dropped;
        for (index, (_, counter)) in COUNTERS.iter().enumerate() {
            if let count @ 1.. = *counter(&mut dropped) {
                self.count(Kind::Counter, listing.to_ns, What::counter(index), count);
            }
        }
    }

    fn record(&mut self, record: &Record) {
        let row = self.row(Kind::Socket, record.to_ns);
        self.socket(row, record.key, Some(record.tuple));
        self.columns.new.set(row, record.state);
        self.columns.expires_in_ns.option(row, record.expires_in_ns);
        self.queue(row, record.queue);
        self.columns.from_ns.set(row, record.from_ns);
        self.columns.drops.option(row, record.drops);
        self.columns.inode.set(row, record.inode);
        self.flags(row, if record.ours { flag::OURS } else { 0 });
    }

    fn count(&mut self, kind: Kind, at_ns: u64, what: What, count: u64) -> usize {
        let row = self.row(kind, at_ns);
        self.columns.what.set(row, what);
        self.columns.count.set(row, count);
        row
    }

    /// Begins a row.
    #[inline]
    fn row(&mut self, kind: Kind, at_ns: u64) -> usize {
        let row = self.rows;
        self.columns.at_ns.set(row, at_ns);
        self.columns.kind.set(row, kind);
        self.rows += 1;
        self.telling += 1;
        row
    }

    fn socket(&mut self, row: usize, key: SocketKey, tuple: Option<(Endpoint, Endpoint)>) {
        let columns = &mut self.columns;
        columns.netns.set(row, key.netns);
        columns.cookie.set(row, key.cookie);
        if let Some((local, remote)) = tuple {
            columns.family.set(row, if local.address.is_ipv4() { 4 } else { 6 });
            end(&mut columns.local_address, &mut columns.local_port, row, local);
            end(&mut columns.remote_address, &mut columns.remote_port, row, remote);
        }
    }

    fn task(&mut self, row: usize, task: Task) {
        self.columns.pid.set(row, task.pid);
        self.columns.tid.set(row, task.tid);
        match str::from_utf8(task.comm.bytes()) {
            Ok(comm) => self.columns.comm.set(row, comm),
            Err(_) => self.columns.comm.set(row, &String::from_utf8_lossy(task.comm.bytes())),
        }
    }

    fn queue(&mut self, row: usize, queue: Option<(u32, u32)>) {
        if let Some((depth, limit)) = queue {
            self.columns.queue_depth.set(row, depth);
            self.columns.queue_limit.set(row, limit);
        }
    }

    #[inline]
    fn flags(&mut self, row: usize, flags: u16) {
        if flags != 0 {
            self.columns.flags.set(row, flags);
        }
    }

    fn states(&mut self, row: usize, old: TcpState, new: TcpState) {
        self.columns.old.set(row, old);
        self.columns.new.set(row, new);
    }

    /// An event's own part. Returns its flags.
    fn own_part(&mut self, row: usize, kind: &EventKind) -> u16 {
        match *kind {
            EventKind::Transition { old, new, by } => {
                self.states(row, old, new);
                if let Some(by) = by {
                    self.task(row, by);
                }
            }
            EventKind::Opening { new, by, limit } => {
                self.columns.new.set(row, new);
                self.task(row, by);
                self.columns.queue_limit.option(row, limit);
            }
            EventKind::Birth { queue } => self.queue(row, queue),
            EventKind::Closing { old, current, evidence } => {
                self.columns.old.set(row, old);
                self.task(row, current);
                return evidence.map_or(0, |evidence| self.evidence(row, &evidence));
            }
            EventKind::Enqueue { listener, synack_at_ns, synack_retransmits } => {
                self.columns.listener.option(row, listener);
                self.columns.synack_at_ns.option(row, synack_at_ns);
                self.columns.synack_retransmits.set(row, synack_retransmits);
            }
            EventKind::Accept { by, fd, listener } => {
                self.task(row, by);
                self.columns.fd.option(row, fd);
                self.columns.listener.option(row, listener);
            }
            EventKind::AcceptReturn { fd } => self.columns.fd.set(row, fd),
            EventKind::Incident(incident) => return self.incident(row, incident),
            EventKind::Listed { state, queue, interval_ns } => {
                self.columns.new.set(row, state);
                self.queue(row, queue);
                self.columns.interval_ns.set(row, interval_ns);
            }
            EventKind::Unlisted { interval_ns } => self.columns.interval_ns.set(row, interval_ns),
            EventKind::Destroy => {}
            EventKind::Found { .. }
            | EventKind::Held { .. }
            | EventKind::Taken
            | EventKind::QueueFound { .. }
            | EventKind::Lost { .. } => {}
        }
        0
    }

    fn incident(&mut self, row: usize, incident: Incident) -> u16 {
        match incident {
            Incident::AcceptFailed { by, errno } => {
                self.task(row, by);
                self.columns.errno.set(row, errno);
            }
            Incident::ResetSent { reason, minisock } => {
                self.columns.reset_reason.set(row, reason);
                return if minisock { flag::MINISOCK } else { 0 };
            }
            Incident::MinisockSegment { state } => self.columns.new.set(row, state),
            Incident::ResetReceived | Incident::Retransmit | Incident::SynAckRetransmit | Incident::ListenOverflow => {}
        }
        0
    }

    fn evidence(&mut self, row: usize, evidence: &CloseEvidence) -> u16 {
        let CloseEvidence {
            acked_bytes,
            received_bytes,
            all_acked,
            unread_bytes,
            linger2,
            user_timeout_ms,
            segments_out,
            error,
            soft_error,
            dead,
            done,
            linger,
            retransmits,
            probes,
            shutdown,
            fin_timeout_ms,
            has_socket,
        } = *evidence;
        let columns = &mut self.columns;
        columns.acked_bytes.set(row, acked_bytes);
        columns.received_bytes.set(row, received_bytes);
        columns.unread_bytes.set(row, unread_bytes);
        columns.linger2.set(row, linger2);
        columns.user_timeout_ms.set(row, user_timeout_ms);
        columns.segments_out.set(row, segments_out);
        columns.error.set(row, error);
        columns.soft_error.set(row, soft_error);
        columns.retransmits.set(row, retransmits);
        columns.probes.set(row, probes);
        columns.shutdown.set(row, shutdown);
        columns.fin_timeout_ms.set(row, fin_timeout_ms);
        let bits = [
            (all_acked, flag::ALL_ACKED),
            (dead, flag::DEAD),
            (done, flag::DONE),
            (linger, flag::LINGER),
            (has_socket, flag::HAS_SOCKET),
        ];
        bits.iter().filter(|(set, _)| *set).fold(flag::EVIDENCE, |flags, (_, bit)| flags | bit)
    }
}

fn end(addresses: &mut Addresses, ports: &mut Numbers<UInt16Type>, row: usize, end: Endpoint) {
    addresses.set(row, octets(end));
    ports.set(row, end.port);
}

fn octets(end: Endpoint) -> [u8; ADDRESS_BYTES] {
    match end.address {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(address) => address.octets(),
    }
}

impl Kind {
    /// Of an event that a source says; `None` for the tracker's own conclusions.
    pub(super) fn of(kind: &EventKind) -> Option<Self> {
        Some(match kind {
            EventKind::Transition { .. } => Self::Transition,
            EventKind::Opening { .. } => Self::Opening,
            EventKind::Birth { .. } => Self::Birth,
            EventKind::Closing { .. } => Self::Closing,
            EventKind::Enqueue { .. } => Self::Enqueue,
            EventKind::Accept { .. } => Self::Accept,
            EventKind::AcceptReturn { .. } => Self::AcceptReturn,
            EventKind::Destroy => Self::Destroy,
            EventKind::Listed { .. } => Self::Listed,
            EventKind::Unlisted { .. } => Self::Unlisted,
            EventKind::Incident(incident) => match incident {
                Incident::AcceptFailed { .. } => Self::AcceptFailed,
                Incident::ResetSent { .. } => Self::ResetSent,
                Incident::ResetReceived => Self::ResetReceived,
                Incident::Retransmit => Self::Retransmit,
                Incident::SynAckRetransmit => Self::SynAckRetransmit,
                Incident::ListenOverflow => Self::ListenOverflow,
                Incident::MinisockSegment { .. } => Self::MinisockSegment,
            },
            EventKind::Found { .. }
            | EventKind::Held { .. }
            | EventKind::Taken
            | EventKind::QueueFound { .. }
            | EventKind::Lost { .. } => return None,
        })
    }
}
