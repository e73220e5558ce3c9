//! Deeds in, shares out.

use super::*;
use crate::tcp::endpoint::Endpoint;

const MS: u64 = 1_000_000;
const LISTENER: SocketKey = SocketKey { netns: 1, cookie: 1 };
const PID: u32 = 10;

fn stack(function: &str, syscall: &str) -> Arc<Stack> {
    let frame = |name: &str, module: &str| Frame { name: name.into(), module: Some(module.into()) };
    let kernel = if syscall.is_empty() { vec![] } else { vec!["do_x".into(), format!("__x64_sys_{syscall}")] };
    Arc::new(Stack {
        kernel,
        user: vec![frame(syscall, "libc.so.6"), frame(function, "server"), frame("main", "server")],
    })
}

fn task(tid: u32) -> Task {
    Task { pid: PID, tid, comm: Comm::from("server") }
}

/// Somebody waits from 100 to 200 ms, and from 300 ms on.
fn waiting() -> Spells {
    let mut spells = Spells::default();
    spells.put(100 * MS, 200 * MS);
    spells.leave_open(Some(300 * MS));
    spells
}

struct Story {
    blame: Blame,
    number: u32,
}

impl Story {
    fn new() -> Self {
        let mut blame = Blame::default();
        blame.hold(PID, LISTENER);
        Self { blame, number: 0 }
    }

    fn tell(&mut self, tid: u32, what: What) -> &mut Self {
        self.blame.push(Deed { pid: PID, tid, what });
        self
    }

    fn found(&mut self, tid: u32, at_ms: u64, sleeps: Option<Arc<Stack>>) -> &mut Self {
        self.tell(tid, What::Found { at_ns: at_ms * MS, comm: Comm::from("server"), sleeps })
    }

    fn pause(
        &mut self,
        off_ms: u64,
        woken_ms: Option<u64>,
        on_ms: Option<u64>,
        stack: Option<Arc<Stack>>,
    ) -> &mut Self {
        self.number += 1;
        let ns = |ms: u64| ms * MS;
        let (off_ns, woken_ns, on_ns) = (Some(ns(off_ms)), woken_ms.map(ns), on_ms.map(ns));
        let runnable = stack.is_none();
        self.tell(
            PID,
            What::Paused { number: self.number, before: None, off_ns, woken_ns, on_ns, runnable, asked: false, stack },
        )
    }

    /// At 400 ms all is over, and the parts in milliseconds are these.
    #[track_caller]
    fn check(&mut self, acceptors: &[u32], expected: &str) -> Attribution {
        let spells = waiting();
        self.blame.settle(350 * MS, |_| Some(&spells));
        self.blame.finish(400 * MS, |_| Some(&spells));
        let acceptors = acceptors.iter().map(|tid| task(*tid));
        let attribution = self.blame.attribute(LISTENER, acceptors, &spells, 400 * MS).unwrap();
        let parts = attribution.parts.iter().map(|part| (part.kind.word(), (part.ns + MS / 2) / MS));
        let words: Vec<_> = parts.filter(|(_, ms)| *ms > 0).map(|(kind, ms)| format!("{kind} {ms}")).collect();
        assert_eq!(words.join(", "), expected);
        assert_eq!(attribution.parts.iter().map(|part| part.ns).sum::<u64>(), 200 * MS);
        attribution
    }
}

#[test]
fn blocked_then_without_a_cpu_then_running() {
    let mut story = Story::new();
    story.found(PID, 50, None).pause(110, Some(150), Some(160), Some(stack("guilty", "futex")));
    let attribution = story.check(&[PID], "blocked 40, starved 10, busy 150");
    let cause = &attribution.part(Kind::Blocked).unwrap().causes[0];
    assert_eq!(cause.stack.as_ref().unwrap().words(), "guilty (futex)");
}

#[test]
fn what_nobody_waited_for_does_not_count() {
    let mut story = Story::new();
    story.found(PID, 50, None).pause(60, Some(100), Some(100), Some(stack("a", "read")));
    story.pause(200, Some(300), Some(300), Some(stack("a", "read")));
    story.check(&[PID], "busy 200");
}

#[test]
fn who_slept_before_and_still_sleeps_is_blocked() {
    Story::new().found(PID, 50, Some(stack("pause_for_ever", "pause"))).check(&[PID], "blocked 200");
    let mut story = Story::new();
    story.found(PID, 50, None).pause(110, None, None, Some(stack("a", "futex"))).check(&[PID], "blocked 190, busy 10");
}

