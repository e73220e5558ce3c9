//! sockwatch: see what happens to TCP sockets inside the Linux kernel, over time.
//!
//! Data flows one way: a [`source`] reports events, [`tcp::order`] sorts them, [`tcp::tracker`] makes timelines of them,
//! a [`sink`] or the [`tui`] (of an [`overview`]) shows them; [`diagnosis`] judges them. Everything in [`tcp`] is pure and may be embedded elsewhere. [`explain`] says what the words mean.
#![deny(unsafe_code)]

pub mod chronicle;
pub mod diagnosis;
pub mod explain;
pub mod export;
pub mod kernel;
pub mod metrics;
pub mod monotonic;
pub mod otlp;
pub mod overview;
pub mod pipeline;
pub mod privilege;
pub mod process;
pub mod recording;
pub mod sink;
pub mod source;
pub mod tcp;
pub mod tui;
