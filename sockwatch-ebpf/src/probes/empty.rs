//! A program that does nothing: the yardstick that the benchmark holds the others against.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

#[btf_tracepoint(function = "inet_sock_set_state")]
fn empty(_ctx: BtfTracePointContext) -> i32 {
    0
}