#[test]
fn samples_tell_what_ran() {
    let mut story = Story::new();
    story.found(PID, 50, None);
    for at_ms in [110, 120, 130] {
        story.tell(PID, What::Sampled { at_ns: at_ms * MS, stack: stack("spin", "") });
    }
    story.tell(PID, What::Sampled { at_ns: 140 * MS, stack: stack("take", "accept4") });
    // Nobody waits then.
    story.tell(PID, What::Sampled { at_ns: 250 * MS, stack: stack("other", "") });
    let attribution = story.check(&[PID], "busy 150, accepting 50");
    assert_eq!(attribution.part(Kind::Busy).unwrap().causes[0].stack.as_ref().unwrap().function(), Some("spin"));
}

#[test]
fn every_stack_has_its_line_in_a_flame_graph() {
    let mut story = Story::new();
    story.found(PID, 50, None).pause(110, Some(150), Some(160), Some(stack("guilty", "futex")));
    story.tell(PID, What::Sampled { at_ns: 170 * MS, stack: stack("a;b", "") });
    let attribution = story.check(&[PID], "blocked 40, starved 10, busy 150");
    let listener = Endpoint { address: [127, 0, 0, 1].into(), port: 80 };
    let expected = [
        "127.0.0.1:80;server/10;blocked;main;guilty;futex;__x64_sys_futex_[k];do_x_[k] 40000",
        "127.0.0.1:80;server/10;busy;main;a:b 150000",
        "127.0.0.1:80;server/10;starved 10000",
    ];
    assert_eq!(flame::folded([(listener, &attribution)].into_iter()), expected);
}

#[test]
fn waiting_is_split_over_those_who_accepted() {
    let mut story = Story::new();
    story.found(PID, 50, Some(stack("a", "futex"))).found(11, 50, Some(stack("b", "read"))).found(12, 50, None);
    let attribution = story.check(&[PID, 11], "blocked 200");
    assert_eq!(attribution.part(Kind::Blocked).unwrap().causes.len(), 2);
    story.check(&[PID, 12], "blocked 100, unknown 100");
}

#[test]
fn nobody_accepted() {
    // The only thread could have.
    Story::new().found(PID, 50, Some(stack("a", "futex"))).check(&[], "blocked 200");
    // Which of two should have is not known.
    let sleeps = || Some(stack("a", "futex"));
    Story::new().found(PID, 50, sleeps()).found(11, 50, sleeps()).check(&[], "nobody 200");
}

#[test]
fn a_thread_that_has_ended_is_not_there() {
    let mut story = Story::new();
    story.found(PID, 50, Some(stack("a", "futex"))).pause(100, Some(200), Some(200), Some(stack("a", "futex")));
    story.tell(PID, What::Gone { at_ns: 250 * MS, before: None }).check(&[PID], "blocked 100, nobody 100");
}

#[test]
fn who_sleeps_in_accept_is_not_to_blame_while_another_was_woken() {
    let in_accept = || Some(stack("work", "accept4"));
    let mut story = Story::new();
    // Of three that sleep in accept() the kernel wakes one, and it gets no CPU.
    story.found(PID, 50, None).found(11, 50, in_accept()).found(12, 50, Some(stack("work", "epoll_wait")));
    story.pause(60, Some(100), Some(200), in_accept()).pause(250, Some(300), Some(400), in_accept());
    story.check(&[PID, 11, 12], "starved 200");
    // For half of the time all sleep: it is theirs.
    let mut story = Story::new();
    story.found(PID, 50, None).found(11, 50, in_accept()).pause(60, Some(300), Some(400), in_accept());
    let attribution = story.check(&[PID, 11], "blocked 100, starved 100");
    assert_eq!(attribution.spared, 0);
    // One that is stopped is not asleep.
    let mut stopped = stack("work", "accept4").as_ref().clone();
    stopped.kernel.insert(0, "do_signal_stop".into());
    let mut story = Story::new();
    story.found(PID, 50, Some(Arc::new(stopped))).found(11, 50, in_accept()).check(&[PID, 11], "blocked 200");
}

#[test]
fn a_lost_pause_is_unknown() {
    let mut story = Story::new();
    story.found(PID, 50, None).pause(60, Some(100), Some(100), Some(stack("a", "read")));
    story.number += 1;
    story.pause(300, Some(400), Some(400), Some(stack("a", "read"))).check(&[PID], "blocked 100, unknown 100");
}

