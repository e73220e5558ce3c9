//! An accept queue in words.

use std::fmt::{self, Display};

use crate::{
    sink::quantity::Short,
    tcp::queue::{Age, QueueFigures, Totals},
};

/// `queue 3/128 oldest 1.2s accepted 50 abandoned 2 dead 1 drops 4 (2 last ACKs)`
pub(super) struct InWords<'a>(pub(super) &'a QueueFigures);

impl Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QueueFigures { depth, oldest, totals, .. } = *self.0;
        write!(f, "queue {depth}/")?;
        match totals.limit {
            Some(limit) => write!(f, "{limit}")?,
            None => write!(f, "?")?,
        }
        if totals.is_somaxconn == Some(true) {
            write!(f, " (somaxconn)")?;
        }
        match oldest {
            Some(Age::Exactly(ns)) => write!(f, " oldest {}", Short(ns.cast_signed()))?,
            Some(Age::AtLeast(ns)) => write!(f, " oldest >{}", Short(ns.cast_signed()))?,
            None => {}
        }
        write!(f, "{}", Counts(&totals))
    }
}

/// `queue closed accepted 50 abandoned 2 dead 1 unqueued 1 drops 4`: of a listener that is no more.
pub(super) struct Closed<'a>(pub(super) &'a QueueFigures);

impl Display for Closed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue closed{}", Counts(&self.0.totals))
    }
}

struct Counts<'a>(&'a Totals);

impl Display for Counts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = self.0;
        let abandoned = totals.left_by_fin + totals.left_by_rst;
        let (accepted, dead, overflows) = (totals.accepted, totals.dead_on_arrival, totals.overflows);
        write!(f, " accepted {accepted} abandoned {abandoned} dead {dead}")?;
        if totals.unqueued > 0 {
            write!(f, " unqueued {}", totals.unqueued)?;
        }
        match (totals.drops, overflows) {
            (None, 0) => Ok(()),
            (None, _) => write!(f, " drops ? ({overflows} last ACKs)"),
            (Some(drops), 0) => write!(f, " drops {drops}"),
            // As of the last look: the kernel's count may be behind.
            (Some(drops), _) => write!(f, " drops {} ({overflows} last ACKs)", overflows.max(drops.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_one_line() {
        let totals = Totals {
            limit: Some(128),
            accepted: 50,
            left_by_fin: 1,
            left_by_rst: 1,
            dead_on_arrival: 1,
            drops: Some(4),
            ..Totals::default()
        };
        let figures = QueueFigures { depth: 3, peak: 3, oldest: Some(Age::Exactly(1_200_000_000)), totals };
        let text = "queue 3/128 oldest 1.20s accepted 50 abandoned 2 dead 1 drops 4";
        assert_eq!(InWords(&figures).to_string(), text);
        let text = "queue 3/128 oldest 1.20s accepted 50 abandoned 2 dead 1 drops 5 (5 last ACKs)";
        let figures = QueueFigures { totals: Totals { overflows: 5, ..totals }, ..figures };
        assert_eq!(InWords(&figures).to_string(), text);
        let totals = Totals { unqueued: 2, ..totals };
        let closed = QueueFigures { totals, ..QueueFigures::default() };
        let text = "queue closed accepted 50 abandoned 2 dead 1 unqueued 2 drops 4";
        assert_eq!(Closed(&closed).to_string(), text);
        let text = "queue 0/? accepted 0 abandoned 0 dead 0 drops ? (2 last ACKs)";
        let totals = Totals { overflows: 2, ..Totals::default() };
        assert_eq!(InWords(&QueueFigures { totals, ..QueueFigures::default() }).to_string(), text);
        let totals = Totals { limit: Some(4096), is_somaxconn: Some(true), ..Totals::default() };
        let figures = QueueFigures { depth: 1, oldest: Some(Age::AtLeast(1)), totals, ..QueueFigures::default() };
        let text = "queue 1/4096 (somaxconn) oldest >1ns accepted 0 abandoned 0 dead 0";
        assert_eq!(InWords(&figures).to_string(), text);
    }
}
