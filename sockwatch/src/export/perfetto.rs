//! A timeline for <https://ui.perfetto.dev>: below each process its sockets, a slice per state; below each listener its accept
//! queue, a slice per connection that waits in it.

mod proto;
mod tracks;

use std::{
    collections::HashMap,
    io::{self, Write},
};

use foldhash::fast::FixedState;
use prost::Message;

use self::{
    proto::{
        COUNTER, Clock, ClockSnapshot, CounterDescriptor, DebugAnnotation, EXPLICIT_ORDER, EventName, INSTANT,
        InternedData, MONOTONIC, NEEDS_STATE, PACKET_KEY, ProcessDescriptor, REALTIME, SLICE_BEGIN, SLICE_END,
        STATE_CLEARED, TracePacket, TracePacketDefaults, TrackDescriptor, TrackEvent,
    },
    tracks::{Group, Kind, Track, Tracks},
};
use crate::{
    pipeline::Totals,
    process::names::Names,
    recording::header::Header,
    sink::{Sink, wall::Wall},
    tcp::{
        close::Ending,
        connection::{Connection, MAX_SPANS, Role},
        endpoint::Endpoint,
        event::{Comm, SocketKey, Task},
        minisock::TIME_WAIT_NS,
        reset::ResetReasons,
        sentence::sentence,
        state::{self, TcpState},
        update::{Happening, Subject, Update},
    },
};

/// All packets are one writer's.
const SEQUENCE: u32 = 1;

/// Written in portions of this size.
const BUFFER_BYTES: usize = 1 << 16;

/// A socket that has not ended yet.
struct Living {
    subject: Subject,
    /// Its states, and since when.
    since: Vec<(u64, TcpState)>,
    /// Its listener, while it waits in the accept queue.
    waits_for: Option<u64>,
}

/// The names of a slice: of a state it is interned.
enum Name<'a> {
    State(TcpState),
    Text(&'a str),
}

/// Writes a Perfetto trace.
pub struct Perfetto<W> {
    out: W,
    buffer: Vec<u8>,
    tracks: Tracks,
    living: HashMap<(SocketKey, u32), Living, FixedState>,
    /// Where listeners are, and whose.
    listeners: HashMap<SocketKey, Subject>,
    names: Names,
    /// The thread's name that a process was last seen under, where nobody told its own.
    comms: HashMap<u32, Comm>,
    reasons: ResetReasons,
    wall: Wall,
    last_ns: u64,
    slices: u64,
}

