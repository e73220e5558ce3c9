use std::{fs, path::PathBuf, process::id};

use super::*;
use crate::{
    monotonic::now_ns,
    privilege::Sandbox,
    recording::{
        Mark, Said,
        header::Header,
        reader::Reader,
        writer::{Options, Rotation, Sync},
    },
    tcp::{event::Task, listing::Listing, loss::Losses, notation},
};

/// What this process does with sockets.
#[derive(Clone, Copy, PartialEq)]
enum Doing {
    /// Opens one at each tick.
    Opens,
    /// Holds one, which each round lists.
    Holds,
}

impl Source for Doing {
    async fn next(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        let now_ns = now_ns();
        if *self == Self::Opens {
            let line = format!("0.000000000 1:1 @1 127.0.0.1:* 127.0.0.1:80 opening new=SYN_SENT by=own/{0}/{0}", id());
            events.push(Event { at_ns: now_ns, ..notation::parse(&line).unwrap() });
        }
        Ok(Tick { now_ns, losses: Losses::default() })
    }

    fn table(&mut self) -> TableNews {
        let to_ns = now_ns();
        let task = Task { pid: id(), tid: id(), comm: "own".into() };
        let holders = HashMap::from([(5, vec![task; 2]), (6, vec![task])]);
        TableNews::Listed(Round {
            listings: vec![Listing { netns: 1, to_ns, holders, ..Listing::default() }],
            to_ns,
            ..Round::default()
        })
    }

    fn drain(&mut self, _events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        Ok(Tick { now_ns: now_ns(), losses: Losses::default() })
    }
}

/// A recording whose batches are written at once, gone at its end.
struct Scratch {
    path: PathBuf,
    recorded: Recorded<Doing>,
}

impl Scratch {
    fn new(test: &str, doing: Doing, rotation: Rotation) -> Self {
        let path = std::env::temp_dir().join(format!("sockwatch-{test}-{}", id()));
        fs::create_dir_all(&path).unwrap();
        let options = Options {
            path: path.join("web.swr"),
            force: false,
            flush_every: Duration::ZERO,
            sync: Sync::Never,
            level: 1,
            rotation,
            max_bytes: None,
            sandbox: Sandbox::Off,
        };
        Self { path, recorded: Recorded::new(doing, Recorder::start(Header::default(), options).unwrap()) }
    }

    /// Reads the source once.
    fn next(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.recorded.next(&mut Vec::new())).unwrap();
    }

    /// What each file calls this process.
    fn finish(self) -> Vec<Vec<String>> {
        self.recorded.finish().unwrap();
        let mut files: Vec<_> = fs::read_dir(&self.path).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let names = files.iter().map(|file| {
            let (mut reader, mut said) = (Reader::open(file).unwrap(), Said::default());
            while reader.next(&mut said).unwrap() {}
            let named = said.marks.into_iter().filter_map(|(_, mark)| match mark {
                Mark::Process(named) => Some(named.process),
                _other => None,
            });
            named.filter(|process| process.pid == id()).map(|process| process.comm.to_string()).collect()
        });
        let names = names.collect();
        fs::remove_dir_all(&self.path).unwrap();
        names
    }
}

/// Each file is read by itself, too.
#[test]
fn a_later_file_names_its_processes_again() {
    let rotation = Rotation { bytes: Some(1), ..Rotation::default() };
    let mut scratch = Scratch::new("names", Doing::Opens, rotation);
    let began = Instant::now();
    for files in 1..=3 {
        scratch.next();
        while scratch.recorded.written().files < files {
            assert!(began.elapsed() < Duration::from_secs(60), "no file {files} is begun");
            std::thread::yield_now();
        }
    }
    let names = scratch.finish();
    assert!(names[0].len() == 1 && names[2] == names[0], "{names:?}");
}

#[test]
fn a_process_that_is_called_otherwise_is_named_again() {
    let mut scratch = Scratch::new("renamed", Doing::Opens, Rotation::default());
    scratch.next();
    let long_ago = Instant::now().checked_sub(2 * FRESH).unwrap();
    let (looked, noted) = scratch.recorded.noted.get_mut(&id()).unwrap();
    *looked = long_ago;
    noted.as_mut().unwrap().process.comm = "before".into();
    scratch.next();
    scratch.recorded.noted.get_mut(&id()).unwrap().0 = long_ago;
    scratch.next();
    assert_eq!(scratch.finish().concat().len(), 2, "not a third time: it is called as before");
}

#[test]
fn who_holds_what_is_listed_is_named() {
    let mut scratch = Scratch::new("holders", Doing::Holds, Rotation::default());
    scratch.next();
    scratch.recorded.table();
    assert_eq!(scratch.recorded.holders.len(), 1, "each once");
    assert_eq!(scratch.finish().concat().len(), 1);
}
