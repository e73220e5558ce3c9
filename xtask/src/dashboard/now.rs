//! The state of things, before anything else.

use super::panels::{Look, Panel};

pub(super) const NOW: &[Panel] = &[
    Panel {
        title: "Listeners with slow accepts",
        description: "Listeners of which one connection in a hundred waited 0.1 s or longer for accept() in the last \
                      five minutes. `sockwatch explain slow-accept`.",
        unit: "short",
        width: 4,
        look: Look::Value { warning: 1.0, critical: 2.0 },
        queries: &[(
            "count(histogram_quantile(0.99, rate(sockwatch_queue_wait_seconds_bucket{LISTENER}[5m])) > 0.1) \
             or vector(0)",
            "",
        )],
    },
    Panel {
        title: "Listeners that nobody serves",
        description: "Somebody waits for more than five seconds, and nobody was accepted for two minutes. `sockwatch \
                      explain nobody-accepts`.",
        unit: "short",
        width: 4,
        look: Look::Value { warning: 1.0, critical: 1.0 },
        queries: &[(
            "count(sockwatch_accept_queue_oldest_age_seconds{LISTENER} > 5 \
             and increase(sockwatch_accept_queue_accepts_total{LISTENER}[2m]) == 0) or vector(0)",
            "",
        )],
    },
    Panel {
        title: "Longest wait now",
        description: "How long the oldest connection in any accept queue has waited until now. Who is never accepted \
                      is in no histogram, but here.",
        unit: "s",
        width: 4,
        look: Look::Value { warning: 0.1, critical: 1.0 },
        queries: &[("max(sockwatch_accept_queue_oldest_age_seconds{LISTENER})", "")],
    },
    Panel {
        title: "Fullest accept queue",
        description: "Places that are taken in the fullest accept queue. At 100 % the kernel drops SYNs and the last \
                      ACKs of handshakes. `sockwatch explain accept-queue`.",
        unit: "percentunit",
        width: 4,
        look: Look::Value { warning: 0.5, critical: 0.8 },
        queries: &[("max(sockwatch_accept_queue_depth{LISTENER} / (sockwatch_accept_queue_limit{LISTENER} + 1))", "")],
    },
    Panel {
        title: "Found the queue full",
        description: "Last ACKs of handshakes that found the accept queue full in the range of time above. \
                      `sockwatch explain queue-too-small`.",
        unit: "short",
        width: 4,
        look: Look::Value { warning: 1.0, critical: 100.0 },
        queries: &[("round(sum(increase(sockwatch_accept_queue_overflows_total{LISTENER}[$__range])))", "")],
    },
    Panel {
        title: "Left before they were accepted",
        description: "Share of the connections in the range of time above whose clients left the accept queue before \
                      anybody accepted them. `sockwatch explain clients-leave`.",
        unit: "percentunit",
        width: 4,
        look: Look::Value { warning: 0.01, critical: 0.05 },
        queries: &[(
            "sum(increase(sockwatch_accept_queue_abandoned_total{LISTENER}[$__range])) \
             / sum(increase(sockwatch_accept_queue_arrivals_total{LISTENER}[$__range]))",
            "",
        )],
    },
    Panel {
        title: "Most ports taken to one destination",
        description: "Local ports that connections from one address to one destination take, TIME_WAIT included. \
                      There are 28,232 unless net.ipv4.ip_local_port_range was changed. `sockwatch explain \
                      port-exhaustion`.",
        unit: "short",
        width: 6,
        look: Look::Value { warning: 14_000.0, critical: 25_000.0 },
        queries: &[("max(sockwatch_local_ports_taken{HOST,destination!=\"other\"})", "")],
    },
    Panel {
        title: "Events lost",
        description: "Share of the events in the range of time above that sockwatch did not see or had to discard. \
                      `sockwatch explain lost`, `missed`, `dropped`.",
        unit: "percentunit",
        width: 6,
        look: Look::Value { warning: 0.000_1, critical: 0.001 },
        queries: &[(
            "(sum(increase(sockwatch_losses_total{HOST,\
             kind=~\"ring_full|members_full|waiting_room_full|decode_failed|tracker_full\"}[$__range])) \
             + clamp_min(sum(increase(sockwatch_losses_total{HOST,kind=~\"skipped|repeated\"}[$__range])) \
             - sum(increase(sockwatch_losses_total{HOST,kind=\"relieved\"}[$__range])), 0)) \
             / sum(increase(sockwatch_events_total{HOST}[$__range]))",
            "",
        )],
    },
    Panel {
        title: "Agrees with the kernel",
        description: "Share of the records in the kernel's own socket table that were what sockwatch believed, in the \
                      range of time above. `sockwatch explain repaired`.",
        unit: "percentunit",
        width: 6,
        look: Look::Value { warning: 0.999_9, critical: 0.999 },
        queries: &[(
            "sum(increase(sockwatch_reconcile_agreed_total{HOST}[$__range])) \
             / sum(increase(sockwatch_reconcile_compared_total{HOST}[$__range]))",
            "",
        )],
    },
    Panel {
        title: "Hosts",
        description: "Where sockwatch runs, which version, and where its events come from: ebpf, or poll, which sees \
                      only what is there when it looks.",
        unit: "short",
        width: 6,
        look: Look::Name,
        queries: &[("sockwatch_build_info{HOST}", "{{instance}}: {{version}}, {{source}}, Linux {{kernel}}")],
    },
];
