//! What the person at the screen has chosen. Keys and clicks in; what concerns others comes out.

use ratatui::{
    crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind},
    layout::{Position, Rect},
};

use crate::{
    diagnosis::finding::{Name, Place},
    overview::{Column, Order, Words, WordsError},
    sink::selected::Selection,
    tcp::event::SocketKey,
};

/// Lines that the wheel moves.
const WHEEL: isize = 3;

/// How far an arrow goes in a recording, in seconds.
const SEEK_S: i64 = 5;

/// What may be typed.
const MOST_TYPED: usize = 200;

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Listeners and their accept queues.
    Listeners,
    /// Connections, and what they left.
    Connections,
    /// Sockets by state over time, and local ports.
    States,
    /// What is wrong.
    Findings,
}

impl Page {
    /// All, in the order of their keys.
    pub const ALL: [Self; 4] = [Self::Listeners, Self::Connections, Self::States, Self::Findings];

    /// Its title.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Listeners => "Listeners",
            Self::Connections => "Connections",
            Self::States => "States",
            Self::Findings => "Findings",
        }
    }
}

/// One of them, closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Listener(SocketKey),
    /// And which of its lives.
    Connection(SocketKey, u32),
    /// Its rank may be another one a second later.
    Finding(Name, Place),
}

/// What somebody else has to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// End.
    Quit,
    /// Stand still, or go on.
    Pause,
    /// Go so many seconds on, or back.
    Seek(i64),
    /// Go to this share of the recording.
    SeekTo(f64),
    /// Play twice as fast.
    Faster,
    /// Play half as fast.
    Slower,
    /// This connection's end is of interest.
    Watch(SocketKey, u32),
}

/// Which number the network namespace of this name has.
pub type FindNetns = fn(&str) -> Option<u32>;

/// The choices. What was drawn last is noted in it, so that clicks find it.
#[derive(Debug)]
pub struct Ui {
    /// What is shown at all; what is typed chooses from it.
    pub selection: Selection,
    pub(super) find: FindNetns,
    pub(super) page: Page,
    cursors: [usize; Page::ALL.len()],
    pub(super) order: Order,
    pub(super) typed: String,
    pub(super) words: Words,
    pub(super) error: Option<WordsError>,
    pub(super) typing: bool,
    pub(super) detail: Option<Detail>,
    /// Lines above the detail's first one.
    pub(super) scroll: usize,
    pub(super) help: bool,
    pub(super) drawn: Drawn,
}

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    /// Pages' titles.
    pub(super) tabs: Vec<Rect>,
    /// The first row of the list.
    pub(super) first: usize,
    /// How many there are in all.
    pub(super) length: usize,
    /// Where each stands, and what.
    pub(super) rows: Vec<(Rect, Detail)>,
    /// Lines that there is room for, of a list or of what is scrolled.
    pub(super) height: u16,
    /// Lines of what is scrolled.
    pub(super) lines: usize,
    /// The recording's bar.
    pub(super) bar: Rect,
    /// Headings of columns.
    pub(super) headings: Vec<(Rect, Column)>,
}

impl Default for Ui {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            find: |_| None,
            page: Page::Listeners,
            cursors: [0; Page::ALL.len()],
            order: Order { by: Column::Age, descending: true },
            typed: String::new(),
            words: Words::default(),
            error: None,
            typing: false,
            detail: None,
            scroll: 0,
            help: false,
            drawn: Drawn::default(),
        }
    }
}

