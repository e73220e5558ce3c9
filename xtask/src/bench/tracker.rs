//! How fast the tracker is by itself, and how much memory it needs: records come from memory, on one core.

use anyhow::{Context, Result};

use super::verdict::Numbers;
use crate::shell;

pub(super) const NAME: &str = "tracker";

pub(super) fn run(numbers: &mut Numbers) -> Result<()> {
    let workspace = shell::workspace()?;
    let mut command = shell::cargo(&workspace);
    command.args(["bench", "--quiet", "--package", "sockwatch", "--bench", "tracker"]);
    println!("\ntracker: connections over loopback, 14 records each, from memory");
    let said = shell::read(&mut command, "fix the errors above")?;
    let said = String::from_utf8_lossy(&said);
    let figure =
        |name| figure(&said, name).with_context(|| format!("`{}` does not print {name}", shell::spell(&command)));
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
