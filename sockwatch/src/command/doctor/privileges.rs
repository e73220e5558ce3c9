//! What sockwatch may do here, and what its threads keep of that while they run.

use std::io::{self, Write};

use serde::Serialize;
use sockwatch::{
    privilege::{
        Confined, Step,
        capability::{Need, USES, Use, held, missing, names, setcap},
        role::ROLES,
    },
    source::live::Live,
};

use super::{Check, Status, ok};

/// What a thread keeps.
#[derive(Debug, Serialize)]
pub(super) struct ThreadReport {
    name: &'static str,
    keeps: Vec<&'static str>,
    #[serde(skip)]
    confined: Confined,
}

/// What is there, and what is lost without each that is not.
pub(super) fn capabilities() -> Vec<Check> {
    let held = held();
    let there = names(held);
    let found = if there.is_empty() { "none of those that matter".to_owned() } else { there.join(" ") };
    let fix = setcap("$(command -v sockwatch)");
    let required = missing(held);
    if !required.is_empty() {
        let fix = Some(format!("{} missing: {fix}", required.join(" and ")));
        return vec![Check { name: "capabilities", status: Status::Unusable, found, fix }];
    }
    let is_missed = |it: &&Use| it.need == Need::Optional && it.granted && it.sees_more && !held.contains(it.set);
    let missed = USES.iter().filter(is_missed).map(|it| Check {
        name: it.name,
        status: Status::Reduced,
        found: format!("missing; lost: {}", it.without),
        fix: None,
    });
    let mut checks = vec![ok("capabilities", found)];
    checks.extend(missed);
    // Once, below the last of them.
    if let Some(last) = checks.last_mut().filter(|last| last.status == Status::Reduced) {
        last.fix = Some(fix);
    }
    checks
}

/// Confines a thread of each role, and asks it.
pub(super) fn threads(live: &Live) -> Vec<ThreadReport> {
    let report = |role| {
        let confined = live.confined(role)?;
        Some(ThreadReport { name: role.name, keeps: names(confined.kept), confined })
    };
    ROLES.iter().filter_map(report).collect()
}

/// Which of the steps this machine can do. Nothing is seen less without them.
pub(super) fn sandbox(threads: &[ThreadReport]) -> Option<Check> {
    let confined: Vec<_> = threads.iter().map(|thread| &thread.confined).collect();
    let step = |name: &str, of: fn(&Confined) -> &Step| {
        let impossible = confined.iter().find_map(|confined| match of(confined) {
            Step::Impossible(why) => Some(why),
            Step::Done | Step::NotMeant(_) => None,
        });
        let reason = |why: &String| format!("without {name}: {why}");
        let unmeant = || {
            let not_meant = |confined: &&Confined| matches!(of(confined), Step::NotMeant(_));
            if confined.iter().all(not_meant) { format!("without {name}") } else { name.to_owned() }
        };
        impossible.map_or_else(unmeant, reason)
    };
    let steps = [
        step("dropped capabilities", |it| &it.capabilities),
        step("an empty bounding set", |it| &it.bounding),
        step("no_new_privs", |it| &it.no_new_privs),
        step("Landlock", |it| &it.files),
        step("seccomp", |it| &it.calls),
    ];
    (!threads.is_empty()).then(|| ok("sandbox", steps.join(", ")))
}

/// A line per thread.
pub(super) fn print(threads: &[ThreadReport], out: &mut impl Write) -> io::Result<()> {
    if !threads.is_empty() {
        writeln!(out, "\n{:32} KEEPS WHILE IT RUNS (docs/privileges.md)", "THREAD")?;
    }
    for ThreadReport { name, keeps, .. } in threads {
        let keeps = if keeps.is_empty() { "no capability".to_owned() } else { keeps.join(" ") };
        writeln!(out, "{name:32} {keeps}")?;
    }
    Ok(())
}
