//! What changed between two listings. Pure: no I/O, no clock.

use std::collections::HashMap;

use super::super::table::Listed;
use crate::tcp::event::{Certainty, Event, EventKind, SocketKey};

/// The interval of what was there before we could look: it may be of any age.
pub(super) const UNKNOWN_AGE_NS: u64 = u64::MAX;

/// A socket of a listing that the filter's tuple words match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) listed: Listed,
    /// Whether the owner filter lets it through. One that it does not is remembered all the same: when a process
    /// accepts it later, it is not new.
    pub(super) passes: bool,
}

/// When two listings began, in nanoseconds of `CLOCK_MONOTONIC`; the first has none before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) at_ns: u64,
    pub(super) previous_ns: Option<u64>,
}

impl Span {
    fn interval_ns(self) -> u64 {
        self.previous_ns.map_or(UNKNOWN_AGE_NS, |previous_ns| self.at_ns.saturating_sub(previous_ns))
    }
}

/// Appends one event for each socket that came, changed or went; those that went first, so that a tuple is free before
/// it is taken again, and each group ordered by cookie.
///
/// A socket whose tuple changed went and came: the same descriptor was connected anew, and kept its cookie.
pub(super) fn differences(
    previous: &HashMap<SocketKey, Seen>,
    current: &HashMap<SocketKey, Seen>,
    span: Span,
    events: &mut Vec<Event>,
) {
    let gone = |before: &&Seen| before.passes && current.get(&before.listed.key).is_none_or(|now| reborn(before, now));
    for before in sorted(previous.values().filter(gone)) {
        events.push(event(before, span, EventKind::Unlisted { interval_ns: span.interval_ns() }));
    }
    for now in sorted(current.values().filter(|now| now.passes)) {
        if let Some(interval_ns) = news(previous.get(&now.listed.key), now, span) {
            let Listed { state, queue, .. } = now.listed;
            events.push(event(now, span, EventKind::Listed { state, queue, interval_ns }));
        }
    }
}

/// Within which time a passing socket became what it is now; `None` if it was so before.
fn news(before: Option<&Seen>, now: &Seen, span: Span) -> Option<u64> {
    let Some(before) = before.filter(|before| !reborn(before, now)) else { return Some(span.interval_ns()) };
    if before.listed.state != now.listed.state || before.listed.queue != now.listed.queue {
        return Some(span.interval_ns());
    }
    (!before.passes).then_some(UNKNOWN_AGE_NS)
}

fn reborn(before: &Seen, now: &Seen) -> bool {
    (before.listed.local, before.listed.remote) != (now.listed.local, now.listed.remote)
}

fn sorted<'a>(seen: impl Iterator<Item = &'a Seen>) -> Vec<&'a Seen> {
    let mut seen: Vec<_> = seen.collect();
    seen.sort_unstable_by_key(|seen| seen.listed.key);
    seen
}

