//! What somebody looks at: kept only while somebody does, so that it costs nothing else.

use std::sync::Arc;

use sockwatch::{
    overview::{Model, Place},
    pipeline::Totals,
    sink::{Sight, selected::Selection},
    tcp::update::Update,
};

use crate::command::diagnose::ports;

/// After so long without a question nobody looks any more.
const UNASKED_NS: u64 = 60_000_000_000;

/// What the loop that keeps it lets somebody see.
pub(super) struct Outlook<'a> {
    /// The sockets.
    pub(super) sight: &'a Sight<'a>,
    /// Which of them are shown.
    pub(super) selection: &'a mut Selection,
    /// What is kept of those.
    pub(super) model: &'a mut Model,
}

/// A look at what is kept, from the loop that keeps it.
pub(super) type Question = Box<dyn FnOnce(&mut Outlook<'_>) + Send>;

/// What is kept.
pub(super) struct View {
    place: Arc<Place>,
    slow_ns: u64,
    totals: Totals,
    seen: Option<Seen>,
}

struct Seen {
    model: Model,
    asked_ns: u64,
}

impl View {
    /// Nobody looks yet. A connection that waits for `slow_ns` is slow.
    pub(super) fn new(place: Arc<Place>, slow_ns: u64) -> Self {
        Self { place, slow_ns, totals: Totals::default(), seen: None }
    }

    /// From the next second on.
    pub(super) fn set_slow(&mut self, slow_ns: u64) {
        self.slow_ns = slow_ns;
        if let Some(seen) = &mut self.seen {
            seen.model.set_slow(slow_ns);
        }
    }

    pub(super) fn take(&mut self, update: &Update) {
        if let Some(seen) = &mut self.seen {
            seen.model.take(update);
        }
    }

    pub(super) fn count(&mut self, totals: &Totals) {
        self.totals = *totals;
        if let Some(seen) = &mut self.seen {
            seen.model.count(totals);
        }
    }

    /// Something else is shown: what is kept was of other sockets, the ends of which are no longer told.
    pub(super) fn forget(&mut self) {
        self.seen = None;
    }

    pub(super) fn look(&mut self, sight: &Sight<'_>, selection: &mut Selection) {
        self.seen.take_if(|seen| sight.now_ns.saturating_sub(seen.asked_ns) > UNASKED_NS);
        if let Some(seen) = &mut self.seen {
            seen.look(sight, selection);
        }
    }

    /// Answers. Who is the first begins with what there is at that instant.
    pub(super) fn answer(&mut self, sight: &Sight<'_>, selection: &mut Selection, question: Question) {
        let Self { place, slow_ns, totals, seen } = self;
        let seen = seen.get_or_insert_with(|| Seen {
            model: Model::amid(Place::clone(place), sight, selection, totals, *slow_ns),
            asked_ns: 0,
        });
        seen.asked_ns = sight.now_ns;
        seen.look(sight, selection);
        question(&mut Outlook { sight, selection, model: &mut seen.model });
    }
}

impl Seen {
    fn look(&mut self, sight: &Sight<'_>, selection: &mut Selection) {
        if self.model.look(sight, selection) {
            let unknown = self.model.opens_in();
            for (netns, settings) in ports::settings(&unknown) {
                self.model.settle(netns, settings);
            }
        }
    }
}
