//! Events as lines of text: readable, diffable, and the same event again when parsed. Recordings of labs are kept in
//! it.
//!
//! ```text
//! 0.000081210 1:3 @3 127.0.0.1:8080 127.0.0.1:40000 accept by=server/1/2 fd=9 listener=1
//! ```
//!
//! Seconds, namespace:cookie, the socket's address, local and remote end (`- -` where the record carries none), what
//! happened, and its fields in any order. What is absent, 0 or false is left out. A new event kind is an arm in
//! [`line`] and one in [`parse`].

mod fields;
mod normal;
mod queue;
mod seconds;
#[cfg(test)]
mod tests;

pub use self::{fields::NotationError, normal::normalise};
use self::{
    fields::{Fields, Words, endpoint, number, pair, state, task},
    seconds::{from_seconds, to_seconds},
};
use super::{
    endpoint::Endpoint,
    event::{Certainty, CloseEvidence, Event, EventKind, Incident, Occasion, Place, SocketKey},
};

/// One event, without a line's end.
pub fn line(event: &Event) -> String {
    let SocketKey { netns, cookie } = event.key;
    let tuple = event.tuple.map_or("- -".to_owned(), |(local, remote)| format!("{local} {remote}"));
    let start = format!("{} {netns}:{cookie} @{:x} {tuple}", to_seconds(event.at_ns), event.skaddr);
    let mut words = Words(start);
    match event.kind {
        EventKind::Transition { old, new, by } => {
            words.word("transition").field("old", old).field("new", new).option("by", by.map(task::Text));
        }
        EventKind::Opening { new, by, limit } => {
            words.word("opening").field("new", new).field("by", task::Text(by)).option("limit", limit);
        }
        EventKind::Birth { queue } => {
            words.word("birth").option("queue", queue.map(pair::Text));
        }
        EventKind::Closing { old, current, evidence } => {
            words.word("closing").field("old", old).field("current", task::Text(current));
            if let Some(evidence) = evidence {
                print_evidence(&mut words, &evidence);
            }
        }
        EventKind::Enqueue { listener, synack_at_ns, synack_retransmits } => {
            words.word("enqueue").option("listener", listener).option("synack_at", synack_at_ns.map(to_seconds));
            words.count("synack_retransmits", synack_retransmits);
        }
        EventKind::Accept { by, fd, listener } => {
            words.word("accept").field("by", task::Text(by)).option("fd", fd).option("listener", listener);
        }
        EventKind::AcceptReturn { fd } => {
            words.word("accept_return").field("fd", fd);
        }
        EventKind::Destroy => {
            words.word("destroy");
        }
        EventKind::Incident(incident) => print_incident(&mut words, incident),
        EventKind::Listed { state, queue, interval_ns } => {
            words.word("listed").field("state", state).option("queue", queue.map(pair::Text));
            words.field("interval_ns", interval_ns);
        }
        EventKind::Unlisted { interval_ns } => {
            words.word("unlisted").field("interval_ns", interval_ns);
        }
        EventKind::Found { state, expires_in_ns, queue, holder, listener, occasion } => {
            words.word("found").field("state", state).option("expires_in_ns", expires_in_ns);
            words.option("queue", queue.map(pair::Text)).option("holder", holder.map(task::Text));
            words.option("listener", listener).option("interval_ns", occasion.interval_ns());
        }
        EventKind::Held { by } => {
            words.word("held").field("by", task::Text(by));
        }
        EventKind::Taken => {
            words.word("taken");
        }
        EventKind::QueueFound { record, verdict } => queue::print(&mut words, &record, verdict),
        EventKind::Lost { minisock, occasion } => {
            words.word("lost").flag("free", minisock == Some(Place::Free));
            words.flag("taken", minisock == Some(Place::Taken)).option("interval_ns", occasion.interval_ns());
        }
    }
    words.flag("again", event.certainty == Certainty::PerhapsRepeated);
    words.0
}

/// The event that a line tells.
///
/// # Errors
/// A [`NotationError`] that names the word that makes no sense.
pub fn parse(line: &str) -> Result<Event, NotationError> {
    let mut words = line.split_whitespace();
    let mut next = || words.next().ok_or(NotationError::TooShort);
    let (at, key, skaddr) = (next()?, next()?, next()?);
    let tuple = match (next()?, next()?) {
        ("-", "-") => None,
        (local, remote) => Some((end("local", local)?, end("remote", remote)?)),
    };
    let word = next()?;
    let mut fields = Fields::new(words);
    let kind = parse_kind(word, &mut fields)?;
    let certainty = if fields.flag("again") { Certainty::PerhapsRepeated } else { Certainty::Once };
    fields.finish()?;
    let (netns, cookie) = key.split_once(':').ok_or_else(|| NotationError::bad("key", key))?;
    Ok(Event {
        at_ns: from_seconds(at).ok_or_else(|| NotationError::bad("time", at))?,
        key: SocketKey {
            netns: number(netns).ok_or_else(|| NotationError::bad("key", key))?,
            cookie: number(cookie).ok_or_else(|| NotationError::bad("key", key))?,
        },
        skaddr: skaddr
            .strip_prefix('@')
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .ok_or_else(|| NotationError::bad("address", skaddr))?,
        tuple,
        kind,
        certainty,
    })
}

fn end(name: &'static str, text: &str) -> Result<Endpoint, NotationError> {
    endpoint(text).ok_or_else(|| NotationError::bad(name, text))
}

