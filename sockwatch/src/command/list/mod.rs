//! `sockwatch list`: the TCP sockets that there are, each with those who are responsible for it.

mod inventory;
mod json;
mod recorded;
mod text;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use nix::unistd::{Uid, geteuid};
use sockwatch::{
    kernel::check::kernel_release,
    monotonic::wall_offset_ns,
    process::{
        self, Process,
        cgroup::{Cgroups, Workload},
        holders::Holders,
    },
    sink::text::Colour,
    source::table::{Asked, Listing, Namespace, NamespaceError, Places, Table, TableError},
    tcp::{filter::Filter, sentence::Count, state::TcpState},
};

use self::inventory::{Entry, Standing, order};
pub(crate) use self::json::Line;
use super::{
    filter::{Members, members, netns_path, resolve},
    tell, wants_colour,
};
use crate::cli::{FilterArgs, Format, ListArgs};

/// The word for every namespace.
const ALL: &str = "all";

/// What shown sockets refer to.
#[derive(Debug, Default)]
struct Names {
    processes: HashMap<u32, Process>,
    /// By the cgroup's id.
    cgroups: HashMap<u64, Workload>,
}

/// What was seen and what was not.
#[derive(Debug, Default)]
struct Summary {
    sockets: usize,
    states: BTreeMap<&'static str, usize>,
    standings: BTreeMap<&'static str, usize>,
    hidden: Vec<u32>,
    /// Why namespaces could not be listed.
    refused: Vec<String>,
    nameless: u64,
}

/// The listings of all namespaces that were asked for.
#[derive(Default)]
struct Looked {
    netns: Vec<u32>,
    listings: Vec<Listing>,
    refused: Vec<String>,
}

pub(crate) fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    if !args.recording.is_empty() {
        return recorded::run(args);
    }
    let looked_for = LookedFor::resolve(args)?;
    let Looked { netns, listings, refused } = looked_for.list()?;
    let nameless = listings.iter().map(|listing| listing.nameless).sum();
    // After the listings: a socket that is new in them has its descriptor by now.
    let holders = Holders::look();
    let mut entries = inventory::join(listings, &holders);
    entries.retain(|entry| looked_for.passes(entry));
    let summary = Summary { refused, nameless, hidden: holders.hidden, ..summarize(&entries) };
    let names = names(&entries);
    let mut out = BufWriter::new(io::stdout().lock());
    match args.format {
        Format::Text => text::write(&mut out, &entries, &names, shape(args.long, netns.len()))?,
        Format::Json => {
            let first = Line::first(netns, kernel_release(), wall_offset_ns());
            let sockets = entries.iter().map(|entry| Line::socket(entry, &names));
            for line in [first].into_iter().chain(sockets).chain([Line::last(&summary)]) {
                serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
                out.write_all(b"\n")?;
            }
        }
    }
    out.flush()?;
    tell_summary(&summary);
    Ok(ExitCode::SUCCESS)
}

fn shape(long: bool, namespaces: usize) -> text::Shape {
    let colour = if wants_colour() { Colour::On } else { Colour::Off };
    text::Shape { colour, several_namespaces: namespaces > 1, long }
}

/// What the command line's words ask for.
struct LookedFor {
    filter: Filter,
    states: Vec<TcpState>,
    members: Option<Members>,
    /// Names, paths and numbers of namespaces, `all`, or none for one's own.
    netns: Vec<String>,
}

impl LookedFor {
    fn resolve(args: &ListArgs) -> anyhow::Result<Self> {
        let mut words = FilterArgs { netns: Vec::new(), ..args.filter.clone() };
        if args.filter.netns.iter().any(|name| name == ALL) {
            ensure!(args.filter.netns.len() == 1, "--netns {ALL}: all of them are listed already, name no others");
        } else {
            words.netns.clone_from(&args.filter.netns);
        }
        let filter = resolve(&words)?.filter;
        let members = args.filter.cgroup.as_deref().map(members).transpose()?;
        Ok(Self { filter, states: args.state.clone(), members, netns: args.filter.netns.clone() })
    }

    fn list(&self) -> anyhow::Result<Looked> {
        let mut looked = Looked::default();
        match &self.netns[..] {
            [] => looked.add(Table::own().and_then(|mut table| Ok((table.netns(), table.list(Asked::Details)?))))?,
            [all] if all == ALL => looked.add_all(),
            names => names.iter().try_for_each(|name| {
                let listed = named(name).map_err(TableError::from).and_then(list_in);
                looked.add(listed).with_context(|| format!("--netns {name}"))
            })?,
        }
        Ok(looked)
    }

    /// Whether a socket is asked for. A queued child and a request are their listener's process's.
    fn passes(&self, entry: &Entry) -> bool {
        let listed = &entry.listed;
        let held_by = |pid: &u32| entry.holders.iter().any(|holder| holder.pid == *pid);
        self.filter.matches_tuple(listed.key.netns, listed.local, listed.remote)
            && (self.states.is_empty() || self.states.contains(&listed.state))
            && (self.filter.pids.is_empty() || self.filter.pids.iter().any(held_by))
            && self.members.as_ref().is_none_or(|members| {
                let made_there = entry.details.cgroup.is_some_and(|id| members.cgroups.contains(&id));
                members.processes.iter().any(held_by) || (entry.holders.is_empty() && made_there)
            })
    }
}

