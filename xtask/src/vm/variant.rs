//! What runs in a guest: the live tests, once for each way of attaching the probes.

use super::guest::MARK;

/// A way of attaching the probes.
#[derive(Debug)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// As `--probe` takes them. Together the variants take every alternative of the probe table.
    pub(crate) probes: &'static [&'static str],
    /// Which tests: libtest's arguments.
    pub(crate) tests: &'static [&'static str],
}

/// The modules of the live tests whose stories depend on how events are seen.
const STORIES: &[&str] = &["timelines::", "queue::", "endings::", "filters::"];

/// Every variant.
pub(crate) const VARIANTS: &[Variant] = &[
    // Replays need no kernel, a recording is of what any kernel says, and a diagnosis judges how long things take: emulation
    // takes long.
    Variant {
        name: "default",
        probes: &[],
        tests: &["--skip", "labs::replayed::", "--skip", "diagnose::", "--skip", "score::", "--skip", "recording::"],
    },
    Variant {
        name: "kretprobe",
        probes: &["accept=kretprobe", "accept-return=kretprobe", "enqueue=kretprobe"],
        tests: STORIES,
    },
    Variant {
        name: "syscall",
        probes: &["accept=syscall", "accept-return=syscall", "enqueue=data-ready"],
        tests: STORIES,
    },
    Variant {
        name: "tracepoint",
        // While a kprobe's program runs on a CPU, classic tracepoints' are skipped there, and 5.10 does not count it.
        probes: &["state=tracepoint", "destroy=tracepoint", "accept-return=off"],
        tests: STORIES,
    },
];

/// What the guest has in place of a machine.
#[derive(Debug)]
pub(crate) struct Payload<'a> {
    /// The live tests' path in the guest.
    pub(crate) tests: &'a str,
    /// sockwatch's.
    pub(crate) sockwatch: &'a str,
    pub(crate) modules: Vec<String>,
}

/// What to do once the guest is up.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// The survey of all alternatives, and the live tests of all variants.
    Tests {
        /// Only tests whose names contain this.
        only: Option<String>,
    },
    /// A shell command; its status is the guest's.
    Command(String),
    /// An interactive shell.
    Shell,
}

/// The guest's init.
pub(crate) fn init(payload: &Payload<'_>, work: &Work) -> String {
    let mut script = String::from(PROLOGUE);
    for module in &payload.modules {
        script += &format!("insmod {module} || echo \"insmod {module} failed\"\n");
    }
    let directory = payload.sockwatch.rsplit_once('/').map_or("/", |(directory, _)| directory);
    script += &format!("export PATH={directory}:$PATH\n");
    script += &format!("echo \"{MARK}started $(uname -r)\"\n");
    match work {
        Work::Tests { only } => script += &tests(payload, only.as_deref()),
        Work::Command(command) => script += &format!("$shell -c {}\nstatus=$?\n", quoted(command)),
        Work::Shell => {
            script += "echo 'sockwatch is in the path; `poweroff -f` ends the guest'\nsetsid -c $shell -i\nstatus=0\n"
        }
    }
    script += &format!("echo \"{MARK}done $status\"\nsync\npoweroff -f\n");
    script
}

fn tests(payload: &Payload<'_>, only: Option<&str>) -> String {
    let survey = format!("sockwatch doctor --all --format json\necho '{MARK}surveyed'\n");
    let mut script = format!("{AGAIN}status=0\necho '{MARK}survey'\n{survey}");
    script += "mount -t tmpfs none /sys/kernel/btf\n";
    script += &format!("echo '{MARK}survey without-btf'\n{survey}umount /sys/kernel/btf\n");
    for variant in VARIANTS {
        let tests = match only {
            Some(only) => quoted(only),
            None => variant.tests.join(" "),
        };
        script += &format!(
            "echo '{MARK}run {name}'\nexport {SETTINGS} SOCKWATCH_LIVE_PROBES={probes}\n\
             run {binary} {tests}\n[ $result = 0 ] || again {binary}\n\
             [ $result = 0 ] || status=1\necho \"{MARK}ran {name} $result\"\n",
            name = variant.name,
            probes = variant.probes.join(","),
            binary = payload.tests,
        );
    }
    script
}

/// Emulated CPUs stall, sockets of one process are copied into whatever other tests start, and a kernel skips a program where it
/// would interrupt another one. So a test that fails among two hundred is run once more, by itself, and the console says what it
/// had failed with; one that fails twice has failed, and so have many that fail at once.
const AGAIN: &str = r#"
run() {
    { "$@"; echo $? > /run/result; } 2>&1 | tee /run/output
    result=$(cat /run/result)
}
again() {
    failed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' /run/output)
    count=$(echo "$failed" | grep -c .)
    told=$(sed -n 's/^test result: FAILED\. .*; \([0-9]*\) failed; .*/\1/p' /run/output)
    # Any other status than libtest's: not every test has run. Any other count: a name was not found.
    [ "$result" = 101 ] && [ "$count" = "$told" ] && [ "$count" -ge 1 ] && [ "$count" -le 4 ] || return
    all=0
    for name in $failed; do
        echo "again, by itself: $name"
        run "$1" --exact "$name"
        [ "$result" = 0 ] || all=$result
    done
    result=$all
}
"#;

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Nothing may be skipped for want of root; emulation takes its time.
const SETTINGS: &str = "SOCKWATCH_LIVE=required SOCKWATCH_LIVE_CONNECTIONS=2000 SOCKWATCH_LIVE_PATIENCE=60 \
    SOCKWATCH_LIVE_CHAOS=1:5:1 SOCKWATCH_LIVE_SETS_CLOCK=1";

const PROLOGUE: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/ TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
chmod 1777 /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
# Emulation is slow, the network is not: what is acknowledged late is not lost, and would only be sent twice.
# By its path: busybox' own `ip`, which its shell prefers, knows no rto_min.
for to in 127.0.0.0/8 127.0.0.1; do
    [ ! -x /usr/sbin/ip ] ||
        /usr/sbin/ip route change local $to dev lo table local proto kernel scope host src 127.0.0.1 rto_min 2s
done
echo 0 > /proc/sys/net/ipv4/tcp_early_retrans
chmod 755 /
# The host's, where there is one: busybox' runs its own `ip` whatever the path says.
shell=$(command -v bash || echo sh)
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reaches_the_shell_whole() {
        let payload = Payload { tests: "/t/live", sockwatch: "/t/sockwatch", modules: Vec::new() };
        let script = init(&payload, &Work::Command("echo 'a b'; false".into()));
        assert!(script.contains(r"$shell -c 'echo '\''a b'\''; false'"), "{script}");
    }
}
