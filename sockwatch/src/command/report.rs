//! `sockwatch report`: a recording as a page.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use sockwatch::{
    chronicle::{Chronicle, Course},
    diagnosis::Diagnosis,
    export::Redacted,
    pipeline::Totals,
    process::names::Names,
    sink::{
        Sink,
        selected::{Selected, Selection},
    },
    source::recording::{Opened, cut},
    tcp::update::Update,
};

use super::{
    diagnose::{Measuring, SETTLED_NS, as_json, cpu_time, nanoseconds},
    export::redaction,
    pending::Pending,
    replay::{filter, open, play, warn},
    tell,
};
use crate::cli::ReportArgs;

/// The page, with places for the rest: `{{css}}`.
const PAGE: &str = include_str!("report/page.html");
const PARTS: &[(&str, &str)] = &[
    ("css", include_str!("page/page.css")),
    ("common", include_str!("page/common.js")),
    ("script", include_str!("report/page.js")),
    ("uplot", include_str!("page/uPlot.iife.min.js")),
    ("uplot_css", include_str!("page/uPlot.min.css")),
    ("uplot_licence", include_str!("page/uPlot.LICENSE")),
];

/// Moves of the clock that are told in words.
const MOST_MOVES: usize = 5;

/// What the page's script reads.
#[derive(Serialize)]
struct Data {
    /// The version of the sockwatch that made the page.
    sockwatch: &'static str,
    after: Recorded,
    before: Option<Recorded>,
}

/// A recording, as the page tells it.
#[derive(Serialize)]
struct Recorded {
    files: Vec<String>,
    host: String,
    kernel: String,
    source: String,
    probes: String,
    filter: String,
    /// The version of the sockwatch that recorded it.
    sockwatch: String,
    started_unix_ms: u64,
    lasted_ns: u64,
    /// When the time of day moved, in nanoseconds since the beginning, and by how many milliseconds.
    clock_moves: Vec<(u64, i64)>,
    /// What is not as it should be.
    warnings: Vec<String>,
    #[serde(skip)]
    damage: Option<String>,
    /// What `diagnose --format json` prints.
    diagnosis: Value,
    /// When the course of each of its listeners begins, in nanoseconds since the beginning.
    courses_began_ns: Vec<u64>,
    course: Course,
}

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let output = output(args)?;
    let page = Pending::begin(&output, args.force)?;
    let after = gather(args, &args.files)?;
    let before = if args.compare.is_empty() { None } else { Some(gather(args, &args.compare)?) };
    let damage: Vec<_> =
        [Some(&after), before.as_ref()].into_iter().flatten().filter_map(|it| it.damage.clone()).collect();
    let sentence = after.diagnosis["sentence"].as_str().unwrap_or_default().to_owned();
    let data = Data { sockwatch: env!("CARGO_PKG_VERSION"), after, before };
    let text = fill(&serde_json::to_string(&data)?)?;
    (&page.file).write_all(text.as_bytes()).with_context(|| format!("cannot write {}", output.display()))?;
    page.keep()?;
    tell(format_args!("sockwatch: {}: {sentence}", output.display()));
    if args.open {
        show(&output)?;
    }
    ensure!(damage.is_empty(), "{}; all else is on the page", damage.join("; "));
    Ok(ExitCode::SUCCESS)
}

/// Beside the recording, unless something else is said.
fn output(args: &ReportArgs) -> anyhow::Result<PathBuf> {
    match &args.output {
        Some(output) => Ok(output.clone()),
        None => Ok(args.files.first().context("no file")?.with_extension("html")),
    }
}

