//! accept() fails because the process, or the machine, has no descriptor left.

use super::{Finding, Name, Place, Scene, depth, waits};
use crate::diagnosis::{
    measure::{Failure, Measured},
    words::{count, place},
};

const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    scene.listeners.iter().filter_map(finding).collect()
}

fn finding(listener: &Measured) -> Option<Finding> {
    let is_about_descriptors = |failure: &&Failure| [EMFILE, ENFILE].contains(&failure.errno);
    let failures: Vec<_> = listener.failures.iter().filter(is_about_descriptors).collect();
    let worst = failures.first()?;
    let (whose, error) = match worst.errno {
        EMFILE => ("its process has", "EMFILE"),
        _enfile => ("the machine has", "ENFILE"),
    };
    let total = failures.iter().map(|failure| failure.count).sum();
    let sentence = format!(
        "{}: accept() failed {}: {whose} no file descriptor left ({error})",
        place(listener),
        count(total, "time")
    );
    let mut evidence: Vec<_> = failures
        .iter()
        .map(|failure| {
            let error = if failure.errno == EMFILE { "EMFILE" } else { "ENFILE" };
            format!("{}: {error}, {}", failure.by, count(failure.count, "time"))
        })
        .collect();
    evidence.extend([Some(depth(listener)), waits(listener)].into_iter().flatten());
    let fix = match worst.errno {
        EMFILE => vec![
            format!(
                "see what holds them: ls -l /proc/{}/fd, and whether connections are left in CLOSE_WAIT",
                worst.by.pid
            ),
            "raise the limit if they are in use: LimitNOFILE= of its systemd unit, or ulimit -n".into(),
        ],
        _enfile => vec!["raise fs.file-max, or find who holds so many: sysctl fs.file-nr".into()],
    };
    Some(Finding {
        name: Name::DescriptorLimit,
        place: Place::from(listener),
        sentence,
        evidence,
        rules_out: vec!["a process that does not call accept(): it does, and is refused".into()],
        fix,
        hurt: listener.hurt_by_accept(),
    })
}