impl<W: Write> Perfetto<W> {
    /// Into this.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(out: W, header: &Header, wall: Wall, names: Names) -> io::Result<Self> {
        let mut trace = Self {
            out,
            buffer: Vec::with_capacity(BUFFER_BYTES + 4096),
            tracks: Tracks::default(),
            living: HashMap::default(),
            listeners: HashMap::new(),
            names,
            comms: HashMap::new(),
            reasons: header.reset_reasons.clone(),
            wall,
            last_ns: header.started_ns,
            slices: 0,
        };
        trace.begin()?;
        Ok(trace)
    }

    /// Which clock is which, and the states' names.
    fn begin(&mut self) -> io::Result<()> {
        let name = |state: TcpState| EventName { iid: Some(iid(state)), name: Some(state.name().to_owned()) };
        self.clocks(self.last_ns)?;
        self.packet(&TracePacket {
            trusted_packet_sequence_id: Some(SEQUENCE),
            sequence_flags: Some(STATE_CLEARED),
            trace_packet_defaults: Some(TracePacketDefaults { timestamp_clock_id: Some(MONOTONIC) }),
            interned_data: Some(InternedData { event_names: state::ALL.into_iter().map(name).collect() }),
            ..TracePacket::default()
        })
    }

    /// What time of day it was then.
    fn clocks(&mut self, at_ns: u64) -> io::Result<()> {
        let clock = |clock_id, timestamp| Clock { clock_id: Some(clock_id), timestamp: Some(timestamp) };
        let clocks = vec![clock(MONOTONIC, at_ns), clock(REALTIME, self.wall.unix_ns(at_ns))];
        self.packet(&TracePacket {
            clock_snapshot: Some(ClockSnapshot { clocks, primary_trace_clock: Some(MONOTONIC) }),
            trusted_packet_sequence_id: Some(SEQUENCE),
            ..TracePacket::default()
        })
    }

    /// Writes what has not ended, and what was not seen. Returns what it was written to, and how many slices there are.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self, totals: &Totals) -> io::Result<(W, u64)> {
        let mut living: Vec<_> = std::mem::take(&mut self.living).into_values().collect();
        living.sort_by_key(|living| (living.since.first().map(|(at_ns, _)| *at_ns), living.subject.key));
        for living in living {
            self.unended(&living)?;
        }
        for moved in self.wall.moves() {
            self.clocks(moved.at_ns)?;
        }
        let losses = &totals.losses;
        let (lost, missed, dropped) = (losses.lost(), losses.missed(), losses.dropped());
        if lost + missed + dropped > 0 {
            let text = format!("NOT COMPLETE: lost {lost}, missed {missed}, dropped {dropped}");
            let track = self.track(Group::Nobody, Kind::Happenings)?;
            self.event(self.last_ns, track, INSTANT, Some(Name::Text(&text)), Vec::new())?;
        }
        self.out.write_all(&self.buffer)?;
        self.out.flush()?;
        Ok((self.out, self.slices))
    }

    fn packet(&mut self, packet: &TracePacket) -> io::Result<()> {
        self.buffer.push(PACKET_KEY);
        packet.encode_length_delimited(&mut self.buffer).map_err(io::Error::other)?;
        if self.buffer.len() >= BUFFER_BYTES {
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn descriptor(&mut self, descriptor: TrackDescriptor) -> io::Result<()> {
        self.packet(&TracePacket {
            trusted_packet_sequence_id: Some(SEQUENCE),
            track_descriptor: Some(descriptor),
            ..TracePacket::default()
        })
    }

    fn event(
        &mut self,
        at_ns: u64,
        track_uuid: u64,
        r#type: i32,
        name: Option<Name<'_>>,
        debug_annotations: Vec<DebugAnnotation>,
    ) -> io::Result<()> {
        let (name_iid, name) = match name {
            Some(Name::State(state)) => (Some(iid(state)), None),
            Some(Name::Text(text)) => (None, Some(text.to_owned())),
            None => (None, None),
        };
        let track_uuid = Some(track_uuid);
        self.packet(&TracePacket {
            timestamp: Some(at_ns),
            trusted_packet_sequence_id: Some(SEQUENCE),
            sequence_flags: Some(NEEDS_STATE),
            track_event: Some(TrackEvent {
                debug_annotations,
                r#type: Some(r#type),
                name_iid,
                track_uuid,
                name,
                ..TrackEvent::default()
            }),
            ..TracePacket::default()
        })
    }

    /// A slice without others in it.
    fn slice(
        &mut self,
        (from_ns, to_ns): (u64, u64),
        (group, kind): (Group, Kind),
        name: Name<'_>,
        annotations: Vec<DebugAnnotation>,
    ) -> io::Result<()> {
        let track = self.lane(group, kind, (from_ns, to_ns))?;
        self.slices += 1;
        self.event(from_ns, track, SLICE_BEGIN, Some(name), annotations)?;
        self.event(to_ns, track, SLICE_END, None, Vec::new())
    }

    fn count(&mut self, at_ns: u64, group: Group, kind: Kind, value: u32) -> io::Result<()> {
        let track_uuid = Some(self.track(group, kind)?);
        self.packet(&TracePacket {
            timestamp: Some(at_ns),
            trusted_packet_sequence_id: Some(SEQUENCE),
            sequence_flags: Some(NEEDS_STATE),
            track_event: Some(TrackEvent {
                r#type: Some(COUNTER),
                track_uuid,
                counter_value: Some(value.into()),
                ..TrackEvent::default()
            }),
            ..TracePacket::default()
        })
    }

    fn instant(
        &mut self,
        at_ns: u64,
        (group, kind): (Group, Kind),
        name: &str,
        annotations: Vec<DebugAnnotation>,
    ) -> io::Result<()> {
        let track = self.track(group, kind)?;
        self.event(at_ns, track, INSTANT, Some(Name::Text(name)), annotations)
    }

    fn track(&mut self, group: Group, kind: Kind) -> io::Result<u64> {
        let parent = self.group(group)?;
        let track = self.tracks.only(group, kind);
        self.announce(&track, parent, kind)
    }

    fn lane(&mut self, group: Group, kind: Kind, (from_ns, to_ns): (u64, u64)) -> io::Result<u64> {
        let parent = self.group(group)?;
        let track = self.tracks.lane(group, kind, from_ns, to_ns);
        self.announce(&track, parent, kind)
    }

    fn announce(&mut self, track: &Track, parent: u64, kind: Kind) -> io::Result<u64> {
        if track.is_new {
            let counter = matches!(kind, Kind::Depth | Kind::Limit)
                .then(|| CounterDescriptor { unit_name: Some("connections".into()) });
            self.descriptor(TrackDescriptor {
                uuid: Some(track.uuid),
                name: Some(kind.name().to_owned()),
                parent_uuid: Some(parent),
                counter,
                sibling_order_rank: Some(kind.rank()),
                ..TrackDescriptor::default()
            })?;
        }
        Ok(track.uuid)
    }

    fn group(&mut self, group: Group) -> io::Result<u64> {
        let track = self.tracks.group(group);
        if !track.is_new {
            return Ok(track.uuid);
        }
        let descriptor = TrackDescriptor {
            uuid: Some(track.uuid),
            child_ordering: Some(EXPLICIT_ORDER),
            ..TrackDescriptor::default()
        };
        let descriptor = match group {
            Group::Process(pid) => {
                let comm = self.names.of(pid, self.last_ns).map(|process| process.comm);
                let name = comm.or_else(|| self.comms.get(&pid).copied()).map(|comm| comm.to_string());
                let pid = i32::try_from(pid).ok();
                TrackDescriptor { process: Some(ProcessDescriptor { pid, process_name: name }), ..descriptor }
            }
            Group::Nobody => TrackDescriptor { name: Some("no process".into()), ..descriptor },
            Group::Listener(key) => {
                let subject = self.listeners.get(&key).copied();
                let name = match subject {
                    Some(subject) => format!("listener {}", subject.local),
                    None => format!("listener with cookie {}", key.cookie),
                };
                let parent = self.group(group_of(subject.and_then(|subject| subject.owner)))?;
                TrackDescriptor { name: Some(name), parent_uuid: Some(parent), ..descriptor }
            }
        };
        self.descriptor(descriptor)?;
        Ok(track.uuid)
    }

    fn ended(&mut self, connection: &Connection) -> io::Result<()> {
        let Connection { key, role, ref ownership, .. } = *connection;
        let ended_ns = connection.ended_ns.or(connection.state_since_ns).unwrap_or(self.last_ns);
        let born_ns = connection.first_seen_ns.min(ended_ns);
        let owner = ownership.owner();
        let kind = if role == Role::Listener { Kind::Listeners } else { Kind::Connections };
        let track = self.lane(group_of(owner), kind, (born_ns, ended_ns))?;
        let closer = ownership.closer.and_then(|closer| self.names.of_thread(closer, ended_ns));
        let mut annotations = annotations_of(&Subject::from(connection));
        annotations.extend(connection.ending.map(|ending| text("end", ending.word())));
        annotations.extend(sentence(connection, closer).map(|why| text("why", &why)));
        annotations.push(number("retransmits", connection.retransmits.into()));
        let name = name_of(role, connection.local, connection.remote);
        self.slices += 1;
        self.event(born_ns, track, SLICE_BEGIN, Some(Name::Text(&name)), annotations)?;
        let mut stays: Vec<_> = connection.stays().filter(|(state, ..)| *state != TcpState::Close).collect();
        stays.reverse();
        for (state, from_ns, to_ns) in stays {
            self.slices += 1;
            self.event(from_ns.clamp(born_ns, ended_ns), track, SLICE_BEGIN, Some(Name::State(state)), Vec::new())?;
            self.event(to_ns.clamp(born_ns, ended_ns), track, SLICE_END, None, Vec::new())?;
        }
        self.event(ended_ns, track, SLICE_END, None, Vec::new())?;
        if let Some(queued) = connection.queued
            && let (Some(from_ns), Some(listener)) = (queued.at_ns, ownership.listener)
        {
            let to_ns = match queued.accepted_ns {
                Some(accepted_ns) => accepted_ns,
                None if connection.is_queued() => ended_ns,
                None => return Ok(()),
            };
            let mut annotations = vec![text("remote", &connection.remote.to_string())];
            annotations.extend(ownership.acceptor.map(|acceptor| text("accepted by", &acceptor.to_string())));
            annotations
                .extend(queued.left_ns.map(|left_ns| number("client left after ns", left_ns.saturating_sub(from_ns))));
            if queued.accepted_ns.is_none() {
                let ending = connection.ending.map_or("?", Ending::word);
                annotations.push(text("never accepted", ending));
            }
            let group = Group::Listener(SocketKey { cookie: listener, ..key });
            let name = connection.remote.to_string();
            self.slice((from_ns, to_ns.max(from_ns)), (group, Kind::Waiting), Name::Text(&name), annotations)?;
        }
        Ok(())
    }

    /// A socket that lives on: its last slices have no end.
    fn unended(&mut self, living: &Living) -> io::Result<()> {
        let Living { subject, ref since, waits_for } = *living;
        let Some(&(born_ns, _)) = since.first() else { return Ok(()) };
        let kind = if subject.role == Role::Listener { Kind::Listeners } else { Kind::Connections };
        let track = self.lane(group_of(subject.owner), kind, (born_ns, u64::MAX))?;
        let name = name_of(subject.role, subject.local, subject.remote);
        self.slices += 1;
        self.event(born_ns, track, SLICE_BEGIN, Some(Name::Text(&name)), annotations_of(&subject))?;
        for (index, &(from_ns, state)) in since.iter().enumerate() {
            self.slices += 1;
            self.event(from_ns, track, SLICE_BEGIN, Some(Name::State(state)), Vec::new())?;
            if let Some((to_ns, _)) = since.get(index + 1) {
                self.event(*to_ns, track, SLICE_END, None, Vec::new())?;
            }
        }
        let entered = since.iter().find(|(_, state)| *state == TcpState::Established);
        if let (Some(listener), Some(&(from_ns, _))) = (waits_for, entered) {
            let group = Group::Listener(SocketKey { cookie: listener, ..subject.key });
            let track = self.lane(group, Kind::Waiting, (from_ns, u64::MAX))?;
            self.slices += 1;
            let name = subject.remote.to_string();
            self.event(from_ns, track, SLICE_BEGIN, Some(Name::Text(&name)), Vec::new())?;
        }
        Ok(())
    }

    /// Remembers what lives.
    fn follow(&mut self, update: &Update) {
        let Update { at_ns, subject, ref happening } = *update;
        if let Some(owner) = subject.owner {
            self.comms.insert(owner.pid, owner.comm);
        }
        if subject.role == Role::Listener {
            self.listeners.insert(subject.key, subject);
        }
        let entered = match *happening {
            Happening::Listed { state, .. } => Some(state),
            Happening::Transition { new, .. } => Some(new),
            _ => None,
        };
        let key = (subject.key, subject.incarnation);
        if let Some(state) = entered.filter(|state| *state != TcpState::Close) {
            let new = || Living { subject, since: Vec::new(), waits_for: None };
            let living = self.living.entry(key).or_insert_with(new);
            if living.since.len() < MAX_SPANS {
                living.since.push((at_ns, state));
            }
        }
        let Some(living) = self.living.get_mut(&key) else { return };
        living.subject = subject;
        match *happening {
            Happening::Enqueued { listener, .. } => living.waits_for = listener,
            Happening::Accepted { .. } => living.waits_for = None,
            _ => {}
        }
    }
}

impl<W: Write> Sink for Perfetto<W> {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        let Update { at_ns, subject, ref happening } = *update;
        self.last_ns = self.last_ns.max(at_ns);
        self.follow(update);
        let its = group_of(subject.owner);
        let listener = Group::Listener(subject.key);
        match happening {
            Happening::Ended(connection) => {
                self.living.remove(&(subject.key, subject.incarnation));
                self.ended(connection)
            }
            Happening::MinisockEnded { state, lasted_ns, end, .. } => {
                let from_ns = at_ns.saturating_sub((*lasted_ns).min(2 * TIME_WAIT_NS));
                let mut annotations = annotations_of(&subject);
                annotations.push(text("ended", end.word()));
                self.slice((from_ns, at_ns), (its, Kind::Minisocks), Name::State(*state), annotations)
            }
            Happening::Listed { queue: Some((depth, limit)), .. } => {
                self.count(at_ns, listener, Kind::Depth, *depth)?;
                self.count(at_ns, listener, Kind::Limit, *limit)
            }
            Happening::Queue(figures) => {
                self.count(at_ns, listener, Kind::Depth, figures.depth)?;
                match figures.totals.limit {
                    Some(limit) => self.count(at_ns, listener, Kind::Limit, limit),
                    None => Ok(()),
                }
            }
            Happening::ListenOverflow => {
                self.instant(at_ns, (listener, Kind::Happenings), "overflow: the last ACK was dropped", Vec::new())
            }
            Happening::AcceptFailed { by, errno } => {
                let annotations = vec![text("by", &by.to_string()), number("errno", errno.unsigned_abs().into())];
                self.instant(at_ns, (listener, Kind::Happenings), "accept failed", annotations)
            }
            Happening::ResetSent { reason } => {
                let mut annotations = annotations_of(&subject);
                annotations.extend(self.reasons.name(*reason).map(|reason| text("reason", reason)));
                self.instant(at_ns, (its, Kind::Resets), "RST sent", annotations)
            }
            Happening::ResetReceived => {
                self.instant(at_ns, (its, Kind::Resets), "RST received", annotations_of(&subject))
            }
            _ => Ok(()),
        }
    }

    fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
        Ok(())
    }
}

