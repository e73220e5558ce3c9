//! `sockwatch lab`: experiments with real sockets, traced and told step by step. A lab is a file and a row of [`LABS`].
//!
//! Labs run in network namespaces that they make themselves, and wait for what the trace has seen, not for a time.

pub(crate) mod actor;
mod list;
mod netlink;
mod netns;
mod running;
mod sockets;
mod stage;
mod table;
mod watch;

mod backlog;
mod bind_listen_accept;
mod both_close;
mod client_closes;
mod close_wait_leak;
mod defer_accept;
mod destroyed;
mod fast_open;
mod given_up;
mod half_close;
mod handed_over;
mod killed;
mod killed_unread;
mod linger_zero;
mod link_down;
mod listener_closes;
mod multipath;
mod no_route;
mod orphan;
mod orphan_sending;
mod out_of_descriptors;
mod overflow;
mod prefork;
mod queue_fin;
mod queue_rst;
mod refused;
mod reuseport;
mod second_listen;
mod self_connect;
mod server_closes;
mod slow_accept;
mod time_wait_reuse;
mod unanswered;
mod unreachable;
mod unread_bytes;
mod unread_data;
mod user_timeout;

use std::process::ExitCode;

use anyhow::{anyhow, ensure};

use self::stage::Stage;
use crate::cli::LabArgs;

/// An experiment.
pub(crate) struct Lab {
    /// What the command line calls it.
    pub(crate) name: &'static str,
    /// One line for the list.
    pub(crate) summary: &'static str,
    /// What will happen and what to look at, told before.
    pub(crate) story: &'static str,
    /// What it does.
    pub(crate) run: Run,
}

/// Where an experiment runs, and its steps. They return what was to be learned, with this run's figures.
pub(crate) enum Run {
    /// In the caller's network namespace: for every user, by polling where eBPF is refused.
    Here(fn(&Lab, &LabArgs) -> anyhow::Result<ExitCode>),
    /// In a network namespace of its own.
    Alone(fn(&mut Stage) -> anyhow::Result<String>),
    /// In two of them, joined by a cable.
    Wired(fn(&mut Stage) -> anyhow::Result<String>),
}

/// All experiments, in the order in which a newcomer may try them.
pub(crate) const LABS: &[Lab] = &[
    slow_accept::LAB,
    bind_listen_accept::LAB,
    unread_bytes::LAB,
    client_closes::LAB,
    server_closes::LAB,
    both_close::LAB,
    half_close::LAB,
    unread_data::LAB,
    linger_zero::LAB,
    refused::LAB,
    unanswered::LAB,
    unreachable::LAB,
    given_up::LAB,
    no_route::LAB,
    self_connect::LAB,
    queue_fin::LAB,
    queue_rst::LAB,
    listener_closes::LAB,
    backlog::LAB,
    overflow::SILENT,
    overflow::RESET,
    overflow::COOKIES,
    defer_accept::LAB,
    fast_open::LAB,
    second_listen::LAB,
    reuseport::LAB,
    reuseport::MIGRATE,
    prefork::LAB,
    handed_over::LAB,
    out_of_descriptors::LAB,
    close_wait_leak::LAB,
    killed::LAB,
    killed_unread::LAB,
    orphan::LAB,
    orphan_sending::LAB,
    time_wait_reuse::LAB,
    user_timeout::LAB,
    link_down::LAB,
    destroyed::LAB,
    multipath::LAB,
];

/// The names that the command line takes.
pub(crate) fn names() -> Vec<&'static str> {
    LABS.iter().map(|lab| lab.name).collect()
}

pub(crate) fn run(args: &LabArgs) -> anyhow::Result<ExitCode> {
    let Some(name) = &args.name else { return list::run(args.format) };
    let lab = LABS.iter().find(|lab| lab.name == name);
    let lab = lab.ok_or_else(|| anyhow!("no lab {name}: `sockwatch lab --list` lists them"))?;
    match lab.run {
        Run::Here(run) => run(lab, args),
        Run::Alone(steps) | Run::Wired(steps) => {
            ensure!(args.delay.is_none() && args.clients.is_none(), "{name} has no --delay and no --clients");
            running::run(lab, args, steps)
        }
    }
}
