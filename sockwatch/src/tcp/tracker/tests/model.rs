//! What we believe, compared with a model of the kernel: all agrees while nothing is lost, and two rounds of listings
//! repair whatever was.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::*,
    kernel::{Kernel, MS},
};
use crate::tcp::{
    listing::Round,
    order::{Order, WINDOW_NS},
    queue::AcceptQueue,
};

/// As a source announces a round.
const LEAD_NS: u64 = 6 * MS;

#[derive(Clone, Copy, Debug)]
enum Step {
    Act { which: usize, how: u8, lost: bool },
    Pass(u64),
    List { blur_ns: u64 },
}

fn any_steps(share_lost: f64) -> impl Strategy<Value = Vec<Step>> {
    let act = (0_usize..20, any::<u8>(), proptest::bool::weighted(share_lost));
    let step = prop_oneof![
        20 => act.prop_map(|(which, how, lost)| Step::Act { which, how, lost }),
        5 => select(vec![10_000, MS, 5 * MS, 500 * MS, 3_000 * MS, 70_000 * MS]).prop_map(Step::Pass),
        2 => (0..MS).prop_map(|blur_ns| Step::List { blur_ns }),
    ];
    vec(step, 0..150)
}

/// The pipeline's part, on a model kernel.
struct Trial {
    kernel: Kernel,
    order: Order,
    tracker: Tracker,
    round: Option<Round>,
    updates: Vec<Update>,
}

impl Trial {
    fn new() -> Self {
        let (order, tracker) = (Order::default(), Tracker::default());
        Self { kernel: Kernel::new(), order, tracker, round: None, updates: Vec::new() }
    }

    fn take(&mut self, steps: &[Step]) {
        for step in steps {
            match *step {
                Step::Act { which, how, lost } => {
                    self.kernel.act(which, how);
                    if lost {
                        self.lose(usize::from(how >> 4));
                    }
                }
                Step::Pass(for_ns) => self.kernel.pass(for_ns),
                Step::List { blur_ns } => self.list(blur_ns, false),
            }
            self.advance();
        }
    }

    /// Loses one of the events that are new, or all.
    fn lose(&mut self, which: usize) {
        if which < self.kernel.events.len() {
            self.kernel.events.remove(which);
        } else {
            self.kernel.events.clear();
        }
    }

    /// A round, compared once all that happened until then has been taken in.
    fn list(&mut self, blur_ns: u64, first: bool) {
        self.tracker.expect_round();
        self.kernel.pass(LEAD_NS);
        self.advance();
        let listing = self.kernel.listing(blur_ns, first);
        self.round = Some(Round { to_ns: listing.to_ns, listings: vec![listing], ..Round::default() });
    }

    /// Takes in what is old enough.
    fn advance(&mut self) {
        let now_ns = self.kernel.now_ns;
        let Self { kernel, order, tracker, updates, .. } = self;
        order.append(&mut kernel.events);
        order.release(now_ns, |event| tracker.apply(event, updates));
        let settled = |round: &mut Round| round.to_ns + TOLERANCE_NS + WINDOW_NS <= now_ns;
        if let Some(round) = self.round.take_if(settled) {
            for event in self.tracker.compare(&round) {
                self.tracker.apply(&event, &mut self.updates);
            }
        }
        self.tracker.expire(now_ns, &mut self.updates);
    }

    fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            self.list(10_000, false);
            self.kernel.pass(10 * MS);
            self.advance();
        }
    }

    /// All that was told of sockets of which something was told that should not have been.
    fn told(&self) -> Vec<&Update> {
        let wrong = |it: &Update| matches!(it.happening, Happening::Disagreed { .. } | Happening::Unexpected { .. });
        let about = |it: &&Update| self.updates.iter().any(|other| wrong(other) && other.subject.key == it.subject.key);
        self.updates.iter().filter(about).collect()
    }

    fn disagreements(&self) -> (u64, u64, u64) {
        let agreement = self.tracker.agreement();
        (agreement.repaired() - agreement.depths, agreement.compared - agreement.agreed, self.tracker.unexpected())
    }

    /// How deep we believe the accept queue is.
    fn depth(&self) -> u32 {
        self.tracker.queues.values().map(AcceptQueue::depth).sum()
    }

    /// Ends all connections; nothing may be left of them but what has been told.
    fn check_rest(mut self) -> Result<(), TestCaseError> {
        self.kernel.finish();
        self.kernel.pass(200_000 * MS);
        self.advance();
        self.rounds(3);
        let tracker = &self.tracker;
        let living: Vec<_> = tracker.sockets.values().filter(|tracked| tracked.stage == Stage::Living).collect();
        prop_assert_eq!(living.len(), 1, "the listener: {:?}", living);
        prop_assert!(tracker.minisocks.is_empty(), "{:?}", tracker);
        Ok(())
    }
}

proptest! {
    #[test]
    fn without_losses_all_agrees(before in any_steps(0.0), steps in any_steps(0.0)) {
        let mut trial = Trial::new();
        // What was there before the trace is in its first listing.
        for step in before {
            if let Step::Act { which, how, .. } = step {
                trial.kernel.act(which, how);
            }
        }
        trial.kernel.events.clear();
        trial.list(10_000, true);
        trial.take(&steps);
        trial.rounds(2);
        prop_assert_eq!(trial.disagreements(), (0, 0, 0), "{:?}", trial.told());
        prop_assert_eq!((trial.tracker.agreement().depths, trial.depth()), (0, trial.kernel.depth()));
        // A minisock that the first listing showed may be gone before that is compared.
        let agreement = trial.tracker.agreement();
        prop_assert!(agreement.displaced <= agreement.adopted, "{:?}", agreement);
        trial.check_rest()?;
    }

    #[test]
    fn two_rounds_repair_what_was_lost(lossy in any_steps(0.2), whole in any_steps(0.0)) {
        let mut trial = Trial::new();
        trial.take(&lossy);
        trial.kernel.pass(10 * MS);
        trial.advance();
        trial.rounds(2);
        let before = trial.disagreements();
        trial.take(&whole);
        trial.rounds(2);
        let after = trial.disagreements();
        // Which of those that wait was accepted unseen may show only later; how many do is known.
        prop_assert_eq!((before.0, before.1), (after.0, after.1), "{:?}", trial.told());
        trial.rounds(2);
        prop_assert_eq!(trial.depth(), trial.kernel.depth());
        trial.check_rest()?;
    }
}
