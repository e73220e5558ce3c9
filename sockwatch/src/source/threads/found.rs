//! What `/proc` tells of processes and threads: who holds a listener, and what sleeps.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
};

use sockwatch_common::USER_STACK_BYTES;

use super::unwind::Registers;
use crate::{
    process::holders::Holders,
    tcp::{endpoint::Endpoint, event::Comm},
};

/// A thread.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) tid: u32,
    pub(super) comm: Comm,
    /// Where it sleeps, if it does.
    pub(super) sleep: Option<Asleep>,
}

/// Where a thread sleeps.
#[derive(Debug)]
pub(super) struct Asleep {
    pub(super) kernel: Vec<String>,
    pub(super) registers: Registers,
    pub(super) stack: Vec<u8>,
}

/// All processes that hold the listeners at this port that one of them holds. A process whose child holds them too only keeps
/// them for it.
pub(super) fn holders(pid: u32, local: &Endpoint) -> Vec<u32> {
    let name = if local.address.is_ipv4() { "tcp" } else { "tcp6" };
    let table = File::open(format!("/proc/{pid}/net/{name}")).map(BufReader::new);
    let inodes = table.map_or_else(|_ended| Vec::new(), |table| listeners(table, local.port));
    let holders = Holders::look();
    let held_by = |inode: &u32| holders.of(*inode).iter().map(|holder| holder.pid).collect::<Vec<_>>();
    let mut pids: Vec<u32> = inodes.iter().map(held_by).filter(|pids| pids.contains(&pid)).flatten().collect();
    pids.push(pid);
    pids.sort_unstable();
    pids.dedup();
    let parents: Vec<_> = pids.iter().filter_map(|pid| parent(*pid)).collect();
    pids.retain(|pid| !parents.contains(pid));
    pids
}

/// The inodes of listeners at a port, from the text of `/proc/net/tcp`. Listeners come first: what follows is not read, which may be
/// a hundred thousand connections.
fn listeners(table: impl BufRead, port: u16) -> Vec<u32> {
    let field = |line: &str, number| line.split_whitespace().nth(number).map(str::to_owned);
    let lines = table.lines().skip(1).map_while(Result::ok);
    let listeners = lines.take_while(|line| field(line, 3).as_deref() == Some("0A"));
    let of_line = |line: String| {
        let at = field(&line, 1)?;
        let (_, at) = at.rsplit_once(':')?;
        (u16::from_str_radix(at, 16).ok()? == port).then(|| field(&line, 9)?.parse().ok())?
    };
    listeners.filter_map(of_line).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The threads of a process.
pub(super) fn threads(pid: u32) -> Vec<Found> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    tids.filter_map(|tid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        let (before, rest) = stat.rsplit_once(") ")?;
        let comm = Comm::from(before.split_once('(').map_or("", |(_, name)| name));
        let sleep = (!rest.starts_with('R')).then(|| asleep(pid, tid));
        Some(Found { tid, comm, sleep })
    })
    .collect()
}

fn asleep(pid: u32, tid: u32) -> Asleep {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).unwrap_or_default();
    let hexadecimal = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    let mut last = text.split_whitespace().rev().map_while(hexadecimal);
    let (ip, sp) = (last.next().unwrap_or(0), last.next().unwrap_or(0));
    let mut stack = vec![0; USER_STACK_BYTES];
    let read = File::open(format!("/proc/{pid}/mem")).and_then(|memory| memory.read_at(&mut stack, sp));
    stack.truncate(read.unwrap_or(0));
    Asleep { kernel: kernel_stack(pid, tid), registers: Registers { ip, sp, bp: 0, lr: 0 }, stack }
}

/// Where a thread is in the kernel; nothing if one may not look.
pub(super) fn kernel_stack(pid: u32, tid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stack")).unwrap_or_default();
    let name = |line: &str| Some(line.split_once("] ")?.1.split('+').next()?.to_owned());
    text.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_is_found_by_its_port() {
        let line = |at: &str, state: &str, inode: u32| {
            format!(
                "  0: 0100007F:{at} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1 x\n"
            )
        };
        let header =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let rows = [line("1F90", "0A", 1), line("0016", "0A", 2), line("1F90", "0A", 3), line("1F90", "01", 4)];
        let text = header.to_owned() + &rows.concat();
        assert_eq!(listeners(text.as_bytes(), 8080), [1, 3]);
        assert!(listeners(text.as_bytes(), 8081).is_empty());
    }

    #[test]
    fn we_hold_our_own_listener_and_our_threads_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pid = std::process::id();
        let at = listener.local_addr().unwrap();
        let local = Endpoint { address: at.ip(), port: at.port() };
        assert_eq!(holders(pid, &local), [pid]);
        assert!(threads(pid).iter().any(|thread| thread.tid == pid));
    }
}
