//! A thread that is too slow, or gone.

use arrow_schema::Metadata;

use super::*;
use crate::{
    recording::{
        rows::{Mark, Said},
        schema::Cells,
        table::Reading,
    },
    tcp::{
        event::{Certainty, EventKind, SocketKey},
        loss::COUNTED,
    },
};

/// A recorder whose batches, so many at most, wait for the test. Each batch of events is handed over at once.
fn recorder(most: usize) -> (Recorder, Receiver<RecordBatch>) {
    let (batches, todo) = mpsc::sync_channel(most);
    let recorder = Recorder {
        batch: Batch::default(),
        schema: schema(Metadata::new()),
        flush_every: Duration::ZERO,
        flushed: Instant::now(),
        clock_told: Instant::now(),
        wall_offset_ns: wall_offset_ns(),
        losses: Losses::default(),
        told_ns: 0,
        unrecorded: 0,
        batches,
        status: Arc::default(),
        thread: thread::spawn(|| {}),
    };
    (recorder, todo)
}

fn destroy(at_ns: u64) -> Event {
    let key = SocketKey { netns: 1, cookie: at_ns };
    Event { at_ns, key, skaddr: 0, tuple: None, kind: EventKind::Destroy, certainty: Certainty::Once }
}

fn take(recorder: &mut Recorder, now_ns: u64, ring_full: u64) {
    let tick = Tick { now_ns, losses: Losses { ring_full, ..Losses::default() } };
    recorder.take(&[destroy(now_ns)], &tick).unwrap();
}

/// What a batch says beside its events, in words.
fn told(batch: &RecordBatch) -> String {
    let (mut reading, mut said) = (Reading::default(), Said::default());
    reading.read(&Cells::of(batch).unwrap(), batch.num_rows(), &mut said).unwrap();
    let words = said.marks.into_iter().map(|(_, mark)| match mark {
        Mark::Tick { now_ns } => format!("tick {now_ns}"),
        Mark::Loss { index, count } => format!("{} {count}", COUNTED[index].0),
        Mark::LostBefore { index, count } => format!("({} {count})", COUNTED[index].0),
        mark => format!("{mark:?}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[test]
fn each_batch_begins_with_what_was_lost_before() {
    let (mut recorder, batches) = recorder(3);
    take(&mut recorder, 1, 0);
    take(&mut recorder, 2, 3);
    take(&mut recorder, 3, 3);
    let told: Vec<_> = batches.try_iter().map(|batch| told(&batch)).collect();
    assert_eq!(told, ["tick 1", "ring_full 3, tick 2", "(ring_full 3), tick 3"]);
    assert_eq!(recorder.unrecorded(), 0);
}

/// Whatever a dropped batch said of losses is said again, and that it was dropped.
#[test]
fn a_batch_that_is_dropped_takes_no_loss_with_it() {
    let (mut recorder, batches) = recorder(1);
    take(&mut recorder, 1, 0);
    take(&mut recorder, 2, 3);
    assert_eq!(recorder.unrecorded(), 3, "an event, a loss and a tick");
    assert_eq!(told(&batches.recv().unwrap()), "tick 1");
    take(&mut recorder, 3, 4);
    assert_eq!(told(&batches.recv().unwrap()), "(ring_full 3), ring_full 4, unrecorded 3, tick 3");
}

/// No file has an end mark, and does not say what it has not.
#[test]
fn what_was_dropped_last_is_told_before_the_end() {
    let (mut recorder, batches) = recorder(1);
    take(&mut recorder, 1, 0);
    take(&mut recorder, 2, 3);
    let reader = thread::spawn(move || batches.iter().map(|batch| told(&batch)).collect::<Vec<_>>());
    recorder.finish().unwrap();
    assert_eq!(reader.join().unwrap(), ["tick 1", "(ring_full 3), unrecorded 3, tick 2"]);
}

#[test]
fn a_thread_that_is_gone_without_a_word_is_an_error() {
    let (mut recorder, batches) = recorder(1);
    drop(batches);
    let told = recorder.take(&[destroy(1)], &Tick { now_ns: 1, losses: Losses::default() });
    assert!(matches!(told, Err(WriteError::Thread(_))), "{told:?}");
    let full = WriteError::Exists("web.swr".into());
    recorder.status.lock().unwrap().failed = Some(full);
    let told = recorder.take(&[destroy(2)], &Tick { now_ns: 2, losses: Losses::default() });
    assert!(matches!(told, Err(WriteError::Exists(_))), "what it said comes first: {told:?}");
}
