//! An accept queue in words.

use std::fmt::{self, Display};

use crate::{
    sink::quantity::Short,
    tcp::queue::{Age, QueueFigures},
};

/// `queue 3/128 oldest 1.2s accepted 50 abandoned 2 dead 1 overflow 0 drops 0`
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
        let abandoned = totals.left_by_fin + totals.left_by_rst;
        let (accepted, dead, overflows) = (totals.accepted, totals.dead_on_arrival, totals.overflows);
        write!(f, " accepted {accepted} abandoned {abandoned} dead {dead} overflow {overflows}")?;
        match totals.drops {
            Some(drops) => write!(f, " drops {drops}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::queue::Totals;

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
        let text = "queue 3/128 oldest 1.20s accepted 50 abandoned 2 dead 1 overflow 0 drops 4";
        assert_eq!(InWords(&figures).to_string(), text);
        let totals = Totals { limit: Some(4096), is_somaxconn: Some(true), ..Totals::default() };
        let figures = QueueFigures { depth: 1, oldest: Some(Age::AtLeast(1)), totals, ..QueueFigures::default() };
        let text = "queue 1/4096 (somaxconn) oldest >1ns accepted 0 abandoned 0 dead 0 overflow 0";
        assert_eq!(InWords(&figures).to_string(), text);
    }
}
