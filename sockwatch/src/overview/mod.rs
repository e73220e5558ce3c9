//! What a person sees at a glance while events come: listeners, findings, sockets by state over the last minutes, and the
//! connections that fit a filter. Pure: the terminal's screen and the live page show the same. What can be read from the tracker
//! is read from it at that instant, so that nothing is kept twice.

mod model;
mod recap;
mod rows;
mod words;

pub use self::{
    model::{Model, Place, REMEMBERED, Second},
    rows::{Chosen, Column, Order, age_ns, choose, wait_ns},
    words::{Words, WordsError},
};
