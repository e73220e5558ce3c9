//! The screen of `sockwatch top`. Pure: an overview and keys in, a frame out.

pub mod draw;
mod theme;
mod ui;

pub use self::{
    theme::Theme,
    ui::{Action, FindNetns, Page, Ui},
};
