//! What happens at each listener: waits, queues, handshakes.

use super::panels::{Look, Panel};

pub(super) const WAIT: &[Panel] = &[
    Panel {
        title: "Queue wait, p99 and p50",
        description: "The time that 99, and 50, of 100 connections stay below from the accept queue's entry to \
                      accept(). It is the process's part of a slow start, the handshake is the network's.",
        unit: "s",
        width: 12,
        look: Look::Lines,
        queries: &[
            (
                "histogram_quantile(0.99, rate(sockwatch_queue_wait_seconds_bucket{LISTENER}[$__rate_interval]))",
                "p99 {{listener}} {{process}} {{instance}}",
            ),
            (
                "histogram_quantile(0.5, rate(sockwatch_queue_wait_seconds_bucket{LISTENER}[$__rate_interval]))",
                "p50 {{listener}} {{process}} {{instance}}",
            ),
        ],
    },
    Panel {
        title: "Queue waits",
        description: "How many connections waited how long, over all listeners that are chosen. Two bands are two \
                      ways through the server; a column that reaches up is a pause.",
        unit: "s",
        width: 12,
        look: Look::Heatmap,
        queries: &[(
            "sum by (le) (increase(sockwatch_queue_wait_seconds_bucket{LISTENER}[$__rate_interval]))",
            "{{le}}",
        )],
    },
];

pub(super) const QUEUE: &[Panel] = &[
    Panel {
        title: "Depth, and limit",
        description: "Connections that wait in the accept queue, and how many may: the smaller one of listen()'s \
                      backlog and net.core.somaxconn. As of each scrape: bursts in between are in the waits.",
        unit: "short",
        width: 12,
        look: Look::Lines,
        queries: &[
            ("sockwatch_accept_queue_depth{LISTENER}", "{{listener}} {{process}} {{instance}}"),
            ("sockwatch_accept_queue_limit{LISTENER}", "limit {{listener}} {{process}} {{instance}}"),
        ],
    },
    Panel {
        title: "Age of the oldest in the queue",
        description: "How long the first in the accept queue has waited. A line that climbs one second a second is a \
                      server that accepts nobody.",
        unit: "s",
        width: 12,
        look: Look::Lines,
        queries: &[("sockwatch_accept_queue_oldest_age_seconds{LISTENER}", "{{listener}} {{process}} {{instance}}")],
    },
    Panel {
        title: "Arrivals and accepts",
        description: "Connections that entered the accept queue, and that were accepted. Where arrivals stay above \
                      accepts, the queue fills.",
        unit: "cps",
        width: 12,
        look: Look::Lines,
        queries: &[
            (
                "rate(sockwatch_accept_queue_arrivals_total{LISTENER}[$__rate_interval])",
                "arrivals {{listener}} {{process}} {{instance}}",
            ),
            (
                "rate(sockwatch_accept_queue_accepts_total{LISTENER}[$__rate_interval])",
                "accepts {{listener}} {{process}} {{instance}}",
            ),
        ],
    },
    Panel {
        title: "Overflows and drops",
        description: "Last ACKs of handshakes that found the queue full, and all packets that the kernel dropped at \
                      the listener, SYNs included. Drops without a full queue have other reasons.",
        unit: "cps",
        width: 12,
        look: Look::Lines,
        queries: &[
            (
                "rate(sockwatch_accept_queue_overflows_total{LISTENER}[$__rate_interval])",
                "overflows {{listener}} {{process}} {{instance}}",
            ),
            (
                "rate(sockwatch_accept_queue_drops_total{LISTENER}[$__rate_interval])",
                "drops {{listener}} {{process}} {{instance}}",
            ),
        ],
    },
    Panel {
        title: "Gone before they were served",
        description: "Connections whose clients left the queue before anybody had accepted them, those that were \
                      accepted only then, and those that were reset because their listener was closed.",
        unit: "cps",
        width: 12,
        look: Look::Lines,
        queries: &[
            (
                "rate(sockwatch_accept_queue_abandoned_total{LISTENER}[$__rate_interval])",
                "left by {{by}} {{listener}} {{process}} {{instance}}",
            ),
            (
                "rate(sockwatch_accept_queue_dead_on_arrival_total{LISTENER}[$__rate_interval])",
                "accepted in {{state}} {{listener}} {{process}} {{instance}}",
            ),
            (
                "rate(sockwatch_accept_queue_unqueued_total{LISTENER}[$__rate_interval])",
                "listener closed {{listener}} {{process}} {{instance}}",
            ),
        ],
    },
    Panel {
        title: "Failed accepts",
        description: "Calls of accept() that failed, by error. EMFILE and ENFILE: no file descriptor is left. \
                      `sockwatch explain descriptor-limit`.",
        unit: "cps",
        width: 12,
        look: Look::Lines,
        queries: &[(
            "rate(sockwatch_accept_errors_total{LISTENER}[$__rate_interval])",
            "{{errno}} {{listener}} {{process}} {{instance}}",
        )],
    },
];

pub(super) const HANDSHAKE: &[Panel] = &[
    Panel {
        title: "Handshake, p95 and p50",
        description: "The time that 95, and 50, of 100 handshakes stay below, from the first SYN-ACK to the accept \
                      queue: the network's part. A second and more is a SYN-ACK or its answer that was lost.",
        unit: "s",
        width: 8,
        look: Look::Lines,
        queries: &[
            (
                "histogram_quantile(0.95, rate(sockwatch_handshake_seconds_bucket{LISTENER}[$__rate_interval]))",
                "p95 {{listener}} {{process}} {{instance}}",
            ),
            (
                "histogram_quantile(0.5, rate(sockwatch_handshake_seconds_bucket{LISTENER}[$__rate_interval]))",
                "p50 {{listener}} {{process}} {{instance}}",
            ),
        ],
    },
    Panel {
        title: "SYN-ACKs sent again",
        description: "More of them than arrivals are a flood of SYNs, or a way back that loses nearly everything. \
                      `sockwatch explain syn-flood`.",
        unit: "cps",
        width: 8,
        look: Look::Lines,
        queries: &[(
            "rate(sockwatch_synack_retransmits_total{LISTENER}[$__rate_interval])",
            "{{listener}} {{process}} {{instance}}",
        )],
    },
    Panel {
        title: "Handshakes that are not known",
        description: "Share of the connections of which the kernel kept no request: it sent SYN cookies, or the \
                      server uses Fast Open. All of them where the enqueue probe is missing (`sockwatch doctor`).",
        unit: "percentunit",
        width: 8,
        look: Look::Lines,
        queries: &[(
            "clamp_min(1 - rate(sockwatch_handshake_seconds_count{LISTENER}[$__rate_interval]) \
             / rate(sockwatch_accept_queue_arrivals_total{LISTENER}[$__rate_interval]), 0)",
            "{{listener}} {{process}} {{instance}}",
        )],
    },
];
