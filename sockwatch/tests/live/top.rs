//! `sockwatch top` on a real terminal: tmux's.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    harness::{choices, patience, shared, skip, sockwatch},
    privileges::assert_confined,
    workload::place,
};

/// A terminal with a shell in it, gone at the end.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// `None` where there is no tmux.
    fn open(name: &str, width: u16, height: u16) -> Option<Self> {
        Command::new("tmux").arg("-V").output().ok().filter(|output| output.status.success())?;
        let terminal = Self { socket: format!("sockwatch-{name}-{}", std::process::id()) };
        let (width, height) = (width.to_string(), height.to_string());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, "sh"]);
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The program that the shell runs.
    fn program(&self) -> u32 {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.trim())).unwrap();
        children.trim().parse().unwrap()
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is so.
    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return screen;
            }
            assert!(begun.elapsed() < patience(), "not {what}:\n{screen}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

/// The command line of the program under test, for a shell.
fn command(arguments: &[&str]) -> String {
    let program = sockwatch();
    let words = [program.get_program().to_str().unwrap()].into_iter().map(str::to_owned);
    let words = words.chain(arguments.iter().map(|word| (*word).to_owned()));
    words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}

/// Whether the shell has its terminal back: it echoes, reads lines and shows what was there before.
#[track_caller]
fn assert_restored(terminal: &Terminal, marker: &str) {
    terminal.until("ended", |screen| screen.contains(marker));
    terminal.press(&["stty -a | tr ' ' '\\n' | grep -cx -e icanon -e echo -e isig", "Enter"]);
    let screen = terminal.until("restored", |screen| screen.lines().any(|line| line.trim() == "3"));
    assert!(!screen.contains("Enter open"), "the screen of the program is gone:\n{screen}");
}

#[test]
fn a_full_queue_is_seen_and_the_terminal_comes_back() {
    let name = "a_full_queue_is_seen_and_the_terminal_comes_back";
    let Some(_machine) = shared(name) else { return };
    let Some(terminal) = Terminal::open("top", 80, 24) else { return skip(name, "there is no tmux") };
    let address = place();
    let listener = TcpListener::bind(address).unwrap();
    let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    let port = address.port().to_string();
    let probes = choices();
    let arguments: Vec<&str> = ["top", "--port", &port].into_iter().chain(probes.iter().map(String::as_str)).collect();
    terminal.press(&[&format!("{}; echo ended $?", command(&arguments)), "Enter"]);
    // They were there before: the first listing tells.
    terminal.until("three wait", |screen| screen.contains(&address.to_string()) && screen.contains(" 3/"));
    assert_confined(terminal.program());
    // One more, as it happens.
    let _fourth = TcpStream::connect(address).unwrap();
    terminal.until("four wait", |screen| screen.contains(" 4/"));
    let accepted = listener.accept().unwrap();
    terminal.until("three wait again", |screen| screen.contains(" 3/"));
    terminal.press(&["2"]);
    terminal.until("eight ends", |screen| screen.contains("8 connections") && screen.contains("queued "));
    terminal.press(&["/", "time_wait", "Enter"]);
    terminal.until("none fits", |screen| screen.contains("0 of 8 connections"));
    terminal.press(&["Escape"]);
    terminal.until("all again", |screen| screen.contains("\n8 connections"));
    terminal.tmux(&["resize-window", "-x", "120", "-y", "40"]);
    terminal.press(&["?"]);
    terminal.until("help", |screen| {
        let is_there = screen.contains("accept queue wait of the last") && screen.lines().count() > 24;
        if !is_there {
            // A key that comes together with a new size is heard with the next one only (crossterm 0.29). This one does nothing.
            terminal.press(&["Down"]);
        }
        is_there
    });
    terminal.press(&["x", "1"]);
    terminal.until("the listeners", |screen| screen.contains(" 3/"));

    // Frozen, keys show what there was; a connection that comes meanwhile is there afterwards.
    terminal.press(&["Space"]);
    terminal.until("frozen", |screen| screen.contains("PAUSED"));
    let _fifth = TcpStream::connect(address).unwrap();
    for _ in 0..10 {
        terminal.press(&["2"]);
        terminal.until("what there was", |screen| screen.contains("\n8 connections"));
        terminal.press(&["1"]);
        terminal.until("its queue", |screen| screen.contains(" 3/"));
    }
    terminal.press(&["Space"]);
    terminal.until("four wait", |screen| screen.contains(" 4/") && !screen.contains("PAUSED"));
    terminal.press(&["q"]);
    assert_restored(&terminal, "ended 0");
    drop(accepted);
}

/// However many signals come, the terminal is given back before one of them ends the process.
#[test]
fn signals_give_the_terminal_back() {
    let name = "signals_give_the_terminal_back";
    let Some(_machine) = shared(name) else { return };
    let Some(terminal) = Terminal::open("signals", 80, 24) else { return skip(name, "there is no tmux") };
    let probes = choices();
    let arguments: Vec<&str> = ["top", "--port", "1"].into_iter().chain(probes.iter().map(String::as_str)).collect();
    terminal.press(&[&format!("{}; echo ended $?", command(&arguments)), "Enter"]);
    terminal.until("it runs", |screen| screen.contains("events/s"));
    let program = Pid::from_raw(terminal.program().try_into().unwrap());
    while kill(program, Signal::SIGTERM).is_ok() {}
    assert_restored(&terminal, "ended ");
}

/// `top` takes the terminal only when it knows that there is something to show: what is wrong is said before.
#[test]
fn a_namespace_s_name_is_not_in_a_recording() {
    let Some(terminal) = Terminal::open("names", 80, 24) else {
        return skip("a_namespace_s_name_is_not_in_a_recording", "there is no tmux");
    };
    let played = command(&["top", "--recording", RECORDING, "--netns", "no-such-name"]);
    terminal.press(&[&format!("{played}; echo ended $?"), "Enter"]);
    let screen = terminal.until("refused", |screen| screen.contains("ended 2"));
    // It breaks lines anywhere.
    let said: String = screen.split_whitespace().collect();
    assert!(said.contains("holdsthenumbersofnetworknamespaces,nottheirnames"), "{screen}");
}

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings/format-1.0.swr");

/// A recording is played, wound to its end and back.
#[test]
fn a_recording_is_wound() {
    let Some(_machine) = shared("a_recording_is_wound") else { return };
    let Some(terminal) = Terminal::open("wound", 80, 24) else {
        return skip("a_recording_is_wound", "there is no tmux");
    };
    if !std::path::Path::new(RECORDING).exists() {
        return skip("a_recording_is_wound", "the recording is not on this machine");
    }
    // With an empty file beside it, of which something is to be said: once, and not over the screen.
    let empty = std::env::temp_dir().join(format!("sockwatch-empty-{}.swr", std::process::id()));
    std::fs::write(&empty, "").unwrap();
    let played = command(&["top", "--recording", RECORDING, empty.to_str().unwrap(), "--speed", "0.001"]);
    terminal.press(&[&format!("{played}; echo ended $?"), "Enter"]);
    terminal.press(&["2"]);
    terminal.until("its beginning", |screen| screen.contains("web-1") && screen.contains("connections"));
    terminal.press(&["Right"]);
    terminal.until("its end", |screen| screen.contains(" end ") && screen.contains("TIME_WAIT"));
    terminal.press(&["Left"]);
    let again = terminal.until("its beginning again", |screen| screen.contains(" > ") && !screen.contains("TIME_WAIT"));
    assert!(!again.contains("warning"), "{again}");
    // One that somebody looks at is found again, on the way back and on.
    terminal.press(&["+", "+", "+", "+", "+", "+"]);
    terminal.until("a connection", |screen| screen.contains("ESTABLISHED"));
    terminal.press(&["Space", "Enter"]);
    let opened = terminal.until("a timeline", |screen| screen.contains("part        "));
    let ends = opened.lines().nth(3).unwrap().to_owned();
    terminal.press(&["Right"]);
    terminal.until("its end", |screen| screen.contains(&ends) && screen.contains("  ended  "));
    terminal.press(&["Left"]);
    terminal.until("before it began", |screen| screen.contains("is not there yet"));
    terminal.press(&["Right"]);
    let end = terminal.until("its end again", |screen| screen.contains(&ends) && screen.contains("  ended  "));
    assert!(!end.contains("warning"), "{end}");
    terminal.press(&["q"]);
    assert_restored(&terminal, "ended 0");
    let said = terminal.screen();
    assert_eq!(said.matches("is empty, and is left out").count(), 1, "{said}");
    std::fs::remove_file(empty).unwrap();
}
