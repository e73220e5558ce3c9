//! How long a frame of `sockwatch top` takes with many connections. Everything comes from memory, the terminal too. Prints a line per
//! figure, `NAME VALUE`; `cargo xtask bench` compares them with targets.

#[allow(dead_code, reason = "what only the other benchmarks use")]
mod stream;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use sockwatch::{
    overview::{Model, Place},
    sink::Sight,
    tcp::{decode::decode, tracker::Tracker},
    tui::{
        Theme, Ui,
        draw::{Scene, draw},
    },
};

use stream::Stream;

/// Live connections.
const LIVE: u64 = 100_000;
const FRAMES: u32 = 20;

/// A large terminal.
const WIDTH: u16 = 200;
const HEIGHT: u16 = 60;

fn main() {
    let (mut stream, mut tracker) = (Stream::default(), Tracker::default());
    let mut model = Model::new(Place::default(), 0, 100_000_000);
    while (tracker.len() as u64) < LIVE {
        let (mut records, mut events, mut updates) = (Vec::new(), Vec::new(), Vec::new());
        stream.open_half(&mut records);
        for record in &records {
            decode(record, &mut events).expect("the stream is well formed");
        }
        events.iter().for_each(|event| tracker.apply(event, &mut updates));
        updates.iter().for_each(|update| model.take(update));
    }
    let mut ui = Ui::default();
    let mut terminal = Terminal::new(TestBackend::new(WIDTH, HEIGHT)).expect("memory is a terminal");
    let mut sight = Sight { now_ns: stream.now_ns, tracker: &tracker, is_last: false };
    // Once a second everything is counted, too.
    let counting = timed(|| {
        sight.now_ns += 1_000_000_000;
        model.look(&sight, &mut ui.selection);
    });
    println!("second_ms {:.2}", counting.as_secs_f64() * 1e3);
    // Everything is kept twice then.
    let freezing = timed(|| drop(black_box((model.still(), tracker.clone()))));
    println!("freeze_ms {:.2}", freezing.as_secs_f64() * 1e3);
    let mut frame = |name: &str, keys: &[KeyCode]| {
        for key in keys {
            ui.key(KeyEvent::new(*key, KeyModifiers::NONE));
        }
        let took = timed(|| {
            let scene = Scene { sight, model: &model, playing: None, is_paused: false, theme: Theme::Coloured };
            terminal.draw(|frame| draw(frame, &scene, &mut ui)).expect("memory is a terminal");
        });
        println!("{name}_frame_ms {:.2}", took.as_secs_f64() * 1e3);
    };
    frame("listeners", &[KeyCode::Char('1')]);
    frame("connections", &[KeyCode::Char('2')]);
    frame("connections_end", &[KeyCode::End]);
    frame("states", &[KeyCode::Char('3')]);
    // Its last row, by whatever they are put in order.
    for column in ["state", "local", "remote", "age", "wait", "process"] {
        // The order by age is the first one: the next one is that by wait.
        let next = if column == "state" { &[KeyCode::Char('s'); 3][..] } else { &[KeyCode::Char('s')] };
        frame(&format!("by_{column}"), &[&[KeyCode::Char('2')], next, &[KeyCode::End]].concat());
    }
    // All fit, by each kind of word.
    let typed = |words: &str| {
        let keys = [KeyCode::Esc, KeyCode::Char('/')].into_iter().chain(words.chars().map(KeyCode::Char));
        keys.chain([KeyCode::Enter, KeyCode::End]).collect::<Vec<_>>()
    };
    frame("filtered", &typed("addr 0.0.0.0/0 port 1-65535 netns 4026531840 ESTABLISHED"));
    frame("filtered_by_name", &typed("bench mark"));
    frame("filtered_by_cgroup", &typed("cgroup /no-such-cgroup"));
}

/// The mean.
fn timed(mut what: impl FnMut()) -> Duration {
    let began = Instant::now();
    (0..FRAMES).for_each(|_| what());
    began.elapsed() / FRAMES
}
