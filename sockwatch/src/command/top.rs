//! `sockwatch top`: the screen for an incident, live or from a recording.

mod terminal;

use std::{
    cell::Cell,
    io::{self, IsTerminal},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use ratatui::crossterm::event;
use sockwatch::{
    monotonic::{now_ns, wall_offset_ns},
    overview::{Model, Place},
    pipeline::{self, Limits, Totals},
    privilege::role::TOP,
    process::names::Names,
    recording::{Mark, Said},
    sink::{
        Sight, Sink,
        quantity::Size,
        selected::{Selected, Selection},
    },
    source::recording::{
        Opened, Recording,
        player::{Play, Player},
    },
    tcp::update::Update,
    tui::{
        Action, Theme, Ui,
        draw::{self, Playing, Scene},
    },
};
use tokio::sync::Notify;

use self::terminal::Screen;
use super::{
    diagnose, filter,
    replay::{self, open, warn},
    signals::Stop,
    start::{self, Started},
    tell,
    trace::summary,
    wants_colour,
};
use crate::cli::{FilterArgs, TopArgs};

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
        let stop = Stop::register()?;
        let mut source = start::source(&args.collect, &resolved)?;
        if let Started::Live(live) = &source {
            start::warn(live);
        }
        let place = Place {
            source: if matches!(source, Started::Live(_)) { "eBPF" } else { "polling" }.into(),
            host: host(),
            wall_offset_ns: wall_offset_ns(),
            span_ns: None,
        };
        let model = Model::new(place, now_ns(), diagnose::nanoseconds(args.slow));
        let mut top = Top::open(args, model, None, true)?;
        source.confine_to(&TOP, args.collect.sandbox.wanted());
        let wishes = Rc::clone(&top.wishes);
        let over = async {
            tokio::select! {
                () = stop.wait() => {}
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
    let header = files.first().context("no file")?.header().clone();
    let bytes = args.recording.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
    tell(format_args!("sockwatch: looking how long {} of recording are ...", Size(bytes)));
    let span_ns = (header.started_ns, end_of(args)?.max(header.started_ns + 1));
    let place = Place {
        source: name_of(args),
        host: header.host.clone(),
        wall_offset_ns: header.wall_offset_ns,
        span_ns: Some(span_ns),
    };
    let play = Play { paused: false, speed: args.speed, target_ns: None, at_ns: header.started_ns, is_over: false };
    let play = Rc::new(Cell::new(play));
    let slow_ns = diagnose::nanoseconds(args.slow);
    let mut top =
        Top::open(args, Model::new(place.clone(), header.started_ns, slow_ns), Some(Rc::clone(&play)), false)?;
    let mut stops = Vec::new();
    start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let stop = stop.wait();
        tokio::pin!(stop);
        loop {
            let Opened { mut recording, ended: _ } = Recording::of(open(&args.recording)?, None);
            let selection = selection(&args.filter, &mut recording)?;
            let mut player = Player::new(recording, Rc::clone(&play));
            let wishes = Rc::clone(&top.wishes);
            let over = async {
                tokio::select! {
                    () = &mut stop => {}
                    () = wishes.over.notified() => {}
                }
            };
            let mut selected = Selected { sink: &mut top, selection: Some(selection) };
            let totals = pipeline::run(&mut player, &mut selected, Limits::default(), over).await?;
            if let Some(target_ns) = wishes.back_to_ns.take() {
                // Back is from the beginning, as fast as it goes.
                top.begin_again(Model::new(place.clone(), header.started_ns, slow_ns));
                play.set(Play { at_ns: header.started_ns, target_ns: Some(target_ns), is_over: false, ..play.get() });
                continue;
            }
            drop(top);
            player.recording().read().iter().for_each(warn);
            stops.extend(player.recording().damage().map(ToOwned::to_owned));
            if let Some(damage) = stops.first() {
                bail!("{damage}; what is before that was shown");
            }
            return Ok((totals, player.recording().bytes()));
        }
    })
}

fn selection(args: &FilterArgs, recording: &mut Recording) -> anyhow::Result<Selection> {
    Ok(Selection { names: Names::told(recording.names()), ..replay::filter(args)? })
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
    for mut file in open(&args.recording)? {
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
    is_frozen: bool,
    is_live: bool,
    drawn: Option<Instant>,
}

impl Top {
    fn open(args: &TopArgs, model: Model, play: Option<Rc<Cell<Play>>>, is_live: bool) -> anyhow::Result<Self> {
        let theme = if wants_colour() { Theme::Coloured } else { Theme::Plain };
        // Of a recording everything is followed, whatever is shown.
        let words = if is_live { String::new() } else { args.filter.words() };
        let ui = Ui::filtered(&[words.as_str(), args.find.as_deref().unwrap_or_default()].join(" "));
        let screen = Some(Screen::open().context("cannot use the terminal")?);
        let wishes = Rc::new(Wishes::default());
        Ok(Self { screen, model, ui, theme, play, wishes, is_frozen: false, is_live, drawn: None })
    }

    fn begin_again(&mut self, model: Model) {
        (self.model, self.drawn) = (model, None);
    }

    fn act(&mut self, action: Action) {
        let play = self.play.as_ref().map(|play| play.get());
        match action {
            Action::Quit => {
                // At once, whatever is still to be waited for.
                self.screen = None;
                self.wishes.over.notify_one();
            }
            Action::Pause if self.is_live => self.is_frozen = !self.is_frozen,
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
    fn listen(&mut self) -> io::Result<bool> {
        let mut any = false;
        while self.screen.is_some() && event::poll(Duration::ZERO)? {
            any = true;
            let action = match event::read()? {
                event::Event::Key(key) => self.ui.key(key),
                event::Event::Mouse(mouse) => self.ui.mouse(mouse),
                _ => None,
            };
            if let Some(action) = action {
                self.act(action);
            }
        }
        Ok(any)
    }
}

impl Sink for Top {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        self.model.take(update);
        Ok(())
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        self.model.count(totals);
        Ok(())
    }

    fn look(&mut self, sight: &Sight<'_>) -> io::Result<()> {
        if self.model.look(sight) && self.is_live {
            let unknown = self.model.opens_in().collect();
            for (netns, settings) in diagnose::ports::settings(&unknown) {
                self.model.settle(netns, settings);
            }
        }
        let asked = self.listen()?;
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME) && !self.is_frozen;
        let (true, Some(screen)) = (asked || is_due, &mut self.screen) else { return Ok(()) };
        self.drawn = Some(Instant::now());
        let play = self.play.as_ref().map(|play| play.get());
        let scene = Scene {
            sight: *sight,
            model: &self.model,
            playing: play.map(|play| Playing { at_ns: play.at_ns, speed: play.speed, is_over: play.is_over }),
            is_paused: self.is_frozen || play.is_some_and(|play| play.paused),
            theme: self.theme,
        };
        let ui = &mut self.ui;
        screen.draw(|frame| draw::draw(frame, &scene, ui))
    }
}