impl Looked {
    fn add(&mut self, listed: Result<(u32, Listing), TableError>) -> Result<(), TableError> {
        let (netns, listing) = listed?;
        // Under two names.
        if !self.netns.contains(&netns) {
            self.netns.push(netns);
            self.listings.push(listing);
        }
        Ok(())
    }

    /// Lists whatever namespaces can be found and entered.
    fn add_all(&mut self) {
        let places = Places::look();
        for place in &places.found {
            let listed = Namespace::open(&place.path).map_err(TableError::from).and_then(list_in);
            if let Err(error) = self.add(listed) {
                self.refused.push(format!("{:#}", anyhow::Error::from(error)));
            }
        }
        if places.processes_hidden > 0 {
            self.refused.push(format!(
                "the network namespaces of {} may not be looked at: {}",
                counted(places.processes_hidden),
                refusal(geteuid()),
            ));
        }
    }
}

/// The namespace is closed again at once, so that nothing keeps it.
fn list_in(namespace: Namespace) -> Result<(u32, Listing), TableError> {
    Ok((namespace.inode(), namespace.list(Asked::Details)?))
}

/// A namespace by its number, or by the file that leads to it.
fn named(name: &str) -> Result<Namespace, NamespaceError> {
    match name.parse() {
        Ok(inode) => Namespace::find(inode),
        Err(_) => Namespace::open(&netns_path(name)),
    }
}

fn summarize(entries: &[Entry]) -> Summary {
    let mut summary = Summary { sockets: entries.len(), ..Summary::default() };
    for entry in entries {
        *summary.states.entry(entry.listed.state.name()).or_default() += 1;
        *summary.standings.entry(entry.standing.word()).or_default() += 1;
    }
    summary
}

/// Looks up what the shown sockets refer to. A process that has ended meanwhile has no name.
fn names(entries: &[Entry]) -> Names {
    let pids: HashSet<u32> = entries.iter().flat_map(|entry| &entry.holders).map(|holder| holder.pid).collect();
    let ids: HashSet<u64> = entries.iter().filter_map(|entry| entry.details.cgroup).collect();
    let mut cgroups = Cgroups::default();
    Names {
        processes: pids.into_iter().filter_map(|pid| Some((pid, process::look(pid)?))).collect(),
        cgroups: ids.into_iter().filter_map(|id| Some((id, Workload::of_path(cgroups.path(id)?)))).collect(),
    }
}

/// The last lines on stderr: what was not seen, and what was.
fn tell_summary(summary: &Summary) {
    for refused in &summary.refused {
        tell(format_args!("sockwatch: warning: {refused}"));
    }
    let count = |standing: Standing| summary.standings.get(standing.word()).copied().unwrap_or(0);
    if count(Standing::Hidden) > 0 {
        let (who, why) = (processes(&summary.hidden), refusal(geteuid()));
        tell(format_args!(
            "sockwatch: warning: the descriptors of {who} may not be looked at ({why}): {} marked hidden may be theirs",
            Count(count(Standing::Hidden) as u64, "socket"),
        ));
    }
    if summary.nameless > 0 {
        let sockets = Count(summary.nameless, "socket");
        tell(format_args!("sockwatch: warning: {sockets} of unknown states left out"));
    }
    tell(format_args!("sockwatch: sockets={}{}", summary.sockets, counts(&summary.states, &summary.standings)));
}

/// ` LISTEN=1 TIME_WAIT=2; held=1 minisock=2`
fn counts(states: &BTreeMap<&'static str, usize>, standings: &BTreeMap<&'static str, usize>) -> String {
    let words = |counts: &BTreeMap<&str, usize>| {
        counts.iter().map(|(word, count)| format!(" {word}={count}")).collect::<String>()
    };
    let separator = if states.is_empty() { "" } else { ";" };
    format!("{}{separator}{}", words(states), words(standings))
}

/// More than these are only counted.
const MOST_NAMED: usize = 3;

/// `process 1`, `processes 1, 7`, `24 processes`.
fn processes(pids: &[u32]) -> String {
    match pids {
        [pid] => format!("process {pid}"),
        few if few.len() <= MOST_NAMED => {
            format!("processes {}", few.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))
        }
        many => counted(many.len()),
    }
}

fn counted(processes: usize) -> String {
    if processes == 1 { "1 process".into() } else { format!("{processes} processes") }
}

/// Why one may not look at a process.
fn refusal(user: Uid) -> &'static str {
    if user.is_root() {
        "not even by root: a sandbox, a security module or another user namespace is in the way"
    } else {
        "that takes root, or CAP_SYS_PTRACE"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_be_looked_at_is_named() {
        assert_eq!(processes(&[1]), "process 1");
        assert_eq!(processes(&[1, 7, 30]), "processes 1, 7, 30");
        assert_eq!(processes(&[1, 7, 30, 31]), "4 processes");
        assert!(!refusal(Uid::from_raw(0)).contains("takes root"));
        assert!(refusal(Uid::from_raw(1000)).contains("takes root"));
    }
}
