//! `sockwatch top`: the screen for an incident, live or from a recording.

mod terminal;

use std::{
    cell::Cell,
    io::{self, IsTerminal},
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use ratatui::crossterm::event::{self, MouseEventKind};
use sockwatch::{
    monotonic::now_ns,
    overview::{Model, Place},
    pipeline::{self, Limits, Totals},
    privilege::role::TOP,
    process::names::Names,
    recording::{Mark, Said},
    sink::{Sight, Sink, quantity::Size, selected::Selection, wall::Wall},
    source::recording::{
        Opened,
        player::{Play, Player},
    },
    tcp::{tracker::Tracker, update::Update},
    tui::{
        Action, Theme, Ui,
        draw::{self, Playing, Scene},
    },
};
use tokio::sync::Notify;

use self::terminal::Screen;
use super::{
    diagnose, filter,
    replay::{self, open, open_again, warn},
    signals::Stop,
    start::{self, Started},
    tell, time_of_day,
    trace::summary,
    wants_colour,
};
use crate::cli::TopArgs;

/// Between two frames when no key was pressed.
const FRAME: Duration = Duration::from_millis(250);

/// A recording is not played faster, nor slower.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.0625..=1024.0;

const SECOND_NS: u64 = 1_000_000_000;

pub(crate) fn run(args: &TopArgs) -> anyhow::Result<std::process::ExitCode> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("top needs a terminal; `sockwatch list` and `sockwatch diagnose` print the same for pipes and files");
    }
    let totals = if args.recording.is_empty() { live(args)? } else { recorded(args)? };
    summary(&totals.0, totals.1);
    Ok(std::process::ExitCode::SUCCESS)
}

/// What is seen, and bytes that were read for it.
type Seen = (Totals, u64);

