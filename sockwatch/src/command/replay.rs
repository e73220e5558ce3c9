//! `sockwatch replay`: a recording, shown as `trace` would have shown it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail, ensure};
use sockwatch::{
    pipeline::Limits,
    process::names::Names,
    recording::reader::Reader,
    sink::selected::Selection,
    source::recording::{Opened, Recording, cut},
};

use super::{
    filter,
    signals::Stop,
    start, tell,
    trace::{Origin, clock_of, output, refuse_to_overwrite, show, summary},
};
use crate::cli::{FilterArgs, ReplayArgs};

pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    refuse_to_overwrite(&args.show)?;
    let files = open(&args.files)?;
    let header = files.first().context("no file")?.header().clone();
    let selection = filter(&args.filter)?;
    let Opened { mut recording, ended } = Recording::of(files, args.speed);
    if let Some(duration) = args.show.duration {
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        recording.until(header.started_ns.saturating_add(duration_ns));
    }
    let selection = Selection { names: Names::told(recording.names()), ..selection };
    let origin = Origin { selection: Some(selection), ..Origin::of(&header, Names::told(recording.names())) };
    let clock = clock_of(args.show.time, header.started_ns, header.wall_offset_ns);
    start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let output = output(&args.show)?;
        let over = async {
            tokio::select! {
                () = stop.wait() => {}
                _ = ended => {}
            }
        };
        let limits = Limits { duration: None, connections: args.show.count };
        let totals = show(&mut recording, &args.show, clock, origin, limits, output, over).await?;
        summary(&totals, recording.bytes());
        for reader in recording.read() {
            warn(reader);
        }
        if let Some(damage) = recording.damage() {
            bail!("{damage}; what is before that was told");
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Opens the files of one recording, in the order in which they were written.
pub(crate) fn open(paths: &[PathBuf]) -> anyhow::Result<Vec<Reader>> {
    let mut files = Vec::new();
    for path in paths {
        files.push(Reader::open(path).with_context(|| format!("{}", path.display()))?);
    }
    files.sort_by_key(|file| (file.header().started_ns, file.header().part));
    for pair in files.windows(2) {
        let (one, other) = (pair[0].header(), pair[1].header());
        ensure!(
            one.boot == other.boot,
            "{} and {} are from two machines, or two boots of one: their times have nothing to do with each other; take one at a time",
            pair[0].path().display(),
            pair[1].path().display(),
        );
        ensure!(
            one.recording == other.recording,
            "{} and {} are two recordings: take one at a time",
            pair[0].path().display(),
            pair[1].path().display(),
        );
        ensure!(
            one.part != other.part,
            "{} and {} are the same file of a recording",
            pair[0].path().display(),
            pair[1].path().display(),
        );
        if one.part + 1 != other.part {
            tell(format_args!(
                "sockwatch: warning: between {} and {} files of this recording are missing",
                pair[0].path().display(),
                pair[1].path().display(),
            ));
        }
    }
    Ok(files)
}

/// Says what is not as it should be.
pub(crate) fn warn(reader: &Reader) {
    let path = reader.path().display();
    if let Some(what) = cut(reader) {
        tell(format_args!("sockwatch: warning: {path} {what}; all until byte {} is there", reader.bytes()));
    }
    if let rows @ 1.. = reader.not_understood() {
        tell(format_args!(
            "sockwatch: warning: {path}: {rows} rows are not understood by this version (recorded by {})",
            reader.header().sockwatch
        ));
    }
}

/// The filter's words, where nothing of this machine is looked at.
pub(crate) fn filter(args: &FilterArgs) -> anyhow::Result<Selection> {
    let cgroup = args.cgroup.as_ref().map(|path| cgroup(&path.to_string_lossy()).to_owned());
    Ok(Selection { filter: filter::anywhere(args)?, cgroup, names: Names::default() })
}

/// A cgroup's path below its hierarchy's root.
fn cgroup(path: &str) -> &str {
    path.strip_prefix("/sys/fs/cgroup").unwrap_or(path)
}
