//! What /proc knows about a process.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result};

/// User and kernel time come in hundredths of a second on every architecture that Linux has BPF for.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn kernel_release() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("/proc is not mounted: mount it")?;
    Ok(release.trim().to_owned())
}

/// User and kernel time that all threads of the process have used, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = read(pid, "stat")?;
    parse_cpu_seconds(&stat).with_context(|| format!("/proc/{pid}/stat is not as expected"))
}

fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    // The name, in parentheses, may hold spaces and parentheses; utime and stime are fields 14 and 15.
    let mut fields = stat[stat.rfind(')')?..].split_whitespace().skip(12);
    let user: f64 = fields.next()?.parse().ok()?;
    let kernel: f64 = fields.next()?.parse().ok()?;
    Some((user + kernel) / TICKS_PER_SECOND)
}

/// The largest resident size so far, in MiB.
pub(super) fn peak_resident_mib(pid: u32) -> Result<f64> {
    resident(pid, "VmHWM:")
}

/// The resident size now, in MiB.
pub(super) fn resident_mib(pid: u32) -> Result<f64> {
    resident(pid, "VmRSS:")
}

fn resident(pid: u32, key: &str) -> Result<f64> {
    let status = read(pid, "status")?;
    parse_resident_mib(&status, key).with_context(|| format!("/proc/{pid}/status has no {key}"))
}

fn parse_resident_mib(status: &str, key: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: f64 = value.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// How many descriptors are open.
pub(super) fn open_descriptors(pid: u32) -> Result<usize> {
    Ok(descriptors(pid)?.len())
}

/// Whether the main thread sleeps in a poll call: a tracer that does has nothing left to set up.
pub(super) fn is_polling(pid: u32) -> Result<bool> {
    Ok(read(pid, "wchan")?.contains("poll"))
}

/// The ids of the BPF programs that the process holds, as programs or as links to them.
pub(super) fn bpf_programs(pid: u32) -> Result<Vec<u32>> {
    let mut programs: Vec<u32> = descriptors(pid)?.iter().filter_map(|info| field(info, "prog_id:")).collect();
    programs.sort_unstable();
    programs.dedup();
    Ok(programs)
}

/// How often the kernel skipped a program of the process because one was already running on that CPU: what such a run
/// would have reported is gone without any other trace.
pub(super) fn missed_runs(pid: u32) -> Result<u64> {
    let descriptors = descriptors(pid)?;
    let programs = descriptors.iter().filter_map(|info| Some((field(info, "prog_id:")?, info)));
    let missed = programs.filter_map(|(id, info)| Some((id, field(info, "recursion_misses:")?)));
    // By id: a program may be held by more than one descriptor.
    Ok(missed.collect::<BTreeMap<u32, u64>>().into_values().sum())
}

/// What the kernel says of each open descriptor.
fn descriptors(pid: u32) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .with_context(|| format!("process {pid} has ended: run it by hand to see why"))?;
    // A descriptor may be closed while the directory is read.
    Ok(entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok()).collect())
}

fn field<T: FromStr>(fdinfo: &str, key: &str) -> Option<T> {
    fdinfo.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok()
}

fn read(pid: u32, file: &str) -> Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}"))
        .with_context(|| format!("process {pid} has ended: run it by hand to see why"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(parse_cpu_seconds(stat), Some(2.0));
        assert_eq!(parse_cpu_seconds("7 (a"), None);
    }

    #[test]
    fn resident_sizes_are_in_kib() {
        let status = "Name:\ta\nVmHWM:\t    3072 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(parse_resident_mib(status, "VmHWM:"), Some(3.0));
        assert_eq!(parse_resident_mib(status, "VmRSS:"), Some(2.0));
        assert_eq!(parse_resident_mib("Name:\ta\n", "VmRSS:"), None);
    }

    #[test]
    fn programs_and_links_name_a_program() {
        let link = "pos:\t0\nlink_type:\tperf\nprog_id:\t126\n";
        assert_eq!(field::<u32>(link, "prog_id:"), Some(126));
        assert_eq!(field::<u64>(link, "recursion_misses:"), None);
        assert_eq!(field::<u32>("pos:\t0\nmap_id:\t41\n", "prog_id:"), None);
    }

    #[test]
    fn this_process_has_a_size_and_a_time() {
        assert!(peak_resident_mib(std::process::id()).unwrap() > 0.0);
        assert!(cpu_seconds(std::process::id()).unwrap() >= 0.0);
    }
}