fn live(args: &TopArgs) -> anyhow::Result<Seen> {
    let resolved = filter::resolve(&args.filter)?;
    start::prepare();
    start::runtime()?.block_on(async {
        let is_free = Arc::new(AtomicBool::new(true));
        let stop = Stop::with_terminal(&is_free)?;
        let mut source = start::source(&args.collect, &resolved)?;
        if let Started::Live(live) = &source {
            start::warn(live);
        }
        let place = Place {
            source: if matches!(source, Started::Live(_)) { "eBPF" } else { "polling" }.into(),
            host: host(),
            wall: time_of_day::follow()?,
            span_ns: None,
        };
        let model = Model::new(place, now_ns(), diagnose::nanoseconds(args.slow));
        let mut top = Top::open(args, model, Selection::default(), None, is_free)?;
        source.confine_to(&TOP, args.collect.sandbox.wanted());
        let wishes = Rc::clone(&top.wishes);
        let over = async {
            tokio::select! {
                () = stop.wait() => wishes.leaves.set(true),
                () = wishes.over.notified() => {}
            }
        };
        let totals = pipeline::run(&mut source, &mut top, Limits::default(), over).await;
        drop(top);
        Ok((totals?, source.bytes()))
    })
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn recorded(args: &TopArgs) -> anyhow::Result<Seen> {
    let files = open(&args.recording)?;
    let header = files.header().clone();
    // What is wrong with it is said before the terminal is taken.
    let shown = replay::filter(&args.filter)?;
    let bytes = args.recording.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
    tell(format_args!("sockwatch: looking how long {} of recording are ...", Size(bytes)));
    let span_ns = (header.started_ns, end_of(args)?.max(header.started_ns + 1));
    let place = Place {
        source: name_of(args),
        host: header.host.clone(),
        wall: Wall::of(header.wall_offset_ns),
        span_ns: Some(span_ns),
    };
    let play = Play { paused: false, speed: args.speed, target_ns: None, at_ns: header.started_ns, is_over: false };
    let play = Rc::new(Cell::new(play));
    let slow_ns = diagnose::nanoseconds(args.slow);
    let model = Model::new(place.clone(), header.started_ns, slow_ns);
    start::runtime()?.block_on(async {
        let is_free = Arc::new(AtomicBool::new(true));
        let stop = Stop::with_terminal(&is_free)?;
        let mut top = Top::open(args, model, shown, Some(Rc::clone(&play)), is_free)?;
        let stop = stop.wait();
        tokio::pin!(stop);
        loop {
            let Opened { recording, ended: _ } = open_again(&args.recording)?.recording(None);
            let place = Place { wall: recording.wall(), ..place.clone() };
            top.begin_again(Model::new(place, header.started_ns, slow_ns));
            top.ui.selection.names = Names::told(recording.names());
            let mut player = Player::new(recording, Rc::clone(&play));
            let wishes = Rc::clone(&top.wishes);
            let over = async {
                tokio::select! {
                    () = &mut stop => wishes.leaves.set(true),
                    () = wishes.over.notified() => {}
                }
            };
            let totals = pipeline::run(&mut player, &mut top, Limits::default(), over).await?;
            if let Some(target_ns) = wishes.back_to_ns.take() {
                // Back is from the beginning, as fast as it goes.
                play.set(Play { at_ns: header.started_ns, target_ns: Some(target_ns), is_over: false, ..play.get() });
                continue;
            }
            drop(top);
            player.recording().read().iter().for_each(warn);
            if let Some(damage) = player.recording().damage() {
                bail!("{damage}; all else was shown");
            }
            return Ok((totals, player.recording().bytes()));
        }
    })
}

fn name_of(args: &TopArgs) -> String {
    let name = args.recording.first().and_then(|path| path.file_name());
    let name = name.map(|name| name.to_string_lossy().replace(char::is_control, "?")).unwrap_or_default();
    match args.recording.len() {
        1 => name,
        files => format!("{name} and {} more", files - 1),
    }
}

/// When the recording ends: its last tick.
fn end_of(args: &TopArgs) -> anyhow::Result<u64> {
    let mut last_ns = 0;
    let mut said = Said::default();
    for mut file in open_again(&args.recording)?.into_readers() {
        // Damage is told when it is reached.
        while let Ok(true) = file.next(&mut said) {
            let ticks = said.marks.iter().filter_map(|(_, mark)| match mark {
                Mark::Tick { now_ns } => Some(*now_ns),
                _ => None,
            });
            last_ns = ticks.max().unwrap_or(0).max(last_ns);
            said.clear();
        }
    }
    Ok(last_ns)
}

/// What keys ask of those who run it.
#[derive(Default)]
struct Wishes {
    over: Notify,
    /// A signal has come: the terminal is given back before anything is waited for; the next signal ends the process then.
    leaves: Cell<bool>,
    /// Of a recording: to be wound back.
    back_to_ns: Cell<Option<u64>>,
}

/// The sink that draws.
struct Top {
    screen: Option<Screen>,
    model: Model,
    ui: Ui,
    theme: Theme,
    play: Option<Rc<Cell<Play>>>,
    wishes: Rc<Wishes>,
    /// Live, and nothing is to move.
    frozen: Option<Box<Frozen>>,
    drawn: Option<Instant>,
}

/// Everything as it was at an instant: what a key shows then is of that instant, too, while events go on to be taken in.
struct Frozen {
    model: Model,
    tracker: Tracker,
    now_ns: u64,
}

impl Top {
    /// `play` is how a recording is played.
    fn open(
        args: &TopArgs,
        model: Model,
        shown: Selection,
        play: Option<Rc<Cell<Play>>>,
        is_free: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let theme = if wants_colour() { Theme::Coloured } else { Theme::Plain };
        let ui = Ui::filtered(shown, args.find.as_deref().unwrap_or_default(), filter::find_netns);
        let screen = Some(Screen::open(is_free).context("cannot use the terminal")?);
        let wishes = Rc::new(Wishes::default());
        Ok(Self { screen, model, ui, theme, play, wishes, frozen: None, drawn: None })
    }

    /// Who looks at a connection goes on to.
    fn begin_again(&mut self, model: Model) {
        let watched = self.model.watched();
        (self.model, self.drawn) = (model, None);
        if let Some((key, incarnation)) = watched {
            self.model.watch(key, incarnation);
        }
    }

    fn is_live(&self) -> bool {
        self.play.is_none()
    }

    fn freeze(&mut self, sight: &Sight<'_>) {
        self.frozen = match self.frozen.take() {
            Some(_thaws) => None,
            None => {
                let (model, tracker) = (self.model.still(), sight.tracker.clone());
                Some(Box::new(Frozen { model, tracker, now_ns: sight.now_ns }))
            }
        };
    }

    fn act(&mut self, action: Action, sight: &Sight<'_>) {
        let play = self.play.as_ref().map(|play| play.get());
        match action {
            Action::Quit => {
                // At once, whatever is still to be waited for.
                self.screen = None;
                self.wishes.over.notify_one();
            }
            Action::Pause if self.is_live() => self.freeze(sight),
            Action::Watch(key, incarnation) => self.model.watch(key, incarnation),
            Action::Pause => self.change(|play| play.paused = !play.paused),
            Action::Faster => self.change(|play| play.speed = (play.speed * 2.0).min(*SPEEDS.end())),
            Action::Slower => self.change(|play| play.speed = (play.speed / 2.0).max(*SPEEDS.start())),
            Action::Seek(seconds) => {
                if let Some(play) = play {
                    let by_ns = seconds.unsigned_abs() * SECOND_NS;
                    let at_ns = play.target_ns.unwrap_or(play.at_ns);
                    let to_ns = if seconds < 0 { at_ns.saturating_sub(by_ns) } else { at_ns.saturating_add(by_ns) };
                    self.seek(to_ns);
                }
            }
            Action::SeekTo(share) => {
                if let Some((from_ns, to_ns)) = self.model.span_ns() {
                    self.seek(from_ns.saturating_add((to_ns.saturating_sub(from_ns) as f64 * share) as u64));
                }
            }
        }
    }

    fn change(&self, how: impl FnOnce(&mut Play)) {
        if let Some(cell) = &self.play {
            let mut play = cell.get();
            how(&mut play);
            cell.set(play);
        }
    }

    fn seek(&self, to_ns: u64) {
        let Some((from_ns, end_ns)) = self.model.span_ns() else { return };
        let to_ns = to_ns.clamp(from_ns, end_ns);
        let at_ns = self.play.as_ref().map_or(0, |play| play.get().at_ns);
        if to_ns >= at_ns {
            self.change(|play| play.target_ns = Some(to_ns));
        } else {
            self.wishes.back_to_ns.set(Some(to_ns));
            self.wishes.over.notify_one();
        }
    }

    /// Takes in what the person has done. Returns whether there was anything.
    fn listen(&mut self, sight: &Sight<'_>) -> io::Result<bool> {
        let mut any = false;
        while self.screen.is_some() && event::poll(Duration::ZERO)? {
            let event = event::read()?;
            // The pointer passes over: nothing is asked.
            if matches!(event, event::Event::Mouse(mouse) if mouse.kind == MouseEventKind::Moved) {
                continue;
            }
            any = true;
            let action = match event {
                event::Event::Key(key) => self.ui.key(key),
                event::Event::Mouse(mouse) => self.ui.mouse(mouse),
                _ => None,
            };
            if let Some(action) = action {
                self.act(action, sight);
            }
        }
        Ok(any)
    }
}

impl Sink for Top {
    fn wants(&mut self, update: &Update) -> bool {
        self.ui.selection.passes(update)
    }

    fn update(&mut self, update: &Update) -> io::Result<()> {
        self.model.take(update);
        Ok(())
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        self.model.count(totals);
        Ok(())
    }

    fn look(&mut self, sight: &Sight<'_>) -> io::Result<()> {
        if self.model.look(sight, &mut self.ui.selection) && self.is_live() {
            let unknown = self.model.opens_in();
            for (netns, settings) in diagnose::ports::settings(&unknown) {
                self.model.settle(netns, settings);
            }
        }
        if self.wishes.leaves.get() {
            self.screen = None;
        }
        let asked = self.listen(sight)?;
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME) && self.frozen.is_none();
        let (true, Some(screen)) = (asked || is_due, &mut self.screen) else { return Ok(()) };
        self.drawn = Some(Instant::now());
        let play = self.play.as_ref().map(|play| play.get());
        let (sight, model) = match self.frozen.as_deref() {
            Some(Frozen { model, tracker, now_ns }) => (Sight { now_ns: *now_ns, tracker, ..*sight }, model),
            None => (*sight, &self.model),
        };
        let scene = Scene {
            sight,
            model,
            playing: play.map(|play| Playing { at_ns: play.at_ns, speed: play.speed, is_over: play.is_over }),
            is_paused: self.frozen.is_some() || play.is_some_and(|play| play.paused),
            theme: self.theme,
        };
        let ui = &mut self.ui;
        screen.draw(|frame| draw::draw(frame, &scene, ui))
    }
}
