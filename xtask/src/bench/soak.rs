//! `cargo xtask soak`: `sockwatch serve` for long, at the highest rate of connections that the machine gives. Its memory must
//! stop growing, no descriptor stay open, every loss be told, and in the end its belief be the kernel's table.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    PORT, proc, release_build, room,
    rounds::run_load,
    statistics::median,
    verdict::{Bound, line},
};
use crate::{
    service::{PATIENCE, end, get, serve_by},
    shell,
};

/// Connections of one process of the load.
const PART: u64 = 200_000;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);

/// TIME_WAIT ends after a minute, and its ends are told soon after.
const AFTERWARDS: Duration = Duration::from_secs(90);

/// Rounds of comparisons with the kernel's table that must agree when all is over.
const LAST_ROUNDS: f64 = 3.0;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..))]
    minutes: u64,
}

/// What was seen at one time.
struct Look {
    resident_mib: f64,
    descriptors: f64,
    /// Events that were not seen, as far as it is known.
    told: f64,
    metrics: String,
}

impl Look {
    fn take(pid: u32, address: SocketAddr) -> Result<Self> {
        let metrics = get(address, "/metrics")?;
        let health: Value = serde_json::from_str(&get(address, "/healthz")?).context("/healthz is no JSON")?;
        let told = ["lost", "missed", "dropped"].map(|count| health[count].as_f64().unwrap_or(f64::NAN)).iter().sum();
        let descriptors = proc::open_descriptors(pid)? as f64;
        Ok(Self { resident_mib: proc::resident_mib(pid)?, descriptors, told, metrics })
    }

    /// The sum of a metric's samples that have this label, or of all.
    fn sum(&self, name: &str, label: &str) -> f64 {
        sum(&self.metrics, name, label)
    }

    fn ended(&self) -> f64 {
        self.sum("sockwatch_connections_ended_total", "")
            - self.sum("sockwatch_connections_ended_total", "role=\"listener\"")
    }
}

fn sum(metrics: &str, name: &str, label: &str) -> f64 {
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let samples = metrics.lines().filter(of_name).filter(|line| line.contains(label));
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !shell::is_root() {
        bail!("this loads eBPF programs and makes a network namespace: run it as root");
    }
    let program = release_build(&shell::workspace()?)?;
    room::inside(|| soak(&program, Duration::from_secs(60 * options.minutes)))
}

fn soak(program: &Path, time: Duration) -> Result<()> {
    let (mut service, address) = serve_by(program, PORT)?;
    let pid = service.0.id();
    let began = Instant::now();
    let over = AtomicBool::new(false);
    let (looks, connections) = thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<u64> {
            let mut connections = 0;
            while began.elapsed() < time && !over.load(Ordering::Relaxed) {
                connections += run_load(PART)?.connections;
            }
            Ok(connections)
        });
        let looks = look_on(pid, address, || load.is_finished());
        // If nobody could look any more, there is no need for a load either.
        over.store(true, Ordering::Relaxed);
        let Ok(connections) = load.join() else { bail!("the load panicked: see the message above") };
        Ok((looks?, connections?))
    })?;
    let rate = connections as f64 / began.elapsed().as_secs_f64();
    println!("{connections} connections, {rate:.0}/s; waiting for the last TIME_WAIT");
    let last = settled(pid, address, 2.0 * connections as f64)?;
    let agreed = agreement(pid, address, &last)?;
    end(&mut service)?;
    judge(&looks, &last, connections, agreed)
}

fn look_on(pid: u32, address: SocketAddr, is_over: impl Fn() -> bool) -> Result<Vec<Look>> {
    let (began, mut looks) = (Instant::now(), Vec::new());
    while !is_over() {
        thread::sleep(EVERY);
        looks.push(Look::take(pid, address)?);
        if let [.., before, now] = looks.as_slice() {
            say(began.elapsed(), before, now);
        }
    }
    Ok(looks)
}