fn event(seen: &Seen, span: Span, kind: EventKind) -> Event {
    let Listed { key, local, remote, .. } = seen.listed;
    Event { at_ns: span.at_ns, key, skaddr: 0, tuple: Some((local, remote)), kind, certainty: Certainty::Once }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::{endpoint::Endpoint, state};

    /// A listing as text: `COOKIE STATE [DEPTH/LIMIT] [PORT] [foreign]; ...`. The remote port is 9 unless told.
    fn parse(text: &str) -> HashMap<SocketKey, Seen> {
        let sockets = text.split(';').map(str::trim).filter(|text| !text.is_empty()).map(socket);
        sockets.map(|seen| (seen.listed.key, seen)).collect()
    }

    fn socket(text: &str) -> Seen {
        let mut words = text.split(' ');
        let key = SocketKey { netns: 1, cookie: words.next().unwrap().parse().unwrap() };
        let name = words.next().unwrap();
        let state = state::ALL.into_iter().find(|state| state.name() == name).unwrap();
        let (local, remote) = (Endpoint::v4([127, 0, 0, 1], 8), Endpoint::v4([127, 0, 0, 1], 9));
        let mut seen = Seen { listed: Listed::bare(key, local, remote, state), passes: true };
        for word in words {
            if let Some((depth, limit)) = word.split_once('/') {
                seen.listed.queue = Some((depth.parse().unwrap(), limit.parse().unwrap()));
            } else if word == "foreign" {
                seen.passes = false;
            } else {
                seen.listed.remote.port = word.parse().unwrap();
            }
        }
        seen
    }

    fn print(event: &Event) -> String {
        let cookie = event.key.cookie;
        let within = |interval_ns| match interval_ns {
            UNKNOWN_AGE_NS => "of unknown age".to_owned(),
            interval_ns => format!("within {interval_ns}"),
        };
        match event.kind {
            EventKind::Listed { state, queue: None, interval_ns } => {
                format!("{cookie} {state} {}", within(interval_ns))
            }
            EventKind::Listed { state, queue: Some((depth, limit)), interval_ns } => {
                format!("{cookie} {state} {depth}/{limit} {}", within(interval_ns))
            }
            EventKind::Unlisted { interval_ns } => format!("{cookie} gone {}", within(interval_ns)),
            other => format!("{other:?}"),
        }
    }

    #[track_caller]
    fn check_span(span: Span, previous: &str, current: &str, expected: &str) {
        let mut events = Vec::new();
        differences(&parse(previous), &parse(current), span, &mut events);
        assert!(events.iter().all(|event| event.at_ns == span.at_ns && event.skaddr == 0 && event.tuple.is_some()));
        assert_eq!(events.iter().map(print).collect::<Vec<_>>().join("; "), expected);
    }

    #[track_caller]
    fn check(previous: &str, current: &str, expected: &str) {
        check_span(Span { at_ns: 105, previous_ns: Some(100) }, previous, current, expected);
    }

    #[test]
    fn the_first_listing_is_of_unknown_age() {
        let first = Span { at_ns: 7, previous_ns: None };
        let expected = "1 LISTEN 0/128 of unknown age; 2 TIME_WAIT of unknown age";
        check_span(first, "", "2 TIME_WAIT; 1 LISTEN 0/128", expected);
    }

    #[test]
    fn what_is_the_same_says_nothing() {
        check("", "", "");
        check("1 LISTEN 3/128; 2 ESTABLISHED", "2 ESTABLISHED; 1 LISTEN 3/128", "");
    }

    #[test]
    fn new_changed_and_gone_are_told() {
        check("", "1 ESTABLISHED", "1 ESTABLISHED within 5");
        check("1 ESTABLISHED", "1 CLOSE_WAIT", "1 CLOSE_WAIT within 5");
        check("1 TIME_WAIT", "", "1 gone within 5");
        check(
            "1 SYN_SENT; 2 LAST_ACK",
            "1 ESTABLISHED; 3 LISTEN 0/1",
            "2 gone within 5; 1 ESTABLISHED within 5; 3 LISTEN 0/1 within 5",
        );
    }

    #[test]
    fn a_listener_tells_depth_and_limit() {
        check("1 LISTEN 0/128", "1 LISTEN 4/128", "1 LISTEN 4/128 within 5");
        check("1 LISTEN 0/128", "1 LISTEN 0/256", "1 LISTEN 0/256 within 5");
    }

    #[test]
    fn a_cookie_on_a_new_tuple_is_a_new_connection() {
        check("1 ESTABLISHED 9", "1 ESTABLISHED 10", "1 gone within 5; 1 ESTABLISHED within 5");
        check("1 ESTABLISHED 9 foreign", "1 ESTABLISHED 10", "1 ESTABLISHED within 5");
    }

    #[test]
    fn foreign_sockets_say_nothing_and_are_not_new_when_accepted() {
        check("1 ESTABLISHED foreign", "1 CLOSE_WAIT foreign; 2 ESTABLISHED foreign", "");
        check("1 ESTABLISHED foreign", "", "");
        check("1 ESTABLISHED foreign", "1 ESTABLISHED", "1 ESTABLISHED of unknown age");
        check("1 ESTABLISHED foreign", "1 CLOSE_WAIT", "1 CLOSE_WAIT within 5");
    }

    #[test]
    fn every_state_can_follow_every_other() {
        for (old, new) in state::ALL.into_iter().flat_map(|old| state::ALL.map(|new| (old, new))) {
            let expected = if old == new { String::new() } else { format!("1 {new} within 5") };
            check(&format!("1 {old}"), &format!("1 {new}"), &expected);
        }
    }
}
