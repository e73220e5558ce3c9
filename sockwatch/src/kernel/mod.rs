//! The kernel's side: the only place that names aya, and the only one with unsafe code.
#![allow(unsafe_code, reason = "eBPF objects and ring buffers are shared with the kernel")]

pub mod btf;
mod bytes;
pub mod check;
pub mod clock;
pub mod format;
pub mod gauge;
pub mod layout;
#[cfg(feature = "probe-log")]
mod log;
pub mod probes;
pub mod refusal;
pub mod ring;
pub mod session;
pub mod tallies;
pub mod threads;
pub mod tracefs;
