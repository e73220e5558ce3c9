//! The terminal, as it was, whatever ends the program.

use std::{
    io::{self, stdout},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::{
        event::{self, DisableMouseCapture, EnableMouseCapture},
        execute,
    },
};

/// The whole terminal, until it is dropped; a panic gives it back, too.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// Whether it is given back.
    is_free: Arc<AtomicBool>,
}

impl Screen {
    pub(super) fn open(is_free: Arc<AtomicBool>) -> io::Result<Self> {
        is_free.store(false, Ordering::SeqCst);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = execute!(stdout(), DisableMouseCapture);
            before(panic);
        }));
        // It has a hook of its own for everything but the mouse.
        let terminal = ratatui::try_init()?;
        let screen = Self { terminal, is_free };
        execute!(stdout(), EnableMouseCapture)?;
        // What hears keys and signals is opened by the first look, and a thread that has confined itself could not.
        event::poll(Duration::ZERO)?;
        Ok(screen)
    }

    pub(super) fn draw(&mut self, how: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(how).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(stdout(), DisableMouseCapture);
        ratatui::restore();
        self.is_free.store(true, Ordering::SeqCst);
    }
}