/// Replays a recording into what the page tells of it.
fn gather(args: &ReportArgs, files: &[PathBuf]) -> anyhow::Result<Recorded> {
    let cpu_before = cpu_time();
    let redaction = args.redact.as_deref().map(redaction).transpose()?;
    let opened = open(files)?;
    let mut header = opened.header().clone();
    if let Some(redaction) = &redaction {
        redaction.header(&mut header);
    }
    let selection = filter(&args.filter)?;
    let Opened { mut recording, ended } = opened.recording(None);
    let selection = Selection { names: Names::told(recording.names()), ..selection };
    let sink = Gather {
        diagnosis: Diagnosis::new(header.started_ns, nanoseconds(args.slow)),
        chronicle: Chronicle::new(header.started_ns),
        names: Names::told(recording.names()),
        last_ns: header.started_ns,
    };
    let mut selected = Selected { sink: Redacted { sink, redaction }, selection: Some(selection) };
    let (totals, stopped) = play(&mut recording, ended, &mut selected)?;
    if stopped {
        bail!("stopped: no page was made");
    }
    recording.read().iter().for_each(warn);
    let mut warnings: Vec<_> = recording.read().iter().filter_map(cut).map(str::to_owned).collect();
    let damage = recording.damage();
    warnings.extend(damage.iter().map(|damage| format!("{damage}; all else is told.")));
    let moves = recording.wall().moves();
    warnings.extend(moves.iter().take(MOST_MOVES).map(|moved| format!("{moved}.")));
    let Gather { mut diagnosis, chronicle, .. } = selected.sink.sink;
    let ended_ns = recording.last_ns().max(header.started_ns);
    diagnosis.end(ended_ns);
    let report = diagnosis.report(ended_ns, &totals, &HashMap::new());
    let measuring = Measuring {
        bytes: recording.bytes(),
        cpu: cpu_time().saturating_sub(cpu_before),
        kernel: header.kernel.clone(),
        probes: None,
        threads: false,
        recorded_on: Some(header.host.clone()),
    };
    let name = |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Recorded {
        files: files.iter().map(name).collect(),
        host: header.host,
        kernel: header.kernel,
        source: header.source,
        probes: header.probes,
        filter: header.filter,
        sockwatch: header.sockwatch,
        started_unix_ms: header.started_ns.saturating_add(header.wall_offset_ns) / 1_000_000,
        lasted_ns: ended_ns.saturating_sub(header.started_ns),
        clock_moves: moves
            .iter()
            .map(|moved| (moved.at_ns.saturating_sub(header.started_ns), moved.moved_ns / 1_000_000))
            .collect(),
        warnings,
        damage,
        diagnosis: as_json(&report, &measuring)?,
        courses_began_ns: report
            .listeners
            .iter()
            .map(|it| it.course.began_ns.saturating_sub(header.started_ns))
            .collect(),
        course: chronicle.course(ended_ns),
    })
}

/// Feeds both; time is the recording's.
struct Gather {
    diagnosis: Diagnosis,
    chronicle: Chronicle,
    names: Names,
    last_ns: u64,
}

impl Sink for Gather {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        let Self { diagnosis, chronicle, names, last_ns } = self;
        *last_ns = update.at_ns.max(*last_ns);
        diagnosis.take(update);
        chronicle.take(update, &mut |task, at_ns| names.of_thread(task, at_ns));
        Ok(())
    }

    fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
        self.diagnosis.settle(self.last_ns.saturating_sub(SETTLED_NS));
        Ok(())
    }
}

/// The page with everything in its place.
fn fill(data: &str) -> anyhow::Result<String> {
    // No foreign word may end the element that it is in.
    let data = data.replace('<', "\\u003c");
    let mut page = String::with_capacity(PAGE.len() + data.len() + 80_000);
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").context("the page has a place without an end")?;
        let part = PARTS.iter().find(|(part, _)| *part == name).map(|(_, text)| *text);
        let part = if name == "data" { Some(data.as_str()) } else { part };
        write!(page, "{before}{}", part.with_context(|| format!("the page has no {name}"))?)?;
        rest = after;
    }
    page.push_str(rest);
    Ok(page)
}

/// Hands the page to the desktop's browser.
fn show(path: &Path) -> anyhow::Result<()> {
    let opened = Command::new("xdg-open").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let opened =
        opened.with_context(|| format!("--open: there is no xdg-open; open {} in a browser", path.display()))?;
    if !opened.success() {
        bail!("--open: xdg-open could not show it; open {} in a browser", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_filled_and_no_word_breaks_out() {
        let page = fill(r#"{"comm":"</script><script>alert(1)</script>{{css}}"}"#).unwrap();
        assert!(!page.contains("</script><script>alert"), "{page}");
        assert!(page.contains(r#"{{css}}"}"#), "what is put in is not looked at again");
        assert!(page.contains("uPlot") && page.contains("MIT License") && page.ends_with("</html>\n"));
        assert!(!page.contains("http://") && !page.contains("src="), "it fetches nothing");
    }
}
