//! `sockwatch replay`: a recording, shown as `trace` would have shown it.

use std::{collections::HashMap, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail, ensure};
use sockwatch::{
    pipeline::{self, Limits, Totals},
    process::names::Names,
    recording::{header::Header, reader::Reader},
    sink::{Sink, selected::Selection, time_of_day::utc},
    source::recording::{Opened, Recording, Until, cut, damage},
};
use tokio::sync::oneshot::Receiver;

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
    let header = files.header().clone();
    let selection = filter(&args.filter)?;
    let Opened { mut recording, ended } = files.recording(args.speed);
    if let Some(duration) = args.show.duration {
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        recording.until(Until::Monotonic(header.started_ns.saturating_add(duration_ns)));
    }
    let selection = Selection { names: Names::told(recording.names()), ..selection };
    let origin = Origin { selection: Some(selection), ..Origin::of(&header, Names::told(recording.names())) };
    let clock = clock_of(args.show.time, header.started_ns, &recording.wall());
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
            bail!("{damage}; all else was told");
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Tells all of a recording at once, or what comes before a signal to stop. Returns whether there was one.
pub(crate) fn play(
    recording: &mut Recording,
    ended: Receiver<()>,
    sink: &mut impl Sink,
) -> anyhow::Result<(Totals, bool)> {
    let mut stopped = false;
    let totals = start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let over = async {
            tokio::select! {
                () = stop.wait() => stopped = true,
                _ = ended => {}
            }
        };
        anyhow::Ok(pipeline::run(recording, sink, Limits::default(), over).await?)
    })?;
    Ok((totals, stopped))
}

/// Files that are read at once: of more, each is opened again when it is its turn.
const MOST_OPEN: usize = 64;

/// The files of one recording, in the order in which they were written.
pub(crate) struct Files {
    /// One at least.
    readers: Vec<Reader>,
    /// What is wrong with those that could not be opened.
    damage: Vec<String>,
}

impl Files {
    /// The first one's.
    pub(crate) fn header(&self) -> &Header {
        self.readers.first().expect("there is one at least").header()
    }

    /// The first part of the recording, and the last.
    pub(crate) fn parts(&self) -> (u32, u32) {
        let last = self.readers.last().unwrap_or(&self.readers[0]);
        (self.header().part, last.header().part)
    }

    /// As a source; without a speed, at once.
    pub(crate) fn recording(self, speed: Option<f64>) -> Opened {
        let Opened { recording, ended } = Recording::of(self.readers, speed);
        Opened { recording: recording.lacking(self.damage), ended }
    }

    /// The files, one by one.
    pub(crate) fn into_readers(self) -> Vec<Reader> {
        self.readers
    }
}

/// Opens the files of one recording, and says what is not as it should be. Those that are damaged keep nobody from reading the others.
pub(crate) fn open(paths: &[PathBuf]) -> anyhow::Result<Files> {
    opened(paths, &say)
}

/// The same once more, of which everything was said.
pub(crate) fn open_again(paths: &[PathBuf]) -> anyhow::Result<Files> {
    opened(paths, &drop)
}

/// Says a warning.
pub(crate) fn say(warning: String) {
    tell(format_args!("sockwatch: warning: {warning}"));
}

fn opened(paths: &[PathBuf], say: &dyn Fn(String)) -> anyhow::Result<Files> {
    let (mut recordings, damage) = open_all(paths, say)?;
    // A service that was started again has begun another recording.
    ensure!(recordings.len() == 1, several(&recordings));
    let readers = recordings.swap_remove(0);
    warn_of_gaps(&readers, say)?;
    Ok(Files { readers, damage })
}

/// Opens the files of recordings, each in the order in which they were written, one recording at least. Returns what is wrong with
/// those that could not be opened, too.
pub(crate) fn open_all(paths: &[PathBuf], say: &dyn Fn(String)) -> anyhow::Result<(Vec<Vec<Reader>>, Vec<String>)> {
    let (mut files, mut damaged) = (Vec::new(), Vec::new());
    for path in paths {
        // Begun when the machine stopped, or when there was no room: the others are whole all the same.
        if paths.len() > 1 && fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() == 0) {
            say(format!("{} is empty, and is left out", path.display()));
            continue;
        }
        match Reader::open(path).with_context(|| format!("{}", path.display())) {
            Ok(mut file) => {
                if paths.len() > MOST_OPEN {
                    file.rest();
                }
                files.push(file);
            }
            Err(error) => damaged.push(format!("{error:#}")),
        }
    }
    if files.is_empty() {
        bail!("{}", damage(&damaged).unwrap_or_else(|| "no file".to_owned()));
    }
    Ok((by_recording(files), damaged))
}

/// Which files belong together: the recordings by the time of day at which they began.
fn by_recording(mut files: Vec<Reader>) -> Vec<Vec<Reader>> {
    files.sort_by_key(|file| (file.header().started_ns, file.header().part));
    let mut recordings: HashMap<String, Vec<Reader>> = HashMap::new();
    for file in files {
        recordings.entry(file.header().recording.clone()).or_default().push(file);
    }
    let mut recordings: Vec<_> = recordings.into_values().collect();
    recordings.sort_by_key(|recording| recording.first().map(began_unix_ns));
    recordings
}

fn began_unix_ns(file: &Reader) -> u64 {
    file.header().started_ns.saturating_add(file.header().wall_offset_ns)
}

/// Says which files are not there. Refuses the same one twice.
pub(crate) fn warn_of_gaps(files: &[Reader], say: &dyn Fn(String)) -> anyhow::Result<()> {
    for [one, other] in files.array_windows() {
        let (path, other_path) = (one.path().display(), other.path().display());
        let (part, other_part) = (one.header().part, other.header().part);
        ensure!(part != other_part, "{path} and {other_path} are the same file of a recording");
        if part + 1 != other_part {
            say(format!("between {path} and {other_path} files of this recording are missing"));
        }
    }
    Ok(())
}

/// Which recordings there are.
fn several(recordings: &[Vec<Reader>]) -> String {
    let mut text = format!("these are {} recordings: take one at a time (times are UTC)", recordings.len());
    for files in recordings {
        let [first, rest @ ..] = files.as_slice() else { continue };
        let of = rest.last().map(|last| format!(" to {}, {} files", last.path().display(), files.len()));
        let (began, path) = (utc(began_unix_ns(first)), first.path().display());
        text += &format!("\n  from {began}  {path}{}", of.unwrap_or_default());
    }
    text
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
    let hint = "a recording holds the numbers of network namespaces, not their names: one is looked up on this machine, as \
                it is now";
    Ok(Selection { filter: filter::anywhere(args).context(hint)?, cgroup, names: Names::default() })
}

/// A cgroup's path below its hierarchy's root.
fn cgroup(path: &str) -> &str {
    path.strip_prefix("/sys/fs/cgroup").unwrap_or(path)
}
