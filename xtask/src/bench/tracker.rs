//! How fast the tracker is by itself, how much memory it needs, and how fast recordings are written and replayed: all comes
//! from memory, on one core.

use anyhow::{Context, Result};

use super::verdict::Numbers;
use crate::shell;

pub(super) const NAME: &str = "tracker";

pub(super) const RECORDING: &str = "recording";

pub(super) const SCREEN: &str = "screen";

/// Pages, orders of connections and filters of them that are measured.
const FRAMES: &[&str] = &[
    "listeners",
    "connections",
    "connections_end",
    "states",
    "by_state",
    "by_local",
    "by_remote",
    "by_age",
    "by_wait",
    "by_process",
    "filtered",
    "filtered_by_name",
    "filtered_by_cgroup",
];

/// Runs one of the benchmarks of the library. Returns its figures.
fn measure(bench: &str) -> Result<impl Fn(&str) -> Result<f64>> {
    let workspace = shell::workspace()?;
    let mut command = shell::cargo(&workspace);
    command.args(["bench", "--quiet", "--package", "sockwatch", "--bench", bench]);
    let said = shell::read(&mut command, "fix the errors above")?;
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(move |name: &str| {
        figure(&said, name).with_context(|| format!("`{}` does not print {name}", shell::spell(&command)))
    })
}

/// What recordings cost by themselves.
pub(super) fn recording(numbers: &mut Numbers) -> Result<()> {
    println!("\nrecordings: connections over loopback, 14 events each, from memory to memory");
    let figure = measure("recording")?;
    for level in [1, 3] {
        println!("to columns            {:>10.0} events/s", figure(&format!("level_{level}_take_events_per_second"))?);
        println!(
            "and compressed at {level}   {:>10.0} events/s",
            figure(&format!("level_{level}_events_per_cpu_second"))?
        );
        println!("size                  {:>10.2} bytes/event", figure(&format!("level_{level}_bytes_per_event"))?);
    }
    println!("read                  {:>10.0} events/s", figure("decode_events_per_second")?);
    println!("replayed              {:>10.0} events/s", figure("replay_events_per_second")?);
    numbers.replayed_per_second = Some(figure("replay_events_per_second")?);
    Ok(())
}

/// What drawing costs with 100,000 live connections.
pub(super) fn screen(numbers: &mut Numbers) -> Result<()> {
    println!("\ntop: 100,000 live connections on 200 columns and 60 lines, in memory");
    let figure = measure("screen")?;
    let mut slowest: f64 = 0.0;
    for frame in FRAMES {
        let ms = figure(&format!("{frame}_frame_ms"))?;
        println!("{frame:<21} {ms:>10.2} ms/frame");
        slowest = slowest.max(ms);
    }
    println!("counting, once a second {:>8.2} ms", figure("second_ms")?);
    println!("freezing it           {:>10.2} ms", figure("freeze_ms")?);
    numbers.frame_ms = Some(slowest + figure("second_ms")?);
    Ok(())
}

pub(super) fn run(numbers: &mut Numbers) -> Result<()> {
    println!("\ntracker: connections over loopback, 14 records each, from memory");
    let figure = measure("tracker")?;
    println!("decoding              {:>10.0} records/s", figure("decode_records_per_second")?);
    println!("order and tracker     {:>10.0} events/s", figure("track_events_per_second")?);
    println!("all three             {:>10.0} events/s", figure("both_events_per_second")?);
    println!("minisocks meanwhile   {:>10.0}", figure("minisocks_meanwhile")?);
    println!("a live socket         {:>10.0} bytes", figure("live_socket_bytes")?);
    println!("a minisock            {:>10.0} bytes", figure("minisock_bytes")?);
    numbers.tracked_per_second = Some(figure("track_events_per_second")?);
    numbers.live_socket_bytes = Some(figure("live_socket_bytes")?);
    numbers.minisock_bytes = Some(figure("minisock_bytes")?);
    Ok(())
}

fn figure(said: &str, name: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_whole_names() {
        let said = "running\nlive_socket_bytes 672\nlive 5\n";
        assert_eq!(figure(said, "live_socket_bytes"), Some(672.0));
        assert_eq!(figure(said, "live"), Some(5.0));
        assert_eq!(figure(said, "socket"), None);
    }
}
