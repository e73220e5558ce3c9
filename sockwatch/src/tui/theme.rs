//! Colours, or none: without them nothing that matters is lost.

use ratatui::style::{Color, Modifier, Style};

use crate::tcp::state::TcpState;

/// How things look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// In the terminal's sixteen colours, which its user has chosen.
    Coloured,
    /// Bold, dim and reversed only.
    Plain,
}

impl Theme {
    fn colour(self, colour: Color) -> Style {
        match self {
            Self::Coloured => Style::new().fg(colour),
            Self::Plain => Style::new(),
        }
    }

    /// What is wrong.
    pub fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// What may become so.
    pub fn doubtful(self) -> Style {
        self.colour(Color::Yellow)
    }

    /// What is well.
    pub fn good(self) -> Style {
        self.colour(Color::Green)
    }

    /// Headings.
    pub fn heading(self) -> Style {
        self.colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// What is beside the point.
    pub fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// The chosen row or page.
    pub fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// A state: what nobody may forget is yellow, what is going is dim.
    pub fn state(self, state: TcpState) -> Style {
        match state {
            TcpState::Established => self.good(),
            TcpState::Listen => self.colour(Color::Cyan),
            TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv => self.colour(Color::Blue),
            TcpState::CloseWait => self.doubtful(),
            TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck => {
                self.colour(Color::Magenta)
            }
            TcpState::TimeWait | TcpState::Close | TcpState::BoundInactive => self.dim(),
        }
    }
}
