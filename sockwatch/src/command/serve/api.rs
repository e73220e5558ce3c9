//! What the live page reads, and any other program may: JSON over HTTP, described by docs/openapi.json.
//!
//! A request names what it wants by its path; the loop that keeps everything makes plain figures of it between two batches,
//! and they are written as JSON on the thread that answers.

mod detail;
mod openapi;
mod overview;
mod rows;

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::{
    overview::{Order, Words},
    tcp::event::SocketKey,
};

pub(crate) use self::openapi::print;
pub(super) use self::{
    detail::{ListenerDetail, Timeline},
    openapi::text as openapi,
    overview::{History, Overview, Place},
    rows::{Connections, column},
};

/// The version of this interface. What is not known is absent, never null. A field may be added within a version; one that changes
/// or goes makes a new version, with a path of its own.
const VERSION: u32 = 1;

/// Connections that are told at once.
const MOST_ROWS: usize = 1000;
const ROWS: usize = 100;

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// How everything is now.
    Overview,
    /// The same, each second.
    Live,
    /// Sockets by state over the last minutes.
    History,
    /// A listener, closely.
    Listener(SocketKey),
    /// Connections that fit.
    Connections { words: Box<Words>, order: Order, limit: usize },
    /// A connection's timeline, and which of its socket's lives.
    Connection(SocketKey, u32),
    /// The description of all this.
    Description,
}

/// Why a request makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mistaken {
    /// There is no such path.
    Path,
    /// A parameter's value is wrong.
    Value(String),
}

/// What is told instead.
#[derive(Serialize, JsonSchema)]
pub(super) struct Mistake {
    /// What is wrong.
    error: String,
}

impl Mistake {
    pub(super) fn new(error: impl fmt::Display) -> Self {
        Self { error: error.to_string() }
    }
}

/// All paths begin so.
pub(super) const PREFIX: &str = "/api/";

impl Asked {
    /// From a path that begins with [`PREFIX`], and what follows the question mark.
    pub(super) fn parse(path: &str, query: Option<&str>) -> Result<Self, Mistaken> {
        let rest = path.strip_prefix(PREFIX).ok_or(Mistaken::Path)?;
        let parts: Vec<_> = rest.split('/').collect();
        match *parts.as_slice() {
            ["openapi.json"] => Ok(Self::Description),
            ["v1", "overview"] => Ok(Self::Overview),
            ["v1", "live"] => Ok(Self::Live),
            ["v1", "history"] => Ok(Self::History),
            ["v1", "connections"] => connections(query.unwrap_or_default()),
            ["v1", "listeners", id] => match numbers(id).as_deref() {
                Some([netns, cookie]) => Ok(Self::Listener(key(*netns, *cookie)?)),
                _ => Err(Mistaken::Value(format!("{id}: not an id of a listener, like 4026531840-17"))),
            },
            ["v1", "connections", id] => match numbers(id).as_deref() {
                Some([netns, cookie, incarnation]) => {
                    let incarnation = u32::try_from(*incarnation).map_err(|_| Mistaken::Path)?;
                    Ok(Self::Connection(key(*netns, *cookie)?, incarnation))
                }
                _ => Err(Mistaken::Value(format!("{id}: not an id of a connection, like 4026531840-17-0"))),
            },
            _ => Err(Mistaken::Path),
        }
    }
}

