//! The screen of `sockwatch top`. Pure: updates and keys in, a frame out. What is shown is drawn from the tracker as it is at that
//! instant, so that nothing is kept twice.

pub mod draw;
mod model;
mod rows;
mod theme;
mod ui;
mod words;

pub use self::{
    model::{Model, Place},
    theme::Theme,
    ui::{Action, Page, Ui},
    words::{Words, WordsError},
};