/// A state's interned name.
const fn iid(state: TcpState) -> u64 {
    state as u64 + 1
}

fn group_of(owner: Option<Task>) -> Group {
    owner.map_or(Group::Nobody, |owner| Group::Process(owner.pid))
}

fn name_of(role: Role, local: Endpoint, remote: Endpoint) -> String {
    match role {
        Role::Active => format!("to {remote}"),
        Role::Passive => format!("from {remote} at {}", local.port),
        Role::Listener => format!("{local}"),
        Role::Unknown => format!("{local} {remote}"),
    }
}

fn annotations_of(subject: &Subject) -> Vec<DebugAnnotation> {
    let mut annotations = vec![
        text("role", subject.role.word()),
        text("local", &subject.local.to_string()),
        text("remote", &subject.remote.to_string()),
        number("netns", subject.key.netns.into()),
        number("cookie", subject.key.cookie),
    ];
    annotations.extend(subject.owner.map(|owner| text("owner", &owner.to_string())));
    annotations
}

fn text(name: &str, value: &str) -> DebugAnnotation {
    DebugAnnotation { name: Some(name.into()), string_value: Some(value.into()), ..DebugAnnotation::default() }
}

fn number(name: &str, value: u64) -> DebugAnnotation {
    DebugAnnotation { name: Some(name.into()), uint_value: Some(value), ..DebugAnnotation::default() }
}
