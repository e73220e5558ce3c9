//! Clients do not wait until they are accepted: they time out in the queue.

use super::{Finding, Name, Place, Scene};
use crate::diagnosis::{
    measure::Measured,
    waits::Spread,
    words::{count, place, time},
};

/// Of many connections fewer are no pattern: somebody always changes their mind.
const LEAST: u64 = 3;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    scene.listeners.iter().filter_map(finding).collect()
}

fn finding(listener: &Measured) -> Option<Finding> {
    let late = listener.left.late?;
    let is_pattern = late.count >= LEAST || late.count.saturating_mul(10) >= listener.arrived;
    if late.count.saturating_mul(100) < listener.arrived || !is_pattern {
        return None;
    }
    let (leave, have) = if late.count == 1 { ("leaves", "it had") } else { ("leave", "they had") };
    let sentence = format!(
        "{}: {} {leave} before accept(), after {have} waited {}",
        place(listener),
        count(late.count, "client"),
        time(late.p50_ns)
    );
    let mut evidence = vec![
        format!("{} left by FIN, {} by RST", listener.left.by_fin, listener.left.by_rst),
        format!("they had waited {} to {}, {} at the median", time(late.min_ns), time(late.max_ns), time(late.p50_ns)),
        match timeout_ns(&late) {
            Some(ns) => format!("that is so even that it may be their timeout: about {}", time(ns)),
            None => "no timeout can be told from it: too few, or too uneven".into(),
        },
    ];
    if listener.dead_on_arrival + listener.half_closed_on_arrival > 0 {
        let (dead, half) = (listener.dead_on_arrival, listener.half_closed_on_arrival);
        evidence.push(format!("accepted after their client had gone: {dead} by RST, {half} by FIN"));
    }
    Some(Finding {
        name: Name::ClientsLeave,
        place: Place::from(listener),
        sentence,
        evidence,
        rules_out: vec!["health checks that connect and close at once: those are not counted here".into()],
        fix: vec![
            "accept sooner than the clients give up: see the other findings for what keeps connections waiting".into(),
        ],
        hurt: late.count,
    })
}

/// What the clients' timeout may be: most of them left after nearly the same time.
fn timeout_ns(late: &Spread) -> Option<u64> {
    let near = late.p90_ns.saturating_sub(late.min_ns).saturating_mul(5) <= late.p50_ns;
    (late.count >= 3 && near).then_some(late.p50_ns)
}