#[test]
fn short_pauses_are_told_by_their_sums() {
    let sums = |since_ms: u64, ran: u64, blocked: u64, starved: u64| {
        Some(Sums { since_ns: since_ms * MS, ran_ns: ran * MS, blocked_ns: blocked * MS, starved_ns: starved * MS })
    };
    let paused = |number, before, off_ms: u64, on_ms: u64| What::Paused {
        number,
        before,
        off_ns: Some(off_ms * MS),
        woken_ns: None,
        on_ns: Some(on_ms * MS),
        runnable: false,
        asked: false,
        stack: Some(stack("a", "read")),
    };
    let mut story = Story::new();
    story.found(PID, 50, None).tell(PID, paused(1, None, 60, 100));
    // A half of it nobody waits for.
    story.tell(PID, paused(2, sums(100, 120, 60, 20), 300, 310));
    // The third was lost.
    story.tell(PID, paused(4, sums(330, 10, 0, 0), 340, 350));
    story.tell(PID, What::Gone { at_ns: 400 * MS, before: sums(350, 0, 0, 50) });
    story.check(&[PID], "blocked 50, starved 60, busy 70, unknown 20");
}

#[test]
fn other_events_come_first() {
    let asked = |number, off_ms: u64, on_ms: u64| What::Paused {
        number,
        before: None,
        off_ns: Some(off_ms * MS),
        woken_ns: Some(on_ms * MS),
        on_ns: Some(on_ms * MS),
        runnable: false,
        asked: true,
        stack: None,
    };
    let sampled = |at_ms: u64, stack| What::Sampled { at_ns: at_ms * MS, stack };
    let mut story = Story::new();
    // It asks while somebody waits, runs, accepts, and runs on: only what it ran before is something else's turn.
    story.found(PID, 50, None).tell(PID, asked(1, 60, 120)).tell(PID, sampled(130, stack("answer", "")));
    story.blame.accepted(160 * MS, PID);
    // It asked in a spell that is over; it is seen at it again in the next.
    story.tell(PID, asked(2, 170, 190)).tell(PID, sampled(310, stack("compute", "")));
    story.tell(PID, sampled(330, stack("work", "epoll_wait"))).tell(PID, sampled(380, stack("answer", "")));
    let attribution = story.check(&[PID], "blocked 40, busy 40, draining 120");
    let cause = &attribution.part(Kind::Draining).unwrap().causes[0];
    assert_eq!(cause.stack.as_ref().unwrap().function(), Some("answer"));
    let cause = &attribution.part(Kind::Busy).unwrap().causes[0];
    assert_eq!(cause.stack.as_ref().unwrap().function(), Some("compute"));
}

#[test]
fn the_function_that_answers() {
    let frame = |name: &str, module: Option<&str>| Frame { name: name.into(), module: module.map(str::to_owned) };
    let of = |user: Vec<Frame>| Stack { kernel: vec![], user }.function().map(str::to_owned);
    let rust =
        vec![frame("nanosleep", Some("libc.so.6")), frame("std::thread::sleep", Some("a")), frame("a::b", Some("a"))];
    assert_eq!(of(rust).as_deref(), Some("a::b"));
    let python = vec![
        frame("select", Some("libc.so.6")),
        frame("_PyEval_EvalFrameDefault", Some("python3.12")),
        frame("py::fetch:/a.py", None),
        frame("py::main:/a.py", None),
    ];
    assert_eq!(of(python).as_deref(), Some("py::fetch:/a.py"));
    let waits = "py::Event.wait:/usr/lib/python3.12/threading.py";
    let library = vec![frame("sem_wait", Some("libc.so.6")), frame(waits, None), frame("py::serve:/a.py", None)];
    assert_eq!(of(library).as_deref(), Some("py::serve:/a.py"));
    assert_eq!(of(vec![frame(waits, None), frame("main", Some("python3.12"))]).as_deref(), Some(waits));
    let packages = "py::get:/usr/lib/python3.12/site-packages/requests/api.py";
    assert_eq!(of(vec![frame(packages, None), frame("py::a:/a.py", None)]).as_deref(), Some(packages));
    let node = vec![frame("JS:*emit node:events:511:44", None), frame("JS:*ask /srv/a.js:7", None)];
    assert_eq!(of(node).as_deref(), Some("JS:*ask /srv/a.js:7"));
    assert_eq!(of(vec![frame("read", Some("libc.so.6"))]).as_deref(), Some("read"));
    assert_eq!(of(vec![frame("0x1", None)]), None);
}
