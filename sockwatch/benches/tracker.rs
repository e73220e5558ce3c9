//! How fast records become timelines, and how much memory they need. Everything comes from memory: no kernel takes part.
//! Prints a line per figure, `NAME VALUE`; `cargo xtask bench` compares them with targets.

mod stream;

use std::{io, process::Command, time::Duration};

use nix::time::{ClockId, clock_gettime};
use sockwatch::tcp::{decode::decode, order::Order, tracker::Tracker, update::Update};

use stream::{RECORDS_PER_CONNECTION, Stream};

/// Connections before the clock starts: so many that as many minisocks expire as come.
const WARM_UP: u64 = stream::CONNECTIONS_PER_SECOND * 70;
const MEASURED: u64 = 300_000;
/// Connections in a portion that the reader takes at once: some 20 ms of them.
const PORTION: u64 = stream::CONNECTIONS_PER_SECOND / 50;
/// Sockets or minisocks whose memory is measured.
const HELD: u64 = 200_000;

/// What a run took.
#[derive(Default)]
struct Took {
    decode: Duration,
    track: Duration,
}

fn main() -> io::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("live") => held(Stream::open_half),
        Some("minisocks") => held(Stream::close_half),
        // What cargo passes to a benchmark.
        Some(_) | None => {
            speed();
            for (what, figure) in [("live", "live_socket_bytes"), ("minisocks", "minisock_bytes")] {
                // A process of its own: freed memory would be used again.
                let output = Command::new(std::env::current_exe()?).arg(what).output()?;
                print!("{figure} {}", String::from_utf8_lossy(&output.stdout));
            }
            Ok(())
        }
    }
}

fn speed() {
    let (mut stream, mut order, mut tracker) = (Stream::default(), Order::default(), Tracker::default());
    run(&mut stream, &mut order, &mut tracker, WARM_UP);
    let took = run(&mut stream, &mut order, &mut tracker, MEASURED);
    assert_eq!((tracker.unexpected(), tracker.full(), tracker.evicted(), order.late()), (0, 0, 0, 0));
    let records = (MEASURED * RECORDS_PER_CONNECTION) as f64;
    println!("decode_records_per_second {:.0}", records / took.decode.as_secs_f64());
    println!("track_events_per_second {:.0}", records / took.track.as_secs_f64());
    println!("both_events_per_second {:.0}", records / (took.decode + took.track).as_secs_f64());
    println!("minisocks_meanwhile {}", tracker.len());
}

/// Feeds so many connections as the pipeline does, and drops what comes of them.
fn run(stream: &mut Stream, order: &mut Order, tracker: &mut Tracker, connections: u64) -> Took {
    let mut took = Took::default();
    let (mut records, mut events, mut updates) = (Vec::new(), Vec::new(), Vec::<Update>::new());
    for _ in 0..connections / PORTION {
        records.clear();
        stream.portion(PORTION, &mut records);
        let began = cpu_time();
        for record in &records {
            decode(record, &mut events).expect("the stream is well formed");
        }
        let decoded = cpu_time();
        order.append(&mut events);
        order.release(stream.now_ns, |event| tracker.apply(event, &mut updates));
        tracker.expire(stream.now_ns, &mut updates);
        updates.clear();
        took.decode += decoded - began;
        took.track += cpu_time() - decoded;
    }
    took
}

/// What this thread has used of a CPU: other load on the machine takes no part.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it").into()
}

/// Prints how much memory each of many sockets takes that `records` leave behind.
fn held(records: fn(&mut Stream, &mut Vec<Vec<u8>>)) -> io::Result<()> {
    let (mut stream, mut tracker) = (Stream::default(), Tracker::default());
    let before = resident_bytes()?;
    while (tracker.len() as u64) < HELD {
        let (mut portion, mut events, mut updates) = (Vec::new(), Vec::new(), Vec::new());
        records(&mut stream, &mut portion);
        for record in &portion {
            decode(record, &mut events).expect("the stream is well formed");
        }
        events.iter().for_each(|event| tracker.apply(event, &mut updates));
    }
    println!("{}", (resident_bytes()? - before) / HELD);
    Ok(())
}

fn resident_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}
