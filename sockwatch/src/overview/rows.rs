//! The connections that fit, in order. Of a hundred thousand only those that are on the screen are put in order.

use std::net::IpAddr;

use super::words::Words;
use crate::{
    sink::{Sight, selected::Selection},
    tcp::{
        endpoint::Endpoint,
        tracker::{Kind, Living},
    },
};

/// What connections are put in order by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The state's name.
    State,
    /// This end.
    Local,
    /// The other end.
    Remote,
    /// How long it has been in its state.
    Age,
    /// How long it waited for accept(), or has so far.
    Wait,
    /// The owner's name.
    Process,
}

impl Column {
    /// All of them, as they stand in a table.
    pub const ALL: [Self; 6] = [Self::State, Self::Local, Self::Remote, Self::Age, Self::Wait, Self::Process];
}

/// Which comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// By this.
    pub by: Column,
    /// The greatest first.
    pub descending: bool,
}

/// Those that are shown.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// How many fit the filter.
    pub fitting: usize,
    /// How many there are, of those that are looked at at all.
    pub all: usize,
    /// The rows.
    pub rows: Vec<Living<'a>>,
}

/// The rows from `first` on, of what passes the selection and is looked for.
pub fn choose<'a>(
    sight: &Sight<'a>,
    selection: &mut Selection,
    words: &Words,
    order: Order,
    (first, height): (usize, usize),
) -> Chosen<'a> {
    let Sight { now_ns, tracker, .. } = *sight;
    let mut all = 0;
    let mut fitting = Vec::new();
    for kept in tracker.kept() {
        let Some(living) = tracker.look(kept, now_ns) else { continue };
        if matches!(living.kind, Kind::Listener(_)) || !selection.admits(&living.subject, now_ns) {
            continue;
        }
        all += 1;
        if words.admit(&living, now_ns, &mut selection.names) {
            // Not the whole of it: of a hundred thousand that would be 50 MB for each frame.
            fitting.push((key(&living, now_ns, order), kept));
        }
    }
    let count = fitting.len();
    let (first, last) = (first.min(count), first.saturating_add(height).min(count));
    let mut shown = &mut fitting[..];
    if last < count {
        shown = shown.select_nth_unstable_by_key(last, |(key, _)| *key).0;
    }
    if (1..last).contains(&first) {
        shown.select_nth_unstable_by_key(first, |(key, _)| *key);
    }
    let shown = &mut shown[first..];
    shown.sort_unstable_by_key(|(key, _)| *key);
    let rows = shown.iter().filter_map(|(_, kept)| tracker.look(*kept, now_ns)).collect();
    Chosen { fitting: count, all, rows }
}

/// The smallest comes first. Cookies tell apart what is the same.
fn key(living: &Living<'_>, now_ns: u64, order: Order) -> (u128, u64) {
    let subject = &living.subject;
    let value = match order.by {
        Column::Age => u128::from(age_ns(living, now_ns)),
        Column::State => living.state.name().bytes().fold(0, |key, byte| key << 8 | u128::from(byte)),
        Column::Local => end(subject.local),
        Column::Remote => end(subject.remote),
        Column::Wait => wait_ns(living, now_ns).map_or(0, |ns| u128::from(ns) + 1),
        Column::Process => subject.owner.map_or(0, |owner| u128::from_be_bytes(owner.comm.0)),
    };
    (if order.descending { u128::MAX - value } else { value }, subject.key.cookie)
}

/// Addresses, and then ports: the upper 16 bits of an IPv6 address have to go for that.
fn end(end: Endpoint) -> u128 {
    let bits = match end.address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    bits << 16 | u128::from(end.port)
}

/// How long it has been in its state, at least.
pub fn age_ns(living: &Living<'_>, now_ns: u64) -> u64 {
    now_ns.saturating_sub(living.since_ns.unwrap_or(living.first_seen_ns))
}

/// How long it waited for accept(), or has so far.
pub fn wait_ns(living: &Living<'_>, now_ns: u64) -> Option<u64> {
    let queued = living.connection()?.queued?;
    match living.kind {
        Kind::Queued(_) => queued.at_ns.map(|at_ns| now_ns.saturating_sub(at_ns)),
        Kind::Socket(_) | Kind::Listener(_) | Kind::Minisock { .. } => {
            queued.wait_ns().map(|ns| ns.max(0).unsigned_abs())
        }
    }
}
