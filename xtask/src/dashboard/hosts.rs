//! What happens on each host, and what sockwatch itself costs and loses there.

use super::panels::{Look, Panel};

pub(super) const CONNECTIONS: &[Panel] = &[
    Panel {
        title: "Sockets by state",
        description: "CLOSE_WAIT that only grows is a process that does not close; TIME_WAIT is of the end that \
                      closed first and goes by itself. `sockwatch explain CLOSE_WAIT`, or any other.",
        unit: "short",
        width: 12,
        look: Look::Areas,
        queries: &[("sum by (state) (sockwatch_sockets{HOST}) > 0", "{{state}}")],
    },
    Panel {
        title: "How connections end",
        description: "By the words of the column END: `sockwatch explain peer-rst`, or any other. Connections between \
                      two ends of one host count twice.",
        unit: "cps",
        width: 12,
        look: Look::Areas,
        queries: &[(
            "sum by (role, end) (rate(sockwatch_connections_ended_total{HOST,role!=\"listener\"}[$__rate_interval]))",
            "{{role}} {{end}}",
        )],
    },
    Panel {
        title: "RSTs sent, by cause",
        description: "Why the kernel reset a connection, in its own words (Linux 6.10 and later). `sockwatch explain \
                      RST`.",
        unit: "cps",
        width: 8,
        look: Look::Lines,
        queries: &[("sum by (cause) (rate(sockwatch_resets_sent_total{HOST}[$__rate_interval]))", "{{cause}}")],
    },
    Panel {
        title: "RSTs received",
        description: "By the part of this end: active connected, passive was accepted.",
        unit: "cps",
        width: 8,
        look: Look::Lines,
        queries: &[("sum by (role) (rate(sockwatch_resets_received_total{HOST}[$__rate_interval]))", "{{role}}")],
    },
    Panel {
        title: "Segments sent again",
        description: "Retransmissions of connections; SYN-ACKs are not in it.",
        unit: "cps",
        width: 8,
        look: Look::Lines,
        queries: &[("rate(sockwatch_retransmits_total{HOST}[$__rate_interval])", "{{instance}}")],
    },
];

pub(super) const PORTS: &[Panel] = &[
    Panel {
        title: "Local ports taken now",
        description: "The ten destinations to which most local ports are taken, TIME_WAIT included. Each source and \
                      destination has the whole range for itself: 28,232 by default.",
        unit: "short",
        width: 8,
        look: Look::Bars { warning: 14_000.0, critical: 25_000.0 },
        queries: &[(
            "topk(10, sockwatch_local_ports_taken{HOST,destination!=\"other\"})",
            "{{source}} to {{destination}} {{instance}}",
        )],
    },
    Panel {
        title: "Local ports taken",
        description: "To which destinations ports are taken, where they are 100 or more. When none is left, connect() \
                      fails with EADDRNOTAVAIL. `sockwatch explain port-exhaustion`.",
        unit: "short",
        width: 8,
        look: Look::Lines,
        queries: &[(
            "sockwatch_local_ports_taken{HOST,destination!=\"other\"} >= 100",
            "{{source}} to {{destination}} {{instance}}",
        )],
    },
    Panel {
        title: "TIME_WAIT",
        description: "Each keeps a port and some memory for 60 s. net.ipv4.tcp_max_tw_buckets bounds how many there \
                      may be. `sockwatch explain TIME_WAIT`.",
        unit: "short",
        width: 8,
        look: Look::Lines,
        queries: &[("sockwatch_sockets{HOST,state=\"TIME_WAIT\"}", "{{instance}}")],
    },
];

pub(super) const ITSELF: &[Panel] = &[
    Panel {
        title: "Losses and doubts",
        description: "What was not seen, repeated or doubtful, by its counter. What was skipped and relieved is \
                      whole again. `sockwatch explain lost`, `missed`, `dropped`, `late`, `unexpected`.",
        unit: "cps",
        width: 8,
        look: Look::Lines,
        queries: &[("rate(sockwatch_losses_total{HOST}[$__rate_interval]) > 0", "{{kind}} {{instance}}")],
    },
    Panel {
        title: "Corrections after the kernel's table",
        description: "Sockets and depths that sockwatch had believed otherwise. `sockwatch explain repaired`.",
        unit: "cps",
        width: 8,
        look: Look::Lines,
        queries: &[("rate(sockwatch_reconcile_repairs_total{HOST}[$__rate_interval])", "{{kind}} {{instance}}")],
    },
    Panel {
        title: "Connections of no listener",
        description: "Accepted connections whose listener is not known, and listeners that share the series other \
                      because there are too many (--max-listeners).",
        unit: "cps",
        width: 8,
        look: Look::Lines,
        queries: &[
            ("rate(sockwatch_accepts_unattributed_total{HOST}[$__rate_interval])", "unattributed {{instance}}"),
            ("rate(sockwatch_listeners_folded_total{HOST}[$__rate_interval])", "folded {{instance}}"),
        ],
    },
    Panel {
        title: "CPU",
        description: "CPUs that sockwatch takes in user space, and that its programs take in the kernel from whoever \
                      they watch (only while kernel.bpf_stats_enabled is 1).",
        unit: "percentunit",
        width: 8,
        look: Look::Lines,
        queries: &[
            ("rate(process_cpu_seconds_total{HOST}[$__rate_interval])", "user space {{instance}}"),
            (
                "sum by (instance) (rate(sockwatch_program_run_seconds_total{HOST}[$__rate_interval]))",
                "kernel side {{instance}}",
            ),
        ],
    },
    Panel {
        title: "Memory",
        description: "Resident memory of sockwatch: some 700 bytes for a live socket, 320 for one in TIME_WAIT.",
        unit: "bytes",
        width: 8,
        look: Look::Lines,
        queries: &[("process_resident_memory_bytes{HOST}", "{{instance}}")],
    },
    Panel {
        title: "Events",
        description: "Events that sockwatch takes in; a connection of two loopback ends is 14.",
        unit: "cps",
        width: 8,
        look: Look::Lines,
        queries: &[("rate(sockwatch_events_total{HOST}[$__rate_interval])", "{{instance}}")],
    },
    Panel {
        title: "Read from the kernel",
        description: "Bytes of the records in the ring buffers.",
        unit: "Bps",
        width: 12,
        look: Look::Lines,
        queries: &[("rate(sockwatch_read_bytes_total{HOST}[$__rate_interval])", "{{instance}}")],
    },
    Panel {
        title: "Requests to sockwatch",
        description: "Requests that were answered, by path and status, and clients that were turned away, by reason.",
        unit: "cps",
        width: 12,
        look: Look::Lines,
        queries: &[
            ("rate(sockwatch_http_requests_total{HOST}[$__rate_interval])", "{{path}} {{code}} {{instance}}"),
            ("rate(sockwatch_http_refused_total{HOST}[$__rate_interval]) > 0", "refused: {{reason}} {{instance}}"),
        ],
    },
];
