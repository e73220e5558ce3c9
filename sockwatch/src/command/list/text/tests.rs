use std::collections::HashMap;

use sockwatch::process::{Process, cgroup::Workload};

use super::{super::inventory::tests::joined, *};

const SOCKETS: &str = "1 LISTEN 0.0.0.0:80 0.0.0.0:0 3/128 inode=10
                       2 ESTABLISHED 10.0.0.1:80 10.0.0.9:5000 times=1700,1700,1700
                       3 CLOSE_WAIT 255.255.255.255:80 255.255.255.255:65535 times=7200000,1,7200000
                       4 TIME_WAIT 10.0.0.1:80 10.0.0.9:5002 tw=58500
                       5 FIN_WAIT1 10.0.0.1:4000 10.0.0.9:443
                       6 ESTABLISHED [2001:db8::1]:4001 [2001:db8::2]:443 inode=11";

fn names() -> Names {
    let process = |pid, name: &str, cgroup: &str| Process {
        pid,
        comm: name.into(),
        command: Some(name.to_owned()),
        workload: Workload::of_path(cgroup),
    };
    let nginx = "/system.slice/nginx.service";
    let processes = [process(812, "nginx", nginx), process(21_840, "nginx", nginx), process(9, "a-long-name-15", "/")];
    Names { processes: processes.into_iter().map(|it| (it.pid, it)).collect(), cgroups: HashMap::new() }
}

fn written(shape: Shape) -> String {
    let mut out = Vec::new();
    let entries = joined(SOCKETS, "10:812:6 10:21840:6 11:9:3", Vec::new());
    write(&mut out, &entries, &names(), shape).unwrap();
    String::from_utf8(out).unwrap()
}

const PLAIN: Shape = Shape { colour: Colour::Off, several_namespaces: false, long: false };

#[test]
fn lines_have_columns_and_what_is_unusual_has_a_note() {
    let expected = "\
STATE       LOCAL                 REMOTE                QUEUE     TIMER    AGE   PROCESS
LISTEN      0.0.0.0:80            0.0.0.0:*             3/128     -        -     nginx/812 +1
            held by nginx/812 fd 6, nginx/21840 fd 6
            queued: 1 CLOSE_WAIT, 1 ESTABLISHED, 1 reset by their clients
ESTABLISHED 10.0.0.1:80           10.0.0.9:5000         0/0       -        >1.7s queued nginx/812 +1
TIME_WAIT   10.0.0.1:80           10.0.0.9:5002         -         tw 58s   >1.5s minisock
CLOSE_WAIT  255.255.255.255:80    255.255.255.255:65535 0/0       -        >2h00 queued nginx/812 +1
FIN_WAIT1   10.0.0.1:4000         10.0.0.9:443          0/0       -        -     orphan
ESTABLISHED [2001:db8::1]:4001    [2001:db8::2]:443     0/0       -        -     a-long-name-15/9
";
    assert_eq!(written(PLAIN), expected);
    assert!(expected.lines().all(|line| line.chars().count() <= WIDEST));
}

#[test]
fn long_lines_tell_all() {
    let text = written(Shape { long: true, ..PLAIN });
    for words in [
        "            unit nginx.service, uid 0, inode 10, cookie 1, command nginx\n",
        "            unit nginx.service, cookie 2, command nginx, idle 1.7s, sent 0, received 0\n",
        "            held by a-long-name-15/9 fd 3\n",
    ] {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= WIDEST), "{text}");
}

#[test]
fn several_namespaces_have_a_column() {
    let text = written(Shape { several_namespaces: true, ..PLAIN });
    assert!(text.starts_with("NETNS      STATE "), "{text}");
    assert!(text.contains("\n1          LISTEN "), "{text}");
}

#[test]
fn colours_end_with_their_line() {
    let text = written(Shape { colour: Colour::On, ..PLAIN });
    assert!(text.contains("\x1b[36mLISTEN ") && text.contains("\x1b[33mCLOSE_WAIT "), "{text:?}");
    assert!(text.lines().filter(|line| line.starts_with('\x1b')).all(|line| line.ends_with(RESET)), "{text:?}");
    assert!(!written(PLAIN).contains('\x1b'));
}

#[test]
fn numbers_are_short() {
    let check = |ms, expected| assert_eq!(short(ms), expected);
    check(0, "0ms");
    check(940, "0.9s");
    check(9_999, "9.9s");
    check(59_999, "59s");
    check(100_000, "1m40");
    check(599_999, "9m59");
    check(600_000, "10m");
    check(119 * 60_000 + 59_999, "1h59");
    check(7_200_000, "2h00");
    check(35_999_999, "9h59");
    check(36_000_000, "10h");
    check(200 * 3_600_000, "200h");
    check(86_400_000 * 999, "999d");
    let check = |count, expected| assert_eq!(bytes64(count), expected);
    check(9_999, "9999");
    check(10_000, "10k");
    check(1_500_000, "1.5M");
    check(3_782_144, "3.7M");
    check(4_000_000_000, "4.0G");
}
