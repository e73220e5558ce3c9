//! Writes a recording. What is said is gathered in columns; a thread of its own compresses and writes them, so that a slow
//! disk keeps nobody from reading events. If it falls too far behind, whole batches are dropped and counted.

mod file;
mod files;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};

use self::files::Files;
use super::{batch::Batch, header::Header, schema::schema};
use crate::{
    monotonic::{now_ns, wall_offset_ns},
    privilege::{self, Sandbox},
    process::names::Named,
    sink::wall::NOTABLE_NS,
    source::{TableNews, Tick},
    tcp::{event::Event, loss::Losses},
};

/// Rows of a batch at most.
const BATCH_ROWS: usize = 1 << 16;

/// Batches that may wait for the disk: some 100 MB.
const MOST_WAITING: usize = 16;

/// A batch is handed over so long before its interval is over: to compress and write it takes time, too.
const EARLY: Duration = Duration::from_millis(50);

/// What time of day it is, is noted so often.
const CLOCK_EVERY: Duration = Duration::from_secs(60);

/// Where and how to write.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; with rotation, what files are called after.
    pub path: PathBuf,
    /// Replace a file that exists.
    pub force: bool,
    /// So much is lost at most if the process is killed.
    pub flush_every: Duration,
    /// When the disk must have it.
    pub sync: Sync,
    /// zstd's level.
    pub level: i32,
    /// When to go on with another file.
    pub rotation: Rotation,
    /// How many bytes to write at most.
    pub max_bytes: Option<u64>,
    /// Whether the thread that writes confines itself.
    pub sandbox: Sandbox,
}

/// When written data is forced to the disk (fsync).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// When the kernel likes.
    Never,
    /// When a file is complete.
    End,
    /// After each batch.
    Flush,
}

/// When to go on with another file, and which to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// When a file has so many bytes.
    pub bytes: Option<u64>,
    /// After so long.
    pub every: Option<Duration>,
    /// Keep so many files, the newest.
    pub keep_files: Option<usize>,
    /// Keep so many bytes, the newest.
    pub keep_bytes: Option<u64>,
}

impl Rotation {
    /// Whether there will be more than one file.
    pub fn rotates(&self) -> bool {
        self.bytes.is_some() || self.every.is_some()
    }
}

