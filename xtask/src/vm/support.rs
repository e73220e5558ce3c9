//! docs/kernel-support: the last run on each kernel, as JSON, and as a page for people together with the probe table.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::kernel::KERNELS;
use super::result::{Alternative, Column};
use super::variant::VARIANTS;

/// The last run on each kernel.
pub(crate) const RUN: &str = "docs/kernel-support.json";

/// sockwatch's word for an alternative that is for other kernels.
const NOT_NEEDED: &str = "not needed";

/// A kernel and its last run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tested {
    kernel: String,
    #[serde(flatten)]
    column: Column,
}

/// A row of the probe table, as `sockwatch probes` prints it.
#[derive(Debug, Deserialize)]
struct Probe {
    probe: String,
    tells: String,
    without: Option<String>,
    alternatives: Vec<Way>,
}

#[derive(Debug, Deserialize)]
struct Way {
    alternative: String,
    lost: Option<String>,
}

/// Writes the run down, or compares it with the one that is committed.
pub(crate) fn settle(workspace: &Path, columns: &[(&'static str, Column)], write: bool) -> Result<()> {
    let path = workspace.join(RUN);
    let run: Vec<_> =
        columns.iter().map(|(name, column)| Tested { kernel: (*name).to_owned(), column: column.clone() }).collect();
    if write {
        let text = serde_json::to_string_pretty(&renewed(&path, run)).context("a run is always JSON")?;
        fs::write(&path, text + "\n").with_context(|| format!("cannot write {RUN}"))?;
        println!("{RUN}: written; `cargo xtask gen` renews the page");
        return Ok(());
    }
    let committed = fs::read(&path).with_context(|| format!("no {RUN}: run `cargo xtask vm --write`"))?;
    let committed: Vec<Tested> = serde_json::from_slice(&committed).with_context(|| format!("{RUN} is damaged"))?;
    let mut differences = Vec::new();
    for tested in &run {
        match committed.iter().find(|committed| committed.kernel == tested.kernel) {
            None => differences.push(format!("{}: not in {RUN}", tested.kernel)),
            Some(committed) => differences.extend(difference(committed, tested)),
        }
    }
    if !differences.is_empty() {
        bail!("not as {RUN} says:\n{}\nIf that is right, `cargo xtask vm --write`", differences.join("\n"));
    }
    println!("{} kernels as {RUN} says", run.len());
    Ok(())
}

/// This run, and what is committed of the other kernels, in the matrix' order.
fn renewed(path: &Path, run: Vec<Tested>) -> Vec<Tested> {
    let committed = fs::read(path).unwrap_or_default();
    let committed: Vec<Tested> = serde_json::from_slice(&committed).unwrap_or_default();
    let kept = committed.into_iter().filter(|old| run.iter().all(|new| new.kernel != old.kernel));
    let mut all: Vec<_> = kept.collect();
    all.extend(run);
    all.sort_by_key(|tested| KERNELS.iter().position(|row| row.name == tested.kernel));
    all
}

/// What attaches now and did not, or the other way round; fields that are gone or new; tests that are skipped now and were
/// not. Releases change with every update of Debian's.
fn difference(committed: &Tested, tested: &Tested) -> Vec<String> {
    let (before, now) = (&committed.column, &tested.column);
    let mut differences = otherwise(&before.alternatives, &now.alternatives, "");
    differences.extend(otherwise(&before.without_btf, &now.without_btf, " without BTF"));
    if let (Some(before), Some(now)) = (&before.absent_fields, &now.absent_fields)
        && before != now
    {
        differences.push(format!("fields absent: {}; there: {}", now.join(" "), before.join(" ")));
    }
    for (variant, counts) in &now.tests {
        let known = before.tests.get(variant).map(|counts| counts.skipped.as_slice()).unwrap_or_default();
        let new = counts.skipped.iter().filter(|skip| known.iter().all(|known| skipped(known) != skipped(skip)));
        differences.extend(new.map(|skip| format!("{variant}: skipped, and not there: {skip}")));
    }
    differences.iter().map(|difference| format!("{}: {difference}", tested.kernel)).collect()
}

/// A skipped test's name, without its reason.
fn skipped(test: &str) -> &str {
    test.split(": ").next().unwrap_or(test)
}

/// Alternatives of which the two say something else.
fn otherwise(committed: &[Alternative], tested: &[Alternative], condition: &str) -> Vec<String> {
    let attaches = |of: &[Alternative], of_this: &Alternative| {
        let mut rows = of.iter();
        let row = rows.find(|row| row.probe == of_this.probe && row.alternative == of_this.alternative);
        row.map(|row| row.refused.clone())
    };
    let say = |state: Option<Option<String>>| match state {
        None => "is not there".to_owned(),
        Some(None) => "attaches".to_owned(),
        Some(Some(reason)) => format!("is refused ({reason})"),
    };
    let mut differences = Vec::new();
    for row in committed.iter().chain(tested) {
        let [before, now] = [committed, tested].map(|of| attaches(of, row));
        if before.as_ref().map(Option::is_none) != now.as_ref().map(Option::is_none) {
            let (before, now) = (say(before), say(now));
            differences.push(format!("{}={}{condition} {now}, and {before} there", row.probe, row.alternative));
        }
    }
    differences.sort();
    differences.dedup();
    differences
}

/// The page.
pub(crate) fn page(run: &[u8], probes: &[u8]) -> Result<String> {
    let run: Vec<Tested> = serde_json::from_slice(run).with_context(|| format!("{RUN} is damaged"))?;
    let probes: Vec<Probe> = serde_json::from_slice(probes).context("`sockwatch probes` says something else")?;
    let mut page = String::from(HEAD);
    let mut notes = Vec::new();
    page += "\n| probe | alternative |";
    run.iter().for_each(|tested| write!(page, " {} |", tested.kernel).expect("a string takes everything"));
    page += &format!(" without BTF |\n|---|---|{}---|\n", "---|".repeat(run.len()));
    for probe in &probes {
        for way in &probe.alternatives {
            page += &format!("| {} | {} |", probe.probe, way.alternative);
            for tested in &run {
                page += &format!(" {} |", cell(tested, probe, way, &mut notes)?);
            }
            page += &format!(" {} |\n", without_btf(&run, probe, way));
        }
    }
    page += "\n`-`: needed only where the kernel has no BTF.\n\n";
    for (index, note) in notes.iter().enumerate() {
        page += &format!("{}. {note}\n", index + 1);
    }
    page += "\n## Probes\n\n| probe | tells | lost without it |\n|---|---|---|\n";
    for probe in &probes {
        let without = probe.without.as_deref().unwrap_or("everything");
        page += &format!("| {} | {} | {without} |\n", probe.probe, probe.tells);
    }
    page += "\nAlternatives that cost or miss something:\n\n";
    for (probe, way) in probes.iter().flat_map(|probe| probe.alternatives.iter().map(move |way| (probe, way))) {
        if let Some(lost) = &way.lost {
            page += &format!("- `{}={}`: {lost}\n", probe.probe, way.alternative);
        }
    }
    page += &tests(&run);
    Ok(page)
}

fn cell(tested: &Tested, probe: &Probe, way: &Way, notes: &mut Vec<String>) -> Result<String> {
    let mut rows = tested.column.alternatives.iter();
    let row = rows.find(|row| row.probe == probe.probe && row.alternative == way.alternative);
    let row = row.with_context(|| {
        format!("{RUN} knows nothing of {}={}: run `cargo xtask vm --write`", probe.probe, way.alternative)
    })?;
    let Some(reason) = &row.refused else { return Ok("yes".into()) };
    if reason == NOT_NEEDED {
        return Ok("-".into());
    }
    let at = notes.iter().position(|note| note == reason).unwrap_or_else(|| {
        notes.push(reason.clone());
        notes.len() - 1
    });
    Ok(format!("no ({})", at + 1))
}

/// On which of the kernels it attaches when their BTF is hidden.
fn without_btf(run: &[Tested], probe: &Probe, way: &Way) -> String {
    let attaches = |tested: &&Tested| {
        let mut rows = tested.column.without_btf.iter();
        rows.any(|row| row.probe == probe.probe && row.alternative == way.alternative && row.refused.is_none())
    };
    let attaching: Vec<_> = run.iter().filter(attaches).map(|tested| tested.kernel.as_str()).collect();
    match attaching.len() {
        0 => "no".into(),
        all if all == run.len() => "yes".into(),
        _ => attaching.join(", "),
    }
}

fn tests(run: &[Tested]) -> String {
    let mut text =
        String::from("\n## Live tests\n\nPassed, and skipped, by kernel and by the alternatives that were forced.\n\n");
    text += "| tests with |";
    run.iter().for_each(|tested| text += &format!(" {} ({}) |", tested.kernel, tested.column.release));
    text += &format!("\n|---|{}\n", "---|".repeat(run.len()));
    for variant in VARIANTS {
        let probes = if variant.probes.is_empty() { "what is best".into() } else { variant.probes.join(" ") };
        text += &format!("| {probes} |");
        for tested in run {
            let counts = tested.column.tests.get(variant.name);
            text += &counts.map_or(" - |".into(), |counts| match counts.skipped.len() {
                0 => format!(" {} |", counts.passed),
                skipped => format!(" {} ({skipped} skipped) |", counts.passed - skipped as u64),
            });
        }
        text += "\n";
    }
    let mut skipped: Vec<_> = run
        .iter()
        .flat_map(|tested| tested.column.tests.values().flat_map(|counts| &counts.skipped))
        .map(|reason| format!("- {reason}\n"))
        .collect();
    skipped.sort();
    skipped.dedup();
    if !skipped.is_empty() {
        text += &format!("\nSkipped:\n\n{}", skipped.concat());
    }
    text
}

const HEAD: &str = "\
<!-- Generated by `cargo xtask gen` from the probe table and docs/kernel-support.json, the last `cargo xtask vm --write`. -->

# Which kernel supports what

One eBPF object runs on every kernel from 5.10 on: each probe takes the first of its alternatives that the kernel has.
`sockwatch doctor` says which on your machine, `sockwatch doctor --all` tries every one, and `--probe PROBE=ALTERNATIVE` forces one.

Debian's kernels, x86-64, each alternative tried on its own:
";

#[cfg(test)]
mod tests {
    use super::super::result::Counts;
    use super::*;

    fn run(refused: &str) -> Vec<u8> {
        let alternatives = format!(r#"[{{"probe": "accept", "alternative": "fexit"{refused}}}]"#);
        format!(r#"[{{"kernel": "6.1", "release": "6.1.0", "alternatives": {alternatives}, "without_btf": [], "tests": {{}}}}]"#).into()
    }

    const PROBES: &str = r#"[{"probe": "accept", "tells": "who", "without": "waits",
                              "alternatives": [{"alternative": "fexit", "lost": "speed"}]}]"#;

    #[test]
    fn the_page_says_what_is_refused_and_why() {
        let page = page(&run(r#", "refused": "the kernel has none""#), PROBES.as_bytes()).unwrap_or_default();
        assert!(page.contains("| accept | fexit | no (1) | no |\n"), "{page}");
        assert!(page.contains("\n1. the kernel has none\n"), "{page}");
        assert!(page.contains("- `accept=fexit`: speed\n"), "{page}");
    }

    fn tested(text: &[u8]) -> Tested {
        let mut run: Vec<Tested> = serde_json::from_slice(text).unwrap_or_default();
        run.remove(0)
    }

    #[test]
    fn another_answer_than_the_committed_one_is_a_difference() {
        let [mut yes, mut no] = [run(""), run(r#", "refused": "gone""#)].map(|run| tested(&run));
        assert_eq!(difference(&yes, &yes), [""; 0]);
        assert_eq!(difference(&yes, &no), ["6.1: accept=fexit is refused (gone), and attaches there"]);
        for tested in [&mut yes, &mut no] {
            tested.column.without_btf = std::mem::take(&mut tested.column.alternatives);
        }
        assert_eq!(difference(&yes, &no), ["6.1: accept=fexit without BTF is refused (gone), and attaches there"]);
    }

    #[test]
    fn a_field_that_is_gone_is_a_difference() {
        let without = |fields: &[&str]| {
            let mut tested = tested(&run(""));
            tested.column.absent_fields = Some(fields.iter().map(|&field| field.to_owned()).collect());
            tested
        };
        let expected = ["6.1: fields absent: cgroup_level snd_una; there: cgroup_level"];
        assert_eq!(difference(&without(&["cgroup_level"]), &without(&["cgroup_level", "snd_una"])), expected);
    }

    #[test]
    fn a_test_that_is_skipped_now_is_a_difference() {
        let skipping = |reason: &str| {
            let counts = Counts { skipped: vec![format!("list: {reason}")], ..Counts::default() };
            let mut tested = tested(&run(""));
            tested.column.tests.insert("default".into(), counts);
            tested
        };
        assert_eq!(difference(&skipping("no ss here"), &skipping("another reason")), [""; 0]);
        let expected = ["6.1: default: skipped, and not there: list: no ss here"];
        assert_eq!(difference(&tested(&run("")), &skipping("no ss here")), expected);
    }
}
