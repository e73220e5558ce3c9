use std::fs;

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind},
};

use super::*;
use crate::{
    overview::Place,
    pipeline::Totals,
    process::{
        Process,
        cgroup::Workload,
        names::{Named, Names, Told},
    },
    sink::wall::Wall,
    tcp::{notation, order::Order, tracker::Tracker},
    tui::Action,
};

const SLOW_NS: u64 = 100_000_000;

/// A lab's events until an instant, and the screen that shows them.
struct Shown {
    tracker: Tracker,
    model: Model,
    ui: Ui,
    now_ns: u64,
}

impl Shown {
    fn of(lab: &str, now_ns: u64) -> Self {
        let path = format!("{}/tests/labs/{lab}.events", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(path).unwrap();
        let mut events: Vec<_> = text.lines().map(|line| notation::parse(line).unwrap()).collect();
        let place =
            Place { source: "eBPF".into(), host: "web-1".into(), wall: Wall::of(34_200_000_000_000), span_ns: None };
        let mut shown =
            Self { tracker: Tracker::default(), model: Model::new(place, 0, SLOW_NS), ui: Ui::default(), now_ns };
        let (mut order, mut updates) = (Order::default(), Vec::new());
        events.retain(|event| event.at_ns <= now_ns);
        let totals = Totals { events: events.len() as u64, ..Totals::default() };
        order.append(&mut events);
        order.release_all(|event| shown.tracker.apply(event, &mut updates));
        shown.tracker.expire(now_ns, &mut updates);
        updates.iter().for_each(|update| shown.model.take(update));
        shown.model.count(&totals);
        let Self { tracker, model, ui, .. } = &mut shown;
        model.look(&Sight { now_ns, tracker, is_last: false }, &mut ui.selection);
        shown
    }

    /// The screen as text, without the spaces at lines' ends.
    fn screen(&mut self, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let Self { tracker, model, ui, now_ns } = self;
        let sight = Sight { now_ns: *now_ns, tracker, is_last: false };
        let scene = Scene { sight, model, playing: None, is_paused: false, theme: Theme::Plain };
        terminal.draw(|frame| draw(frame, &scene, ui)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
    }

    fn press(&mut self, keys: &[KeyCode]) -> Option<Action> {
        keys.iter().fold(None, |_, key| self.ui.key(KeyEvent::new(*key, KeyModifiers::NONE)))
    }

    fn type_in(&mut self, text: &str) {
        text.chars().for_each(|letter| {
            self.press(&[KeyCode::Char(letter)]);
        });
    }

    fn click(&mut self, x: u16, y: u16) -> Option<Action> {
        let kind = MouseEventKind::Down(MouseButton::Left);
        self.ui.mouse(MouseEvent { kind, column: x, row: y, modifiers: KeyModifiers::NONE })
    }
}

/// Five clients, and a server that accepts one every 50 ms: three still wait.
fn waiting() -> Shown {
    Shown::of("slow-accept", 130_000_000)
}

#[test]
fn what_waits_is_seen_at_once_on_80_columns() {
    let mut shown = waiting();
    let screen = shown.screen(80, 24);
    kept(&screen, "listeners-80x24");
    assert!(screen.lines().all(|line| line.chars().count() <= 80));
    kept(&shown.screen(120, 24), "listeners-120x24");
}

#[test]
fn connections_are_filtered_as_one_types() {
    let mut shown = waiting();
    shown.press(&[KeyCode::Char('2')]);
    kept(&shown.screen(80, 24), "connections-80x24");
    shown.press(&[KeyCode::Char('/')]);
    shown.type_in("slow-acc");
    let typing = shown.screen(80, 24);
    assert!(typing.lines().last().unwrap().starts_with("/slow-acc_"), "{typing}");
    shown.type_in(" --color");
    let wrong = shown.screen(80, 24);
    assert!(wrong.contains("--color: there are port, local-port"), "{wrong}");
    let count = |screen: &str| screen.lines().find(|line| line.contains("connections")).unwrap().to_owned();
    assert_eq!(count(&typing), count(&wrong), "what makes no sense yet changes nothing");
    shown.press(&[KeyCode::Esc]);
    assert!(!shown.screen(80, 24).contains("filter:"));
}

/// Namespaces by name, cgroups by path: what a machine knows, told to the screen.
#[test]
fn words_that_a_machine_knows_filter_too() {
    let mut shown = waiting();
    shown.ui.find = |name| (name == "blue").then_some(4_026_531_840);
    let living: Vec<_> = shown.tracker.living(shown.now_ns).map(|living| living.subject).collect();
    let netns = living[0].key.netns;
    assert!(living.iter().all(|subject| subject.key.netns == netns));
    let told = Told::default();
    let server = living.iter().filter_map(|subject| subject.owner).find(|owner| owner.to_string().contains("slow"));
    let workload = Workload { cgroup: Some("/system.slice/web.service".into()), ..Workload::default() };
    let (pid, comm) = (server.unwrap().pid, server.unwrap().comm);
    told.tell(Named { started_ns: 0, process: Process { pid, comm, command: None, workload } });
    shown.ui.selection.names = Names::told(told);
    let mut counted = |words: &str| {
        shown.press(&[KeyCode::Char('2'), KeyCode::Char('/'), KeyCode::Esc, KeyCode::Char('/')]);
        shown.type_in(words);
        shown.press(&[KeyCode::Enter]);
        let screen = shown.screen(200, 24);
        screen.lines().find(|line| line.contains("connections")).unwrap_or(&screen).trim().to_owned()
    };
    let all = counted("");
    let of = |line: &str| line.split(' ').next().unwrap().parse::<u32>().unwrap();
    let its = counted("--cgroup /sys/fs/cgroup/system.slice");
    assert_eq!(its.split("  ").next(), counted(&format!("pid {pid}")).split("  ").next());
    assert!((1..of(&all)).contains(&of(&its)), "{its}; {all}");
    assert_eq!(of(&counted("cgroup /user.slice")), 0);
    assert_eq!(of(&counted(&format!("netns {netns}"))), of(&all));
    assert_eq!(of(&counted(&format!("netns {}", netns + 1))), 0);
    let unknown = counted("netns green");
    assert!(unknown.contains("netns green: nothing here is called so"), "{unknown}");
}

#[test]
fn one_of_them_closely() {
    let mut shown = waiting();
    shown.screen(80, 24);
    shown.press(&[KeyCode::Enter]);
    kept(&shown.screen(80, 30), "listener-80x30");
    shown.press(&[KeyCode::Esc, KeyCode::Char('2')]);
    shown.screen(80, 24);
    let action = shown.press(&[KeyCode::Enter]);
    assert!(matches!(action, Some(Action::Watch(..))), "{action:?}");
    let screen = shown.screen(80, 24);
    assert!(screen.contains("connected from here") && screen.contains("ESTABLISHED"), "{screen}");
}

#[test]
fn other_pages() {
    let mut shown = waiting();
    shown.press(&[KeyCode::Char('3')]);
    kept(&shown.screen(80, 24), "states-80x24");
    shown.press(&[KeyCode::Tab]);
    let findings = shown.screen(80, 24);
    assert!(findings.contains("slow-accept"), "{findings}");
    shown.press(&[KeyCode::Enter]);
    let finding = shown.screen(80, 40);
    assert!(finding.contains("evidence") && finding.contains("sockwatch explain"), "{finding}");
    shown.press(&[KeyCode::Char('?')]);
    kept(&shown.screen(80, 24), "help-80x24");
    assert_eq!(shown.press(&[KeyCode::Char('x')]), None, "it closes the help");
    assert_eq!(shown.press(&[KeyCode::Char('q')]), Some(Action::Quit));
}

#[test]
fn the_mouse_finds_pages_rows_and_headings() {
    let mut shown = waiting();
    let screen = shown.screen(80, 24);
    let tabs = screen.lines().nth(1).unwrap();
    let at = u16::try_from(tabs.find("Connections").unwrap()).unwrap();
    assert_eq!(shown.click(at, 1), None);
    let before = shown.screen(80, 24);
    assert!(before.contains("AGE▼"), "{before}");
    // The heading that it is sorted by turns it round, another one sorts by itself.
    let heading = before.lines().position(|line| line.contains("AGE▼")).unwrap();
    let column = |screen: &str, name: &str| {
        let line = screen.lines().nth(heading).unwrap();
        u16::try_from(line[..line.find(name).unwrap()].chars().count()).unwrap()
    };
    let row = u16::try_from(heading).unwrap();
    shown.click(column(&before, "AGE"), row);
    assert!(shown.screen(80, 24).contains("AGE▲"));
    shown.click(column(&before, "REMOTE"), row);
    assert!(shown.screen(80, 24).contains("REMOTE▲"));
    assert_eq!(shown.click(5, row + 2), None, "it is chosen");
    shown.screen(80, 24);
    assert!(matches!(shown.click(5, row + 2), Some(Action::Watch(..))), "and opened");
}

/// Each finding has two lines, and either of them is it.
#[test]
fn a_finding_is_opened_by_its_sentence() {
    let mut shown = waiting();
    shown.press(&[KeyCode::Char('4')]);
    let screen = shown.screen(80, 24);
    let title = screen.lines().position(|line| line.contains("slow-accept")).unwrap();
    shown.click(10, u16::try_from(title).unwrap() + 1);
    let finding = shown.screen(80, 40);
    assert!(finding.contains("evidence"), "{finding}");
}

/// On whatever screen, every word of a finding can be scrolled to, and of the list of findings every sentence is whole.
#[test]
fn nothing_of_a_finding_is_cut_off() {
    let mut shown = waiting();
    let finding = shown.model.report().unwrap().findings[0].clone();
    let parts = [&finding.evidence, &finding.rules_out, &finding.fix];
    let all: Vec<&str> = parts.into_iter().flatten().chain([&finding.sentence]).map(String::as_str).collect();
    for (width, height) in [(80, 24), (40, 10), (200, 12)] {
        shown.press(&[KeyCode::Char('4')]);
        let list = shown.screen(width, height.max(20));
        assert!(plain(&list).contains(&plain(&finding.sentence)), "{width}: {list}");
        shown.press(&[KeyCode::Enter]);
        let mut seen = String::new();
        for line in 0..60 {
            let screen = shown.screen(width, height);
            // The first two lines and the last two are not the finding's.
            let own: Vec<_> = screen.lines().skip(2).take(usize::from(height) - 4).collect();
            seen += if line == 0 { own.join(" ") } else { format!(" {}", own.last().unwrap()) }.as_str();
            shown.press(&[KeyCode::Down]);
        }
        for text in &all {
            assert!(plain(&seen).contains(&plain(text)), "{width}x{height}: {text}: {seen}");
        }
        shown.press(&[KeyCode::Esc]);
    }
}

/// Words, without what stands between them.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Who reads of one finding does not find another one under his eyes.
#[test]
fn a_finding_stays_the_same_when_it_is_no_longer_the_worst() {
    let mut shown = waiting();
    shown.press(&[KeyCode::Char('4')]);
    shown.screen(80, 40);
    shown.press(&[KeyCode::Enter]);
    let own = |screen: String| screen.lines().skip(2).collect::<Vec<_>>().join("\n");
    let before = own(shown.screen(80, 40));
    let findings = &mut shown.model.report_mut().unwrap().findings;
    let mut worse = findings[0].clone();
    (worse.place.cookie, worse.sentence) = (Some(4711), "another listener".into());
    findings.insert(0, worse);
    assert_eq!(own(shown.screen(80, 40)), before);
    shown.press(&[KeyCode::Esc]);
    assert!(shown.screen(80, 40).contains("another listener"));
    shown.model.report_mut().unwrap().findings.clear();
    shown.press(&[KeyCode::Enter]);
    assert!(shown.screen(80, 40).contains("not found any more"));
}

#[test]
fn small_screens_do_no_harm() {
    let mut shown = waiting();
    for page in ['1', '2', '3', '4', '?'] {
        shown.press(&[KeyCode::Char(page)]);
        for (width, height) in [(1, 1), (5, 3), (20, 5), (79, 7), (300, 80)] {
            shown.screen(width, height);
        }
    }
}

/// Compares with what was kept; `SOCKWATCH_SCREENS=record` keeps it anew.
#[track_caller]
fn kept(screen: &str, name: &str) {
    let path = format!("{}/tests/screens/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("SOCKWATCH_SCREENS").is_some_and(|value| value == "record") {
        fs::write(&path, screen).unwrap();
    }
    assert_eq!(screen, fs::read_to_string(path).unwrap(), "{name}");
}