impl Ui {
    /// Begins with a filter, as it would be typed.
    pub fn filtered(selection: Selection, words: &str, find: FindNetns) -> Self {
        let mut ui = Self { selection, find, typed: words.trim().to_owned(), ..Self::default() };
        ui.parse();
        ui
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) -> Option<Action> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Action::Quit);
        }
        if self.typing {
            self.type_in(key.code);
            return None;
        }
        if let Some(by) = self.movement(key.code) {
            self.go(by);
            return None;
        }
        if self.help {
            // Any other key closes it.
            self.help = false;
            self.scroll = 0;
            return (key.code == KeyCode::Char('q')).then_some(Action::Quit);
        }
        match key.code {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Esc if self.detail.is_some() => self.detail = None,
            KeyCode::Esc => self.search(""),
            KeyCode::Backspace => self.detail = None,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => (self.help, self.scroll) = (true, 0),
            KeyCode::Char('/') => self.begin_to_type(),
            KeyCode::Char(' ') => return Some(Action::Pause),
            KeyCode::Right => return Some(Action::Seek(SEEK_S)),
            KeyCode::Left => return Some(Action::Seek(-SEEK_S)),
            KeyCode::Char('+' | '=') => return Some(Action::Faster),
            KeyCode::Char('-') => return Some(Action::Slower),
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Page::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='4') => self.open(Page::ALL[digit as usize - '1' as usize]),
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => self.order.descending = !self.order.descending,
            KeyCode::Enter => return self.enter(),
            _ => {}
        }
        None
    }

    /// By how much a key moves.
    fn movement(&self, code: KeyCode) -> Option<isize> {
        Some(match code {
            KeyCode::Down | KeyCode::Char('j') => 1,
            KeyCode::Up | KeyCode::Char('k') => -1,
            KeyCode::PageDown => self.page_height(),
            KeyCode::PageUp => -self.page_height(),
            KeyCode::Home | KeyCode::Char('g') => isize::MIN,
            KeyCode::End | KeyCode::Char('G') => isize::MAX,
            _ => return None,
        })
    }

    /// The mouse did something.
    pub fn mouse(&mut self, event: MouseEvent) -> Option<Action> {
        let at = Position { x: event.column, y: event.row };
        match event.kind {
            MouseEventKind::ScrollDown => self.go(WHEEL),
            MouseEventKind::ScrollUp => self.go(-WHEEL),
            MouseEventKind::Down(MouseButton::Left) => return self.click(at),
            _ => {}
        }
        None
    }

    fn click(&mut self, at: Position) -> Option<Action> {
        if let Some(page) = self.drawn.tabs.iter().position(|tab| tab.contains(at)) {
            self.open(Page::ALL[page]);
            return None;
        }
        let bar = self.drawn.bar;
        if bar.contains(at) {
            return Some(Action::SeekTo(f64::from(at.x - bar.x) / f64::from(bar.width.max(1))));
        }
        if let Some((_, column)) = self.drawn.headings.iter().find(|(heading, _)| heading.contains(at)) {
            let column = *column;
            let descending = if column == self.order.by { !self.order.descending } else { self.order.descending };
            self.order = Order { by: column, descending };
            return None;
        }
        let row = self.drawn.rows.iter().position(|(place, _)| place.contains(at))?;
        let clicked = self.drawn.first + row;
        // The second click opens it.
        let was_chosen = self.cursor() == clicked;
        *self.cursor_mut() = clicked;
        if was_chosen { self.enter() } else { None }
    }

    /// The chosen row.
    pub(super) fn cursor(&self) -> usize {
        self.cursors[self.page as usize]
    }

    fn cursor_mut(&mut self) -> &mut usize {
        &mut self.cursors[self.page as usize]
    }

    /// The same where rows are of these heights.
    pub(super) fn window_of(&mut self, heights: &[usize], height: usize) -> usize {
        let length = heights.len();
        let cursor = self.cursor().min(length.saturating_sub(1));
        *self.cursor_mut() = cursor;
        let fits = |from: usize, to: usize| heights[from..to].iter().sum::<usize>() <= height;
        let mut first = self.drawn.first.min(cursor);
        while first < cursor && !fits(first, cursor + 1) {
            first += 1;
        }
        while first > 0 && fits(first - 1, length) {
            first -= 1;
        }
        (self.drawn.first, self.drawn.length) = (first, length);
        first
    }

    /// The first row on the screen, so that the chosen one is among as many as fit. Rows may have gone since.
    pub(super) fn window(&mut self, length: usize, height: usize) -> usize {
        let cursor = self.cursor().min(length.saturating_sub(1));
        *self.cursor_mut() = cursor;
        let least = (cursor + 1).saturating_sub(height);
        let first = self.drawn.first.clamp(least, cursor.max(least)).min(length.saturating_sub(height));
        (self.drawn.first, self.drawn.length) = (first, length);
        first
    }

    fn open(&mut self, page: Page) {
        (self.page, self.detail, self.help, self.scroll) = (page, None, false, 0);
        self.drawn.first = 0;
    }

    fn turn(&mut self, by: usize) {
        self.open(Page::ALL[(self.page as usize + by) % Page::ALL.len()]);
    }

    fn page_height(&self) -> isize {
        isize::try_from(self.drawn.height.max(2) - 1).unwrap_or(1)
    }

    fn go(&mut self, by: isize) {
        if self.help || self.detail.is_some() {
            let height = usize::from(self.drawn.height);
            self.scroll = self.scroll.saturating_add_signed(by).min(self.drawn.lines.saturating_sub(height));
            return;
        }
        let last = self.drawn.length.saturating_sub(1);
        let cursor = self.cursor().saturating_add_signed(by).min(last);
        *self.cursor_mut() = cursor;
    }

    fn enter(&mut self) -> Option<Action> {
        let chosen = self.cursor().checked_sub(self.drawn.first)?;
        let (_, detail) = *self.drawn.rows.get(chosen)?;
        (self.detail, self.scroll) = (Some(detail), 0);
        match detail {
            Detail::Connection(key, incarnation) => Some(Action::Watch(key, incarnation)),
            Detail::Listener(_) | Detail::Finding(..) => None,
        }
    }

    fn sort_by_next(&mut self) {
        let at = Column::ALL.iter().position(|column| *column == self.order.by).unwrap_or(0);
        self.order.by = Column::ALL[(at + 1) % Column::ALL.len()];
    }

    fn begin_to_type(&mut self) {
        self.open(Page::Connections);
        self.typing = true;
    }

    fn type_in(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.search("");
            }
            KeyCode::Backspace => {
                self.typed.pop();
                self.parse();
            }
            KeyCode::Char(letter) if self.typed.len() < MOST_TYPED && !letter.is_control() => {
                self.typed.push(letter);
                self.parse();
            }
            _ => {}
        }
    }

    fn search(&mut self, words: &str) {
        words.clone_into(&mut self.typed);
        self.parse();
    }

    /// Words that make no sense yet leave those before in force.
    fn parse(&mut self) {
        match Words::parse(&self.typed).and_then(|words| words.look_up(self.find)) {
            Ok(words) => (self.words, self.error) = (words, None),
            Err(error) => self.error = Some(error),
        }
    }
}
