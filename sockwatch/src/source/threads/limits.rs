//! Limits of CPU time of a process: those of its cgroup and of all cgroups around it, in either version.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{diagnosis::blame::CpuLimit, tcp::event::is_unprintable};

/// What can be nested is bounded.
const MOST_DEPTH: usize = 64;

/// All limits that a process is under now, the innermost first.
pub(super) fn of(pid: u32) -> Vec<CpuLimit> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let Some((root, path, version)) = place(&text(&format!("/proc/{pid}/cgroup")), &text("/proc/self/mountinfo"))
    else {
        return Vec::new();
    };
    let inside = Path::new(&path);
    let around = inside.ancestors().take(MOST_DEPTH).map(|cgroup| {
        let directory = root.join(cgroup.strip_prefix("/").unwrap_or(cgroup));
        let (quota_ns, period_ns) = version.limit(&directory)?;
        let stat = fs::read_to_string(directory.join("cpu.stat")).ok()?;
        let (periods, throttled, throttled_ns) = counted(&stat)?;
        let cgroup = cgroup.to_string_lossy().replace(is_unprintable, "?");
        Some(CpuLimit { cgroup, quota_ns, period_ns, periods, throttled, throttled_ns })
    });
    around.flatten().collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// A cgroup's quota and period, if it has a limit.
    fn limit(self, directory: &Path) -> Option<(u64, u64)> {
        let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
        let text = match self {
            Self::One => read("cpu.cfs_quota_us")? + &read("cpu.cfs_period_us")?,
            Self::Two => read("cpu.max")?,
        };
        quota(&text)
    }
}

/// `20000 100000`, in microseconds; without a limit the first word is `max`, or -1.
fn quota(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_whitespace().map(|word| word.parse::<u64>().ok());
    let (quota_us, period_us) = (words.next()??, words.next()??);
    Some((quota_us.saturating_mul(1000), period_us.saturating_mul(1000)))
}

/// Periods, those throttled, and for how many nanoseconds, from the text of `cpu.stat`.
fn counted(stat: &str) -> Option<(u64, u64, u64)> {
    let value = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line?.trim().parse::<u64>().ok()
    };
    let ns = value("throttled_time").or_else(|| Some(value("throttled_usec")?.saturating_mul(1000)));
    Some((value("nr_periods")?, value("nr_throttled")?, ns?))
}

/// Where the hierarchy is mounted that has limits of CPU time, and the process's path in it: by the texts of
/// `/proc/PID/cgroup` and `/proc/self/mountinfo`.
fn place(cgroups: &str, mounts: &str) -> Option<(PathBuf, String, Version)> {
    // `ID:CONTROLLERS:PATH`; a path may hold colons.
    let path = |fits: &dyn Fn(&str) -> bool| {
        cgroups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            fits(controllers).then(|| path.to_owned())
        })
    };
    let has_cpu = |words: &str| words.split(',').any(|word| word == "cpu");
    let mount = |kind: &str, fits: &dyn Fn(&str) -> bool| {
        mounts.lines().find_map(|line| {
            let (fields, rest) = line.split_once(" - ")?;
            let mut rest = rest.split(' ');
            let (its, options) = (rest.next()?, rest.nth(1)?);
            let mut fields = fields.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            (its == kind && fits(options)).then(|| (root.to_owned(), PathBuf::from(point)))
        })
    };
    let one = path(&has_cpu).zip(mount("cgroup", &has_cpu)).map(|found| (found, Version::One));
    let two = || path(&str::is_empty).zip(mount("cgroup2", &|_| true)).map(|found| (found, Version::Two));
    let ((path, (root, point)), version) = one.or_else(two)?;
    // Only a part of the hierarchy may be mounted.
    let path = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(&path).to_owned();
    Some((point, if path.is_empty() { "/".into() } else { path }, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
35 24 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup none rw,cpu,cpuacct
36 24 0:30 /pod /sys/fs/cgroup/unified rw,relatime shared:3 - cgroup2 none rw
";

    #[test]
    fn the_hierarchy_with_the_limits_is_found() {
        let check = |cgroups: &str, mounts: &str, expected: Option<(&str, &str, Version)>| {
            let found = place(cgroups, mounts);
            let found = found.as_ref().map(|(root, path, version)| (root.to_str().unwrap(), path.as_str(), *version));
            assert_eq!(found, expected, "{cgroups}");
        };
        let both = "4:memory:/m\n1:cpu,cpuacct:/a:b\n0::/pod/web\n";
        check(both, MOUNTS, Some(("/sys/fs/cgroup/cpu", "/a:b", Version::One)));
        check("0::/pod/web\n", MOUNTS, Some(("/sys/fs/cgroup/unified", "/web", Version::Two)));
        check("0::/pod\n", MOUNTS, Some(("/sys/fs/cgroup/unified", "/", Version::Two)));
        check("2:cpuacct:/a\n", MOUNTS, None);
        check("0::/a\n", "", None);
    }

    #[test]
    fn limits_and_counts_are_read() {
        assert_eq!(quota("20000 100000\n"), Some((20_000_000, 100_000_000)));
        assert_eq!(quota("max 100000\n"), None);
        assert_eq!(quota("-1\n100000\n"), None);
        assert_eq!(quota("50000\n100000\n"), Some((50_000_000, 100_000_000)));
        let two = "usage_usec 5\nnr_periods 10\nnr_throttled 4\nthrottled_usec 300\n";
        assert_eq!(counted(two), Some((10, 4, 300_000)));
        assert_eq!(counted("nr_periods 10\nnr_throttled 4\nthrottled_time 300\n"), Some((10, 4, 300)));
        assert_eq!(counted("usage_usec 5\n"), None);
    }
}