fn parse_kind(word: &str, fields: &mut Fields<'_>) -> Result<EventKind, NotationError> {
    Ok(match word {
        "transition" => EventKind::Transition {
            old: fields.need("old", state)?,
            new: fields.need("new", state)?,
            by: fields.take("by", task::parse)?,
        },
        "opening" => EventKind::Opening {
            new: fields.need("new", state)?,
            by: fields.need("by", task::parse)?,
            limit: fields.take("limit", number)?,
        },
        "birth" => EventKind::Birth { queue: fields.take("queue", pair::parse)? },
        "closing" => EventKind::Closing {
            old: fields.need("old", state)?,
            current: fields.need("current", task::parse)?,
            evidence: fields.flag("evidence").then(|| parse_evidence(fields)).transpose()?,
        },
        "enqueue" => EventKind::Enqueue {
            listener: fields.take("listener", number)?,
            synack_at_ns: fields.take("synack_at", from_seconds)?,
            synack_retransmits: fields.count("synack_retransmits")?,
        },
        "accept" => EventKind::Accept {
            by: fields.need("by", task::parse)?,
            fd: fields.take("fd", number)?,
            listener: fields.take("listener", number)?,
        },
        "accept_return" => EventKind::AcceptReturn { fd: fields.need("fd", number)? },
        "destroy" => EventKind::Destroy,
        "listed" => EventKind::Listed {
            state: fields.need("state", state)?,
            queue: fields.take("queue", pair::parse)?,
            interval_ns: fields.need("interval_ns", number)?,
        },
        "unlisted" => EventKind::Unlisted { interval_ns: fields.need("interval_ns", number)? },
        "found" => EventKind::Found {
            state: fields.need("state", state)?,
            expires_in_ns: fields.take("expires_in_ns", number)?,
            queue: fields.take("queue", pair::parse)?,
            holder: fields.take("holder", task::parse)?,
            listener: fields.take("listener", number)?,
            occasion: parse_occasion(fields)?,
        },
        "held" => EventKind::Held { by: fields.need("by", task::parse)? },
        "taken" => EventKind::Taken,
        "queue_found" => queue::parse(fields)?,
        "lost" => {
            let (free, taken) = (fields.flag("free"), fields.flag("taken"));
            let minisock = if taken { Some(Place::Taken) } else { free.then_some(Place::Free) };
            EventKind::Lost { minisock, occasion: parse_occasion(fields)? }
        }
        other => EventKind::Incident(parse_incident(other, fields)?),
    })
}

fn parse_occasion(fields: &mut Fields<'_>) -> Result<Occasion, NotationError> {
    let interval_ns = fields.take("interval_ns", number)?;
    Ok(interval_ns.map_or(Occasion::Expected, |interval_ns| Occasion::Disagreement { interval_ns }))
}

fn print_incident(words: &mut Words, incident: Incident) {
    match incident {
        Incident::AcceptFailed { by, errno } => {
            words.word("accept_failed").field("by", task::Text(by)).field("errno", errno);
        }
        Incident::ResetSent { reason, minisock } => {
            words.word("reset_sent").count("reason", reason).flag("minisock", minisock);
        }
        Incident::ResetReceived => {
            words.word("reset_received");
        }
        Incident::Retransmit => {
            words.word("retransmit");
        }
        Incident::SynAckRetransmit => {
            words.word("synack_retransmit");
        }
        Incident::ListenOverflow => {
            words.word("listen_overflow");
        }
        Incident::MinisockSegment { state } => {
            words.word("minisock_segment").field("state", state);
        }
    }
}

fn parse_incident(word: &str, fields: &mut Fields<'_>) -> Result<Incident, NotationError> {
    Ok(match word {
        "accept_failed" => {
            Incident::AcceptFailed { by: fields.need("by", task::parse)?, errno: fields.need("errno", number)? }
        }
        "reset_sent" => Incident::ResetSent { reason: fields.count("reason")?, minisock: fields.flag("minisock") },
        "reset_received" => Incident::ResetReceived,
        "retransmit" => Incident::Retransmit,
        "synack_retransmit" => Incident::SynAckRetransmit,
        "listen_overflow" => Incident::ListenOverflow,
        "minisock_segment" => Incident::MinisockSegment { state: fields.need("state", state)? },
        unknown => return Err(NotationError::Unknown(unknown.to_owned())),
    })
}

fn print_evidence(words: &mut Words, evidence: &CloseEvidence) {
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
        has_socket,
        fin_timeout_ms,
    } = *evidence;
    words.word("evidence").count("acked_bytes", acked_bytes).count("received_bytes", received_bytes);
    words.count("unread_bytes", unread_bytes).count("segments_out", segments_out);
    words.count("error", error).count("soft_error", soft_error);
    words.count("retransmits", retransmits).count("probes", probes).count("shutdown", shutdown);
    words.count("linger2", linger2).count("user_timeout_ms", user_timeout_ms);
    words.count("fin_timeout_ms", fin_timeout_ms);
    words.flag("all_acked", all_acked).flag("dead", dead).flag("done", done).flag("linger", linger);
    words.flag("has_socket", has_socket);
}

fn parse_evidence(fields: &mut Fields<'_>) -> Result<CloseEvidence, NotationError> {
    Ok(CloseEvidence {
        acked_bytes: fields.count("acked_bytes")?,
        received_bytes: fields.count("received_bytes")?,
        all_acked: fields.flag("all_acked"),
        unread_bytes: fields.count("unread_bytes")?,
        linger2: fields.count("linger2")?,
        user_timeout_ms: fields.count("user_timeout_ms")?,
        segments_out: fields.count("segments_out")?,
        error: fields.count("error")?,
        soft_error: fields.count("soft_error")?,
        dead: fields.flag("dead"),
        done: fields.flag("done"),
        linger: fields.flag("linger"),
        retransmits: fields.count("retransmits")?,
        probes: fields.count("probes")?,
        shutdown: fields.count("shutdown")?,
        has_socket: fields.flag("has_socket"),
        fin_timeout_ms: fields.count("fin_timeout_ms")?,
    })
}
