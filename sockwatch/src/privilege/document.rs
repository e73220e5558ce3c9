//! docs/privileges.md: what sockwatch may do and what it keeps, from the tables.

use std::fmt::Write;

use super::{
    capability::{self, Need, USES},
    files::Files,
    role::ROLES,
};

const HEAD: &str = "\
# Privileges

sockwatch runs as root, or as any user with the capabilities below on its file. It needs most of them only to begin: once its
probes are attached each of its threads drops what it does not need, for good.

This page is made by `cargo xtask gen` from the tables in `sockwatch/src/privilege`.

## To begin

";

const GRANT: &str = "
Linux 5.8 is the oldest with `CAP_BPF` and `CAP_PERFMON`. `CAP_SYS_ADMIN` holds both. Who has all of them can become root in
one way or another: give the file to a group, and to nobody else.
";

const KEPT: &str = "
`sockwatch doctor` says which of them are there, what is lost without the others, and what this machine can confine.

A program with file capabilities is not dumpable: its own files in /proc belong to root. sockwatch reads only those of them that every
process may read of itself. Nobody may attach a debugger to it, and it leaves no core dump.

## Kept

What each thread keeps from then on, and which system calls it may make besides those that every thread needs (memory, time,
threads, reading and writing what is open, opening for reading):

";

const REST: &str = "
Every thread sets `no_new_privs`, so that nothing that it could start would gain anything, clears its permitted, effective,
inheritable and ambient sets but for what the table says, and empties its bounding set (this takes `CAP_SETPCAP`). Then come
Landlock (Linux 5.13 and later) and seccomp. What a kernel cannot do is left out, and `doctor` says so.

Under seccomp no thread can start a program, open a socket but netlink (`otlp`: but TCP and UDP clients'), load an eBPF program, map memory as code, trace,
mount, or change namespaces but to enter network namespaces; such a call fails with `EPERM`. Threads share their memory: who
takes over one of them can do what all of them together can do, and no more than that.

Landlock is left out for threads that look at other processes: the kernel lets none under Landlock look at a process that is not.
Those open nothing for writing either: seccomp forbids it.

`--no-sandbox` goes without all of it, for when something does not work as it should: please report it then.

`list`, `doctor` and `lab` do not confine themselves: they end soon, and labs start other processes. `replay`, `info`, `report`,
`export` and `explain` need no privilege at all: run them as any user who may read the file.

## Each in turn

- **systemd**: [packaging/systemd](../packaging/systemd) has units that run as a user of their own with just these capabilities.
- **containers**: `docker run --user 65534 --cap-drop ALL` does not do, since `--cap-add` gives nothing to users but root unless the
  file has them; [packaging/container](../packaging/container) has an image whose file has.
- **kernel.unprivileged_bpf_disabled** does not matter at the start: sockwatch is not unprivileged. After it has dropped `CAP_BPF`, Linux 5.18
  and older refuse to read maps if it is not 0: there the capability stays.
";

/// The page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut add = |text: std::fmt::Arguments<'_>| {
        // A string takes everything.
        let _ = page.write_fmt(text);
    };
    add(format_args!("| capability | for | without it |\n|---|---|---|\n"));
    for it in USES {
        let need = if it.need == Need::Required { ", required" } else { "" };
        add(format_args!("| `{}`{need} | {} | {} |\n", it.name, it.used_for, it.without));
    }
    add(format_args!("\n    {}\n", capability::setcap("$(command -v sockwatch)")));
    add(format_args!("\nThe least with which it traces, in its own network namespace:\n"));
    add(format_args!("\n    {}\n{GRANT}{KEPT}", capability::least_setcap("$(command -v sockwatch)")));
    add(format_args!("| thread | does | capabilities | system calls | files |\n|---|---|---|---|---|\n"));
    for role in ROLES {
        let mut keeps = capability::names(role.keeps).iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
        if let Some(spare) = role.spare
            && let Some(name) = spare.capability.first().and_then(|it| capability::names(*it).first().copied())
        {
            keeps.push(format!("`{name}` only {}", spare.needed));
        }
        let calls: Vec<_> = role.calls.iter().map(|calls| calls.words()).collect();
        let files = match role.files {
            Files::Named => "Landlock",
            Files::Readable => "what it may read",
            Files::Outward => "Landlock: reading",
        };
        let words = |words: Vec<String>| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
        let calls = words(calls.into_iter().map(str::to_owned).collect());
        add(format_args!("| {} | {} | {} | {calls} | {files} |\n", role.name, role.does, words(keeps)));
    }
    add(format_args!("{REST}"));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_capability_and_role() {
        let page = page();
        for it in USES {
            assert!(page.contains(&format!("| `{}`", it.name)), "{}", it.name);
        }
        for role in ROLES {
            assert!(page.contains(&format!("\n| {} |", role.name)), "{}", role.name);
        }
        assert!(page.contains("`CAP_BPF` only up to Linux 5.18"));
    }
}
