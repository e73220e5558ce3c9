//! Lines for people, in the same columns as those of the kernel's table.

use std::io::{self, Write};

use sockwatch::{
    diagnosis::words::{age, time},
    tcp::{connection::Connection, queue::Age, state::TcpState},
};

use super::{
    super::text::{Shape, columns, heading, line, name_in, note, shared_style, short, workload_words, wrapped},
    Entry, Queue, Standing,
};

pub(super) fn write(out: &mut impl Write, entries: &[Entry], now_ns: u64, shape: Shape) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    heading(out, shape)?;
    for entry in entries {
        let is_full = entry.queue.as_ref().is_some_and(|queue| queue.figures.is_full());
        let netns = shape.several_namespaces.then(|| entry.subject.key.netns.to_string());
        let style = shared_style(entry.state, is_full, entry.standing == Standing::Minisock);
        line(out, style, &columns(cells(entry, now_ns), netns), shape)?;
        for text in notes(entry, now_ns, shape.long) {
            note(out, &text, shape)?;
        }
    }
    Ok(())
}

fn cells(entry: &Entry, now_ns: u64) -> [String; 7] {
    let ms_since = |since_ns: u64| short(now_ns.saturating_sub(since_ns) / 1_000_000);
    [
        if entry.state == TcpState::BoundInactive { "BOUND".into() } else { entry.state.to_string() },
        entry.subject.local.to_string(),
        entry.subject.remote.to_string(),
        entry.queue.as_ref().map_or_else(|| "-".into(), depth),
        entry
            .expires_ns
            .map_or_else(|| "-".into(), |at_ns| format!("tw {}", short(at_ns.saturating_sub(now_ns) / 1_000_000))),
        entry.since_ns.map_or_else(|| format!(">{}", ms_since(entry.first_seen_ns)), ms_since),
        process(entry),
    ]
}

fn depth(queue: &Queue) -> String {
    match queue.figures.totals.limit {
        Some(limit) => format!("{}/{limit}", queue.figures.depth),
        None => format!("{}/?", queue.figures.depth),
    }
}

fn process(entry: &Entry) -> String {
    let word = match entry.standing {
        Standing::Held => "",
        Standing::Queued => "queued ",
        Standing::Minisock | Standing::Unknown => return entry.standing.word().into(),
    };
    let Some(owner) = entry.subject.owner else { return word.trim_end().into() };
    let comm = entry.process.as_ref().map_or(owner.comm, |process| process.comm);
    name_in(word, &comm.to_string(), &format!("/{}", owner.pid))
}

fn notes(entry: &Entry, now_ns: u64, long: bool) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(entry.queue.as_ref().and_then(waiting));
    if long {
        notes.extend(wrapped(&long_words(entry, now_ns)));
    }
    notes
}

/// Who waited at a listener.
fn waiting(queue: &Queue) -> Option<String> {
    let oldest = queue.figures.oldest.filter(|_| queue.figures.depth > 0)?;
    let children = queue.children.iter().map(|(state, count)| match *state {
        "CLOSE" => format!("{count} reset by their clients"),
        state => format!("{count} {state}"),
    });
    let mut words: Vec<_> = children.collect();
    words.push(format!("the oldest for {}", age(oldest)));
    Some(format!("queued: {}", words.join(", ")))
}

fn long_words(entry: &Entry, now_ns: u64) -> Vec<String> {
    let mut words = workload_words(entry.process.as_ref().map(|process| &process.workload));
    words.push(format!("cookie {}", entry.subject.key.cookie));
    if let Some(queue) = &entry.queue {
        words.push(format!("accepted {}", queue.figures.totals.accepted));
        let gone = queue.figures.totals.left_by_fin + queue.figures.totals.left_by_rst;
        if gone > 0 {
            words.push(format!("left by their clients {gone}"));
        }
    }
    words.extend(entry.connection.as_deref().map(|connection| story(connection, now_ns)).unwrap_or_default());
    words
}

