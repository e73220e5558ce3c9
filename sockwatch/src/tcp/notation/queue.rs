//! The kernel's word on an accept queue, as a line of text.

use super::{
    fields::{Fields, NotationError, Words, number, pair},
    seconds::{from_seconds, to_seconds},
};
use crate::tcp::{
    event::EventKind,
    queue::{Follows, NamespaceDrops, QueueRecord, Verdict},
};

pub(super) fn print(words: &mut Words, record: &QueueRecord, verdict: Verdict) {
    let QueueRecord { from_ns, to_ns, depth, limit, drops, somaxconn, namespace, follows } = *record;
    words.word("queue_found").field("from", to_seconds(from_ns)).field("to", to_seconds(to_ns));
    words.field("queue", pair::Text((depth, limit))).option("drops", drops).option("somaxconn", somaxconn);
    let NamespaceDrops {
        overflows,
        drops,
        requests_full,
        cookies,
        cookies_sent,
        cookies_received,
        time_wait_overflows,
    } = namespace;
    words.count("netns_overflows", overflows).count("netns_drops", drops);
    words.count("netns_requests_full", requests_full).count("netns_cookies", cookies);
    words.count("netns_cookies_sent", cookies_sent).count("netns_cookies_received", cookies_received);
    words.count("netns_time_wait_overflows", time_wait_overflows);
    words.flag("some", follows == Follows::Some);
    words.flag("doubtful", verdict == Verdict::Doubtful).flag("differs", verdict == Verdict::Differs);
}

pub(super) fn parse(fields: &mut Fields<'_>) -> Result<EventKind, NotationError> {
    let (depth, limit) = fields.need("queue", pair::parse)?;
    let record = QueueRecord {
        from_ns: fields.need("from", from_seconds)?,
        to_ns: fields.need("to", from_seconds)?,
        depth,
        limit,
        drops: fields.take("drops", number)?,
        somaxconn: fields.take("somaxconn", number)?,
        namespace: NamespaceDrops {
            overflows: fields.count("netns_overflows")?,
            drops: fields.count("netns_drops")?,
            requests_full: fields.count("netns_requests_full")?,
            cookies: fields.count("netns_cookies")?,
            cookies_sent: fields.count("netns_cookies_sent")?,
            cookies_received: fields.count("netns_cookies_received")?,
            time_wait_overflows: fields.count("netns_time_wait_overflows")?,
        },
        follows: if fields.flag("some") { Follows::Some } else { Follows::All },
    };
    let (doubtful, differs) = (fields.flag("doubtful"), fields.flag("differs"));
    let certain = if differs { Verdict::Differs } else { Verdict::Agrees };
    let verdict = if doubtful { Verdict::Doubtful } else { certain };
    Ok(EventKind::QueueFound { record, verdict })
}
