//! Values of the kernel boundary, as maps take them.

use aya::Pod;
use sockwatch_common::Plain;

/// A value of a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bytes<T>(pub(super) T);

// SAFETY: a transparent `Plain`: every byte pattern is a value.
unsafe impl<T: Plain> Pod for Bytes<T> {}
