//! Numbers as findings tell them.

use std::fmt::{self, Display};

use super::measure::Measured;
use crate::{
    sink::quantity::Short,
    tcp::{event::Task, queue::Age},
};

/// Nanoseconds: `600ms`.
pub fn time(ns: u64) -> Short {
    Short(i64::try_from(ns).unwrap_or(i64::MAX))
}

/// How long something has lasted: `600ms`, or `600ms at least`.
pub fn age(age: Age) -> impl Display {
    fmt::from_fn(move |f| match age {
        Age::Exactly(ns) => write!(f, "{}", time(ns)),
        Age::AtLeast(ns) => write!(f, "{} at least", time(ns)),
    })
}

/// A count with its noun: `1 client`, `1,204 clients`.
pub fn count(count: u64, noun: &'static str) -> impl Display {
    fmt::from_fn(move |f| {
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{} {noun}{plural}", Grouped(count))
    })
}

/// A count in groups of three digits: `1,204`.
#[derive(Clone, Copy, Debug)]
pub struct Grouped(pub u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&grouped)
    }
}

/// So many per second, from tenths: `40.1/s`.
#[derive(Clone, Copy, Debug)]
pub struct Rate(pub u64);

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0..1000 => format!("{}.{}/s", self.0 / 10, self.0 % 10),
            tenths => format!("{}/s", Grouped(tenths / 10)),
        };
        f.pad(&text)
    }
}

/// A share, from tenths of a percent: `6.2 %`, `98 %`.
pub fn percent(permille: u64) -> impl Display {
    fmt::from_fn(move |f| match permille {
        1..100 => write!(f, "{}.{} %", permille / 10, permille % 10),
        _ => write!(f, "{} %", (permille + 5) / 10),
    })
}

/// A thread: `nginx/812`, and its number where it is not the process's first.
pub fn thread(task: Task) -> impl Display {
    fmt::from_fn(move |f| {
        write!(f, "{task}")?;
        if task.tid == task.pid { Ok(()) } else { write!(f, " thread {}", task.tid) }
    })
}

/// A listener: `10.0.0.1:80 (nginx/812)`.
pub fn place(listener: &Measured) -> impl Display {
    fmt::from_fn(move |f| {
        write!(f, "{}", listener.local)?;
        match listener.owner {
            Some(owner) => write!(f, " ({owner})"),
            None => Ok(()),
        }
    })
}

/// Who accepts, the busiest first: `nginx/812 600, nginx/813 604`; at most four.
pub fn acceptors(listener: &Measured) -> String {
    const TOLD: usize = 4;
    let each = listener.acceptors.iter().take(TOLD);
    let mut words: Vec<_> = each.map(|it| format!("{} {}", thread(it.task), Grouped(it.accepted))).collect();
    if let more @ 1.. = listener.acceptors.len().saturating_sub(TOLD) {
        words.push(format!("{more} more"));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        let check = |text: &dyn Display, expected: &str| assert_eq!(text.to_string(), expected);
        check(&Grouped(0), "0");
        check(&Grouped(999), "999");
        check(&Grouped(1_204), "1,204");
        check(&Grouped(1_234_567), "1,234,567");
        check(&count(1, "client"), "1 client");
        check(&count(0, "client"), "0 clients");
        check(&percent(62), "6.2 %");
        check(&percent(976), "98 %");
        check(&percent(0), "0 %");
        check(&Rate(401), "40.1/s");
        check(&Rate(12_345), "1,234/s");
    }
}
