//! Events in, lines out.

use std::process::id;

use super::*;
use crate::{
    monotonic::now_ns,
    tcp::{notation, order::Order, tracker::Tracker},
};

const QUEUES: Show =
    Show { transitions: false, connections: false, queues: true, disagreements: true, why: Why::Untold };
const CONNECTIONS: Show = Show { connections: true, queues: false, ..QUEUES };

/// The lines that events make; their times count from `start_ns`.
fn lines(show: Show, start_ns: u64, names: Names, events: &str) -> String {
    let (mut order, mut tracker, mut updates) = (Order::default(), Tracker::default(), Vec::new());
    for line in events.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut event = notation::parse(line).unwrap();
        event.at_ns += start_ns;
        order.push(event);
    }
    order.release_all(|event| {
        tracker.apply(event, &mut updates);
        tracker.expire(event.at_ns, &mut updates);
    });
    tracker.settle_all(u64::MAX / 2, &mut updates);
    let mut out = Vec::new();
    let mut sink = Text::new(&mut out, show, Clock::Relative { start_ns }, Colour::Off).knowing(names);
    updates.iter().for_each(|update| sink.update(update).unwrap());
    sink.tick(&Totals::default()).unwrap();
    drop(sink);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_queue_is_told_to_its_end() {
    let text = lines(
        QUEUES,
        0,
        Names::default(),
        "1.0 1:1 @1 127.0.0.1:80 0.0.0.0:* opening new=LISTEN by=server/1/1 limit=4
         2.0 1:2 @2 127.0.0.1:80 127.0.0.1:5000 birth queue=0/4
         2.0 1:2 @2 127.0.0.1:80 127.0.0.1:5000 transition old=SYN_RECV new=ESTABLISHED
         2.0 1:2 @2 127.0.0.1:80 127.0.0.1:5000 enqueue listener=1
         2.1 1:2 @2 127.0.0.1:80 127.0.0.1:5000 accept by=server/1/1 fd=4
         2.2 1:1 @1 127.0.0.1:80 0.0.0.0:* closing old=LISTEN current=server/1/1 evidence shutdown=3
         2.2 1:1 @1 - - destroy",
    );
    let told: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(told[0], "TIME LOCAL REMOTE QUEUE", "no columns of what is not shown");
    assert!(!told[1..].iter().any(|line| line.starts_with("TIME")), "{text}");
    let last = "2.200000 L 127.0.0.1:80 0.0.0.0:* queue closed accepted 1 abandoned 0 dead 0";
    assert_eq!(told.last().unwrap(), last, "{text}");
}

/// As `ss` names it.
#[test]
fn the_process_s_name_stands_before_its_number() {
    let (now_ns, pid) = (now_ns(), id());
    let process = Names::default().of(pid, now_ns).unwrap().comm;
    let shown = |show, tid| {
        let events = format!(
            "0.1 1:2 @2 127.0.0.1:80 127.0.0.1:5000 birth queue=0/4
             0.2 1:2 @2 127.0.0.1:80 127.0.0.1:5000 transition old=SYN_RECV new=ESTABLISHED
             0.3 1:2 @2 127.0.0.1:80 127.0.0.1:5000 accept by=pool-1/{pid}/{tid} fd=4
             0.4 1:2 @2 127.0.0.1:80 127.0.0.1:5000 closing old=ESTABLISHED current=pool-1/{pid}/{tid} evidence shutdown=3 has_socket
             0.5 1:2 @2 - - destroy"
        );
        lines(show, now_ns, Names::default(), &events)
    };
    let process = format!("{process:.5}");
    let (of_thread, of_first) = (shown(CONNECTIONS, pid + 1), shown(CONNECTIONS, pid));
    assert!(of_thread.contains(&format!(" {process}")) && !of_thread.contains("pool-1"), "{of_thread}");
    assert!(of_first.contains(&format!(" pool-1/{pid}")), "{of_first}");
    let told = shown(Show { why: Why::Told, ..CONNECTIONS }, pid + 1);
    assert!(told.contains(&format!("/{pid} thread pool-1")), "{told}");
}