/// What had happened to a connection until then.
fn story(connection: &Connection, now_ns: u64) -> Vec<String> {
    let mut words = vec![connection.role.word().to_owned()];
    if let Some(opener) = connection.ownership.opener {
        words.push(format!("opened by {opener}"));
    }
    if let Some(queued) = connection.queued {
        words.extend(queued.handshake_ns.map(|ns| format!("handshake {}", time(ns.max(0).unsigned_abs()))));
        let waited = queued.wait_ns().map(|ns| time(ns.max(0).unsigned_abs()));
        words.extend(waited.map(|waited| format!("waited {waited} in the accept queue")));
        if connection.is_queued() {
            let waits = queued.at_ns.map_or(Age::AtLeast(now_ns.saturating_sub(connection.first_seen_ns)), |at_ns| {
                Age::Exactly(now_ns.saturating_sub(at_ns))
            });
            words.push(format!("in the accept queue for {}", age(waits)));
            words.extend(queued.left_ns.map(|ns| format!("its client left {} ago", time(now_ns.saturating_sub(ns)))));
        }
    }
    if let Some(acceptor) = connection.ownership.acceptor {
        let fd = connection.ownership.fd.map(|fd| format!(" as fd {fd}")).unwrap_or_default();
        words.push(format!("accepted by {acceptor}{fd}"));
    }
    if connection.retransmits > 0 {
        words.push(format!("retransmits {}", connection.retransmits));
    }
    let mut lasted = Vec::new();
    for span in &connection.spans {
        lasted.push(match span.lasted_ns {
            Some(ns) => format!("{} {}", span.state, time(ns)),
            None => span.state.to_string(),
        });
    }
    if !lasted.is_empty() {
        words.push(format!("before: {}", lasted.join(" ")));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::list::text::PROCESS_WIDTH;
    use sockwatch::{
        sink::text::Colour,
        tcp::{
            connection::Role,
            endpoint::Endpoint,
            event::{SocketKey, Task},
            queue::{QueueFigures, Totals},
            update::Subject,
        },
    };

    const NOW_NS: u64 = 70_000_000_000;

    fn entry(state: TcpState, standing: Standing) -> Entry {
        let task = Task { pid: 812, tid: 812, comm: "a-long-name-15".into() };
        let owner = (standing != Standing::Unknown).then_some(task);
        let (local, remote) = (Endpoint::v4([10, 0, 0, 1], 80), Endpoint::v4([10, 0, 0, 9], 5000));
        let key = SocketKey { netns: 1, cookie: 7 };
        Entry {
            subject: Subject { key, incarnation: 0, role: Role::Unknown, local, remote, owner },
            state,
            since_ns: None,
            first_seen_ns: NOW_NS - 2_500_000_000,
            standing,
            connection: None,
            queue: None,
            expires_ns: None,
            process: None,
        }
    }

    #[test]
    fn lines_have_the_columns_of_the_kernel_s_table() {
        let totals = Totals { limit: Some(128), ..Totals::default() };
        let figures = QueueFigures { depth: 3, peak: 3, oldest: Some(Age::Exactly(2_300_000_000)), totals };
        let children = [("CLOSE", 1), ("ESTABLISHED", 2)].into();
        let entries = vec![
            Entry { queue: Some(Queue { figures, children }), ..entry(TcpState::Listen, Standing::Held) },
            Entry { since_ns: Some(NOW_NS - 1_700_000_000), ..entry(TcpState::Established, Standing::Queued) },
            Entry { expires_ns: Some(NOW_NS + 58_000_000_000), ..entry(TcpState::TimeWait, Standing::Minisock) },
            entry(TcpState::CloseWait, Standing::Unknown),
        ];
        let mut out = Vec::new();
        write(&mut out, &entries, NOW_NS, Shape { colour: Colour::Off, several_namespaces: false, long: false })
            .unwrap();
        let expected = "\
STATE       LOCAL                 REMOTE                QUEUE     TIMER    AGE   PROCESS
LISTEN      10.0.0.1:80           10.0.0.9:5000         3/128     -        >2.5s a-long-name-15/812
            queued: 1 reset by their clients, 2 ESTABLISHED, the oldest for 2.30s
ESTABLISHED 10.0.0.1:80           10.0.0.9:5000         -         -        1.7s  queued a-long-n/812
TIME_WAIT   10.0.0.1:80           10.0.0.9:5000         -         tw 58s   >2.5s minisock
CLOSE_WAIT  10.0.0.1:80           10.0.0.9:5000         -         -        >2.5s unknown
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert!(process(&entry(TcpState::Established, Standing::Queued)).len() <= PROCESS_WIDTH);
    }
}