/// Why nothing more is recorded.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is there already.
    #[error("{} exists: name another file, or replace it with --force", .0.display())]
    Exists(PathBuf),
    /// What is there is a directory, a device or a pipe.
    #[error("{} is no file, and is not replaced by one: name another", .0.display())]
    NoFile(PathBuf),
    /// It cannot be made.
    #[error("cannot create {}", .path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// It cannot be written to.
    #[error("cannot write to {}; the {kept} bytes that are in it can be read", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Bytes of whole batches.
        kept: u64,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// It was deleted meanwhile.
    #[error("{} was deleted while it was written", .0.display())]
    Deleted(PathBuf),
    /// Batches could not be made.
    #[error("cannot encode a batch")]
    Encode(#[from] ArrowError),
    /// The thread that writes could not be started, or is gone.
    #[error("no thread writes the recording")]
    Thread(#[source] io::Error),
}

/// How far the writing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes in all files.
    pub bytes: u64,
    /// Rows in them.
    pub rows: u64,
    /// The file that is written now.
    pub path: PathBuf,
    /// Files that were begun.
    pub files: u32,
    /// As many bytes as were allowed are written.
    pub full: bool,
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Status {
    written: Written,
    failed: Option<WriteError>,
}

/// Records what a source says.
#[derive(Debug)]
pub struct Recorder {
    batch: Batch,
    schema: SchemaRef,
    flush_every: Duration,
    flushed: Instant,
    clock_told: Instant,
    /// What time of day that was: the Unix time when `CLOCK_MONOTONIC` was 0.
    wall_offset_ns: u64,
    /// What the last tick told of losses, and when that was, in nanoseconds of `CLOCK_MONOTONIC`.
    losses: Losses,
    told_ns: u64,
    /// Rows that were dropped.
    unrecorded: u64,
    batches: SyncSender<RecordBatch>,
    status: Arc<Mutex<Status>>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Creates the first file.
    ///
    /// # Errors
    /// If it cannot be created, or exists already.
    pub fn start(header: Header, options: Options) -> Result<Self, WriteError> {
        let flush_every = options.flush_every;
        let (sandbox, writes_in) = (options.sandbox, files::directory(&options));
        let schema = schema(header.to_metadata());
        let mut files = Files::new(header, options);
        files.begin()?;
        let status = Arc::new(Mutex::new(Status { written: files.written(), failed: None }));
        let (batches, todo) = mpsc::sync_channel(MOST_WAITING);
        let told = Arc::clone(&status);
        let work = move || {
            if sandbox == Sandbox::On {
                let writable: Vec<_> = writes_in.into_iter().collect();
                let may_write = || writable.iter().all(|directory| files::may_write(directory));
                // What a kernel cannot do is no reason not to go on: `doctor` says it.
                privilege::confine(&privilege::role::RECORD, &writable, may_write);
            }
            write_all(files, &todo, &told);
        };
        let thread = thread::Builder::new().name("record".into()).spawn(work).map_err(WriteError::Thread)?;
        Ok(Self {
            batch: Batch::default(),
            schema,
            flush_every,
            flushed: Instant::now(),
            clock_told: Instant::now(),
            wall_offset_ns: wall_offset_ns(),
            losses: Losses::default(),
            told_ns: 0,
            unrecorded: 0,
            batches,
            status,
            thread,
        })
    }

    /// Takes a batch of events.
    ///
    /// # Errors
    /// If nothing can be written any more.
    pub fn take(&mut self, events: &[Event], tick: &Tick) -> Result<(), WriteError> {
        self.clock(now_ns(), wall_offset_ns());
        self.tell(events, tick)
    }

    /// The same, without a look at the clock.
    pub(crate) fn tell(&mut self, events: &[Event], tick: &Tick) -> Result<(), WriteError> {
        for event in events {
            self.batch.event(event);
            if self.batch.rows() >= BATCH_ROWS {
                self.hand_over()?;
            }
        }
        let losses = Losses { unrecorded: self.unrecorded, ..tick.losses };
        self.batch.losses(tick.now_ns, self.losses, losses);
        (self.losses, self.told_ns) = (losses, tick.now_ns);
        self.batch.tick(tick.now_ns);
        let due = self.batch.tells() && self.flushed.elapsed() + EARLY >= self.flush_every;
        if due || self.batch.rows() >= BATCH_ROWS {
            self.hand_over()?;
        }
        self.check()
    }

    /// Takes what the source says of the kernel's table.
    pub fn table(&mut self, news: &TableNews) {
        match news {
            TableNews::Nothing => {}
            TableNews::Expected => self.batch.round_expected(now_ns()),
            TableNews::Listed(round) => self.batch.round(round),
        }
    }

    /// Notes what time of day it is, now and then, and as soon as it has moved: events behind that are placed by it.
    pub(crate) fn clock(&mut self, now_ns: u64, wall_offset_ns: u64) {
        let has_moved = self.wall_offset_ns.abs_diff(wall_offset_ns) >= NOTABLE_NS;
        if has_moved || self.clock_told.elapsed() >= CLOCK_EVERY {
            (self.clock_told, self.wall_offset_ns) = (Instant::now(), wall_offset_ns);
            self.batch.clock(now_ns, wall_offset_ns);
        }
    }

    /// Notes a process.
    pub fn process(&mut self, named: &Named) {
        self.batch.process(named);
    }

    /// How far the writing is.
    pub fn written(&self) -> Written {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).written.clone()
    }

    /// Files that were begun. What is noted from now on is in the last one of them, or in a later one.
    pub fn files(&self) -> u32 {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).written.files
    }

    /// Rows that were dropped because the disk is too slow.
    pub fn unrecorded(&self) -> u64 {
        self.unrecorded
    }

    /// Writes what is left and ends the file.
    ///
    /// # Errors
    /// If something could not be written.
    pub fn finish(mut self) -> Result<Written, WriteError> {
        let losses = Losses { unrecorded: self.unrecorded, ..self.losses };
        if losses != self.losses {
            // Dropped after the last tick: whoever finds the end mark must find this, too.
            self.batch.losses(self.told_ns, self.losses, losses);
            self.batch.tick(self.told_ns);
        }
        let batch = self.batch.finish(&self.schema)?;
        // Now is the time to wait for the disk.
        let _ = self.batches.send(batch);
        drop(self.batches);
        let panicked = self.thread.join().is_err();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match status.failed.take() {
            Some(error) => Err(error),
            None if panicked => Err(WriteError::Thread(io::ErrorKind::BrokenPipe.into())),
            None => Ok(status.written.clone()),
        }
    }

    /// Hands the rows to the thread, unless too many wait already.
    fn hand_over(&mut self) -> Result<(), WriteError> {
        self.flushed = Instant::now();
        let batch = self.batch.finish(&self.schema)?;
        let rows = batch.num_rows() as u64;
        // A file may begin with the next batch, or the rows that tell may be dropped with this one.
        self.batch.lost_before(self.told_ns, self.losses);
        match self.batches.try_send(batch) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.unrecorded += rows;
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => {
                self.check()?;
                // It has panicked, and says nothing.
                Err(WriteError::Thread(io::ErrorKind::BrokenPipe.into()))
            }
        }
    }

    fn check(&self) -> Result<(), WriteError> {
        let failed = self.status.lock().unwrap_or_else(PoisonError::into_inner).failed.take();
        failed.map_or(Ok(()), Err)
    }
}

/// The thread's work, until nobody has anything to say any more.
fn write_all(mut files: Files, todo: &Receiver<RecordBatch>, status: &Mutex<Status>) {
    let mut work = || {
        loop {
            let wait = files.rotates_in().unwrap_or(CLOCK_EVERY);
            match todo.recv_timeout(wait) {
                Ok(batch) => files.write(&batch)?,
                Err(RecvTimeoutError::Timeout) => files.rotate_if_due()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
            status.lock().unwrap_or_else(PoisonError::into_inner).written = files.written();
        }
        files.end()
    };
    let done: Result<(), WriteError> = work();
    let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
    status.written = files.written();
    status.failed = done.err();
}

#[cfg(test)]
mod tests;