fn connections(query: &str) -> Result<Asked, Mistaken> {
    let (mut words, mut by, mut descending, mut limit) = (Words::default(), None, None, ROWS);
    let wrong = |name: &str, value: &str, what: &str| Mistaken::Value(format!("{name}={value}: {what}"));
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "filter" => {
                words = Words::parse(&value).map_err(|error| wrong(&name, &value, &error.to_string()))?;
            }
            "sort" => {
                by = Some(
                    column(&value).ok_or_else(|| wrong(&name, &value, "state, local, remote, age, wait or process"))?,
                );
            }
            "order" => {
                descending = Some(match &*value {
                    "asc" => false,
                    "desc" => true,
                    _ => return Err(wrong(&name, &value, "asc or desc")),
                });
            }
            "limit" => {
                let count = value.parse().ok().filter(|count| (1..=MOST_ROWS).contains(count));
                limit = count.ok_or_else(|| wrong(&name, &value, &format!("a number from 1 to {MOST_ROWS}")))?;
            }
            _ => return Err(wrong(&name, &value, "there are filter, sort, order and limit")),
        }
    }
    let order = Order { by: by.unwrap_or(sockwatch::overview::Column::Age), descending: descending.unwrap_or(true) };
    Ok(Asked::Connections { words: Box::new(words), order, limit })
}

fn numbers(id: &str) -> Option<Vec<u64>> {
    id.split('-').map(|number| number.parse().ok()).collect()
}

fn key(netns: u64, cookie: u64) -> Result<SocketKey, Mistaken> {
    Ok(SocketKey { netns: u32::try_from(netns).map_err(|_| Mistaken::Path)?, cookie })
}

/// How a listener is called in a path. Text, since cookies are greater than what all readers of JSON take for a number.
fn listener_id(key: SocketKey) -> String {
    format!("{}-{}", key.netns, key.cookie)
}

fn connection_id(key: SocketKey, incarnation: u32) -> String {
    format!("{}-{}-{incarnation}", key.netns, key.cookie)
}

#[cfg(test)]
mod tests {
    use sockwatch::overview::Column;

    use super::*;

    #[test]
    fn paths() {
        let check = |path: &str, query, expected| assert_eq!(Asked::parse(path, query), Ok(expected), "{path}");
        let (netns, cookie) = (4_026_531_840, u64::MAX);
        check("/api/v1/overview", None, Asked::Overview);
        check("/api/v1/listeners/4026531840-18446744073709551615", None, Asked::Listener(SocketKey { netns, cookie }));
        let connection = Asked::Connection(SocketKey { netns, cookie: 17 }, 2);
        check("/api/v1/connections/4026531840-17-2", None, connection);
        let order = Order { by: Column::Wait, descending: false };
        let words = Words::parse("--port 8080 nginx").unwrap();
        let connections = Asked::Connections { words: Box::new(words), order, limit: 5 };
        check("/api/v1/connections", Some("filter=port+8080%20nginx&sort=wait&order=asc&limit=5"), connections);
        let order = Order { by: Column::Age, descending: true };
        check("/api/v1/connections", None, Asked::Connections { words: Box::default(), order, limit: 100 });
    }

    #[test]
    fn mistakes() {
        let check = |path: &str, query, expected: &str| match Asked::parse(path, query) {
            Err(Mistaken::Path) => assert_eq!(expected, "path", "{path}"),
            Err(Mistaken::Value(error)) => assert_eq!(error, expected, "{path}"),
            Ok(asked) => panic!("{path}: {asked:?}"),
        };
        check("/api/", None, "path");
        check("/api/v2/overview", None, "path");
        check("/api/v1/overview/", None, "path");
        check("/api/v1/listeners/17", None, "17: not an id of a listener, like 4026531840-17");
        check("/api/v1/listeners/x-1", None, "x-1: not an id of a listener, like 4026531840-17");
        check("/api/v1/connections/1-2", None, "1-2: not an id of a connection, like 4026531840-17-0");
        check("/api/v1/connections/99999999999-2-0", None, "path");
        check("/api/v1/connections", Some("limit=0"), "limit=0: a number from 1 to 1000");
        check("/api/v1/connections", Some("sort=size"), "sort=size: state, local, remote, age, wait or process");
        check("/api/v1/connections", Some("order=up"), "order=up: asc or desc");
        check("/api/v1/connections", Some("filter=port"), "filter=port: port what?");
        check("/api/v1/connections", Some("colour=red"), "colour=red: there are filter, sort, order and limit");
    }
}
