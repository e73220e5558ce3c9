//! One round: the tables of all namespaces, with what their counters say and who holds what.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Instant,
};

use super::{
    Closely, Order, Report, Scope,
    look::{Closer, look},
    owners::Owners,
};
use crate::{
    monotonic::now_ns,
    source::{
        counters::{self, Counters},
        table::{self, Asked, Details, Listed, Namespace, Places, Table, TableError},
    },
    tcp::{
        event::SocketKey,
        filter::Filter,
        listing::{Listing, Record, Round},
        queue::{Follows, NamespaceDrops},
        state::TcpState,
    },
};

/// Lists on a thread of its own.
#[derive(Debug)]
pub(super) struct Lister {
    filter: Filter,
    scope: Scope,
    /// Namespaces that were listed before, with their counters then.
    known: HashMap<u32, Option<NamespaceDrops>>,
    owners: Owners,
}

impl Lister {
    pub(super) fn new(filter: Filter, scope: Scope) -> Self {
        let owners = Owners::new(&filter);
        Self { filter, scope, known: HashMap::new(), owners }
    }

    pub(super) fn work(&mut self, order: &Order) -> Report {
        let began = Instant::now();
        let mut round = Round::default();
        let places = Places::look();
        let mut wanted: HashMap<u32, Option<PathBuf>> = order.namespaces.clone();
        if self.filter.netns.is_empty() {
            // What is there already, and where nothing has happened yet.
            for place in &places.found {
                wanted.entry(place.inode).or_default().get_or_insert_with(|| place.path.clone());
            }
        }
        self.owners.begin(&order.owners);
        let mut closer = Vec::new();
        for (netns, hint) in wanted {
            let place = places.found.iter().find(|place| place.inode == netns).map(|place| place.path.clone());
            match place.or(hint).and_then(|path| Namespace::open(&path).ok()).filter(|it| it.inode() == netns) {
                Some(namespace) => match self.list(&namespace, order.closely, &mut closer) {
                    Ok(listing) => round.listings.push(listing),
                    Err(_) => round.unlisted += 1,
                },
                None if self.known.remove(&netns).is_some() => round.gone.push(netns),
                None => round.unlisted += 1,
            }
        }
        // After the listings: a socket that is new in one has its descriptor by now.
        let recorded = round.listings.iter().flat_map(|it| &it.records).map(|it| it.inode);
        let inodes: HashSet<u32> = recorded.chain(closer.iter().map(|(listed, _)| listed.inode)).collect();
        self.owners.look(&inodes);
        for listing in &mut round.listings {
            listing.holders = self.owners.of(listing.records.iter().map(|record| record.inode));
        }
        round.to_ns = now_ns();
        let look = (order.closely == Closely::Yes).then(|| look(closer, round.to_ns, &self.owners, &self.filter));
        Report { round, took: began.elapsed(), look }
    }

    /// Lists a namespace; with details of its sockets into `closer`, where they are asked for.
    fn list(
        &mut self,
        namespace: &Namespace,
        closely: Closely,
        closer: &mut Vec<Closer>,
    ) -> Result<Listing, TableError> {
        let netns = namespace.inode();
        let first = !self.known.contains_key(&netns);
        let mut table = Table::of(namespace)?;
        let from_ns = now_ns();
        let asked = match (closely, self.scope) {
            (Closely::Yes, _) => Asked::Details,
            (Closely::No, Scope::All) => Asked::Sockets,
            (Closely::No, Scope::Listeners) => Asked::Listeners,
        };
        let table::Listing { sockets, details, .. } = table.list(asked)?;
        let to_ns = now_ns();
        let is_ours = |it: &&Listed| {
            let in_scope = self.scope == Scope::All || it.state == TcpState::Listen;
            in_scope && self.filter.matches_tuple(it.key.netns, it.local, it.remote)
        };
        let ours: Vec<_> = sockets.iter().filter(is_ours).collect();
        let listens = ours.iter().any(|listed| listed.state == TcpState::Listen);
        let drops = match self.scope {
            Scope::All if listens => {
                let table::Listing { sockets, details, .. } = table.list(Asked::Listeners)?;
                drops_of(&sockets, &details)
            }
            Scope::All => HashMap::new(),
            Scope::Listeners => drops_of(&sockets, &details),
        };
        // Without them the depths are compared all the same. The first ones are what later ones are counted from.
        let tells = listens || first || sockets.iter().any(|it| it.minisock);
        let counters = if tells { namespace.enter(counters::read)?.ok() } else { None };
        let before = self.known.entry(netns).or_default();
        let dropped = counters.map(|Counters { drops, .. }| drops.since(before.get_or_insert(drops)));
        let records: Vec<_> = ours.into_iter().map(|listed| self.record(listed, first, &drops)).collect();
        let detailed = sockets.iter().zip(&details);
        let ours = |listed: &Listed| self.filter.matches_tuple(listed.key.netns, listed.local, listed.remote);
        closer.extend(detailed.filter(|(listed, _)| ours(listed)).map(|(listed, details)| (*listed, *details)));
        Ok(Listing {
            netns,
            from_ns,
            to_ns,
            first,
            records,
            holders: HashMap::new(),
            dropped: dropped.unwrap_or_default(),
            somaxconn: counters.and_then(|counters| counters.somaxconn),
            follows: match self.scope {
                Scope::All if self.owners.are_everyone() => Follows::All,
                Scope::All | Scope::Listeners => Follows::Some,
            },
        })
    }

    fn record(&self, listed: &Listed, first: bool, drops: &HashMap<SocketKey, u32>) -> Record {
        let expires_in_ns =
            listed.timer.filter(|_| listed.minisock).map(|timer| u64::from(timer.expires_ms) * 1_000_000);
        Record {
            key: listed.key,
            tuple: (listed.local, listed.remote),
            state: listed.state,
            expires_in_ns,
            queue: listed.queue,
            from_ns: listed.filled.from_ns,
            to_ns: listed.filled.to_ns,
            drops: drops.get(&listed.key).copied(),
            inode: listed.inode,
            ours: self.owners.are_everyone() || first && self.owners.own(listed.inode),
        }
    }
}

/// `sk_drops` of listeners.
fn drops_of(sockets: &[Listed], details: &[Details]) -> HashMap<SocketKey, u32> {
    sockets.iter().zip(details).filter_map(|(listed, details)| Some((listed.key, details.drops?))).collect()
}
