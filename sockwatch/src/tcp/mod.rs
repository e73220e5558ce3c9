//! What sockwatch knows of TCP: states, events, connections. Pure: a function of its input, with no I/O, no clock,
//! no thread; time is an argument.

#[cfg(test)]
pub(crate) mod arbitrary;
pub mod close;
pub mod connection;
pub mod decode;
pub mod endpoint;
pub mod event;
pub mod filter;
pub mod listing;
pub mod loss;
pub mod minisock;
pub mod notation;
pub mod order;
pub mod queue;
pub mod reset;
pub mod sentence;
pub mod state;
pub mod tracker;
pub mod update;
