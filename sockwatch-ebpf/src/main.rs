//! sockwatch's kernel-side programs. They read, filter and emit; meaning is made in userspace.
//!
//! One file per probe in `probes`, one that reads kernel memory, one that decides what passes, one that
//! keeps what cannot be decided yet, one that emits. Built for the BPF target only; elsewhere the crate is
//! an empty binary, so that the whole workspace builds, tests and lints on stable Rust.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod children;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod filter;
#[cfg(target_arch = "bpf")]
mod memory;
#[cfg(target_arch = "bpf")]
mod probes;
#[cfg(target_arch = "bpf")]
mod record;
#[cfg(target_arch = "bpf")]
mod relief;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod tally;
#[cfg(target_arch = "bpf")]
mod waiting;

/// The kernel lets only GPL-compatible programs call its tracing helpers; the project is MIT OR Apache-2.0.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