fn say(elapsed: Duration, before: &Look, now: &Look) {
    println!(
        "{:>5.0} s: {:>6.0} ends/s, {:>6.1} MiB, {} descriptors, {} not seen, {} repaired",
        elapsed.as_secs_f64(),
        (now.ended() - before.ended()) / EVERY.as_secs_f64(),
        now.resident_mib,
        now.descriptors,
        now.told,
        now.sum("sockwatch_reconcile_repairs_total", ""),
    );
}

/// When all ends have been seen, or none come any more.
fn settled(pid: u32, address: SocketAddr, ends: f64) -> Result<Look> {
    let deadline = Instant::now() + AFTERWARDS;
    loop {
        let look = Look::take(pid, address)?;
        if look.ended() >= ends || Instant::now() >= deadline {
            return Ok(look);
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// The share of records of the kernel's table that agree, in the last rounds. Something must be open to compare.
fn agreement(pid: u32, address: SocketAddr, before: &Look) -> Result<f64> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", PORT)).context("cannot listen")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = Look::take(pid, address)?;
        let more = |name| now.sum(name, "") - before.sum(name, "");
        let compared = more("sockwatch_reconcile_compared_total");
        if more("sockwatch_reconcile_rounds_total") >= LAST_ROUNDS && compared > 0.0 {
            drop(listener);
            return Ok(more("sockwatch_reconcile_agreed_total") / compared);
        }
        ensure!(Instant::now() < deadline, "the kernel's table is not compared any more");
        thread::sleep(Duration::from_secs(1));
    }
}

fn judge(looks: &[Look], last: &Look, connections: u64, agreed: f64) -> Result<()> {
    let quarter = looks.len() / 4;
    let middle = |looks: &[Look], of: fn(&Look) -> f64| median(looks.iter().map(of)).unwrap_or(f64::NAN);
    let (early, late) = (&looks[quarter..2 * quarter], &looks[3 * quarter..]);
    let growth = |of| middle(late, of) / middle(early, of);
    let unseen = (2.0 * connections as f64 - last.ended()).max(0.0);
    let verdicts = [
        ("resident size, last quarter of the second's", growth(|look| look.resident_mib), Bound::AtMost(1.05)),
        ("descriptors, likewise", growth(|look| look.descriptors), Bound::AtMost(1.0)),
        ("ends that were neither seen nor told", (unseen - last.told).max(0.0), Bound::AtMost(0.0)),
        ("agreement with the kernel at the end", agreed, Bound::AtLeast(1.0)),
    ];
    println!("\n{} ends of {}; {} events told as not seen", last.ended(), 2 * connections, last.told);
    let told = ["sockwatch_losses_total", "sockwatch_reconcile_repairs_total"];
    for line in last.metrics.lines().filter(|line| told.iter().any(|name| line.starts_with(name))) {
        println!("  {line}");
    }
    let compared = last.sum("sockwatch_reconcile_compared_total", "");
    let all = last.sum("sockwatch_reconcile_agreed_total", "") / compared;
    println!("  agreed with the kernel in {:.4} % of {compared} comparisons under load", 100.0 * all);
    for (name, number, bound) in verdicts {
        println!("{}", line(name, Some(number), bound));
    }
    let unmet = verdicts.iter().filter(|(_, number, bound)| !bound.is_met(*number)).count();
    ensure!(unmet == 0, "{unmet} of these are not as they must be");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_label() {
        let metrics = "# TYPE a counter\na{kind=\"x\"} 2\na{kind=\"y\"} 3\nab 7\nb 1.5\n";
        assert_eq!(sum(metrics, "a", ""), 5.0);
        assert_eq!(sum(metrics, "a", "kind=\"y\""), 3.0);
        assert_eq!(sum(metrics, "b", ""), 1.5);
        assert_eq!(sum(metrics, "c", ""), 0.0);
    }
}
