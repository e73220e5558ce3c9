//! The table of topics.

use super::{
    Kind::{Count, End, Finding, State, Term},
    Topic,
};

/// A row: kind, name, file, aliases.
macro_rules! topics {
    ($($kind:ident $name:literal $file:literal [$($alias:literal),*];)*) => {
        /// Every topic, each kind in the order in which a connection meets it.
        pub const TOPICS: &[Topic] = &[$(Topic {
            name: $name,
            kind: $kind,
            aliases: &[$($alias),*],
            file: $file,
            markdown: include_str!(concat!("../../docs/explain/", $file, ".md")),
        }),*];
    };
}

topics! {
    State "LISTEN" "listen" ["LISTENING", "tcp_abort_on_overflow"];
    State "SYN_SENT" "syn-sent" ["SYN-SENT", "tcp_syn_retries", "tcp_syn_linear_timeouts"];
    State "NEW_SYN_RECV" "new-syn-recv" ["request sock", "request"];
    State "SYN_RECV" "syn-recv" ["SYN-RECV", "SYN-RECEIVED", "tcp_synack_retries"];
    State "ESTABLISHED" "established" [
        "ESTAB", "keepalive", "tcp_keepalive_time", "tcp_keepalive_intvl", "tcp_keepalive_probes", "TCP_USER_TIMEOUT"
    ];
    State "FIN_WAIT1" "fin-wait1" ["FIN-WAIT-1"];
    State "FIN_WAIT2" "fin-wait2" ["FIN-WAIT-2", "tcp_fin_timeout"];
    State "CLOSING" "closing" [];
    State "TIME_WAIT" "time-wait" [
        "TIME-WAIT", "2MSL", "tcp_tw_reuse", "tcp_tw_reuse_delay", "tcp_max_tw_buckets", "ip_local_port_range",
        "ephemeral ports"
    ];
    State "CLOSE_WAIT" "close-wait" ["CLOSE-WAIT"];
    State "LAST_ACK" "last-ack" ["LAST-ACK"];
    State "CLOSE" "close" ["CLOSED", "UNCONN"];
    State "BOUND_INACTIVE" "bound-inactive" ["BOUND-INACTIVE"];

    End "local-fin" "local-fin" [];
    End "peer-fin" "peer-fin" [];
    End "both-fin" "both-fin" ["simultaneous close"];
    End "orphaned" "orphaned" [];
    End "peer-rst" "peer-rst" ["ECONNRESET", "EPIPE"];
    End "aborted" "aborted" ["SO_LINGER"];
    End "refused" "refused" ["ECONNREFUSED"];
    End "timed-out" "timed-out" ["ETIMEDOUT", "timeout", "tcp_retries2"];
    End "unreached" "unreached" ["EHOSTUNREACH", "unreachable"];
    End "given-up" "given-up" ["EADDRNOTAVAIL"];
    End "abandoned" "abandoned" [];
    End "unqueued" "unqueued" ["tcp_migrate_req"];
    End "duplicate" "duplicate" [];
    End "destroyed" "destroyed" ["ECONNABORTED"];
    End "stopped" "stopped" [];
    End "vanished" "vanished" [];

    Term "handshake" "handshake" ["SHAKE"];
    Term "SYN queue" "syn-queue" ["tcp_max_syn_backlog", "tcp_syncookies", "syncookies"];
    Term "accept queue" "accept-queue" [
        "backlog", "enqueued", "queued", "overflow", "accept queue overflow", "drops"
    ];
    Term "queue wait" "queue-wait" ["WAIT"];
    Term "owner" "owner" ["process", "held", "heir", "passed on", "unseen", "hidden"];
    Term "opener" "opener" [];
    Term "acceptor" "acceptor" ["accepted", "EMFILE", "ENFILE"];
    Term "listener" "listener" ["SO_REUSEPORT"];
    Term "dead on arrival" "dead-on-arrival" [];
    Term "orphan" "orphan" ["tcp_max_orphans", "tcp_orphan_retries"];
    Term "minisock" "minisock" ["time-wait sock", "segment at minisock"];
    Term "RST" "rst" [
        "reset", "RST sent", "RST received", "RST sent STATE", "TCP_STATE", "ABORT_ON_CLOSE", "ABORT_ON_DATA",
        "ABORT_ON_LINGER", "ABORT_ON_MEMORY", "DISCONNECT_WITH_DATA", "KEEPALIVE_TIMEOUT", "NO_SOCKET",
        "TIMEWAIT_SOCKET", "INVALID_SYN", "TOO_OLD_ACK", "OLD_ACK", "ACK_UNSENT_DATA", "INVALID_ACK_SEQUENCE",
        "RFC7323_PAWS", "TCP_FLAGS"
    ];
    Term "sampled" "sampled" ["polling"];

    Finding "slow-accept" "slow-accept" [];
    Finding "acceptor-blocked" "acceptor-blocked" ["BLAME"];
    Finding "acceptor-starved" "acceptor-starved" ["nr_throttled"];
    Finding "acceptor-busy" "acceptor-busy" [];
    Finding "nobody-accepts" "nobody-accepts" [];
    Finding "queue-too-small" "queue-too-small" [];
    Finding "somaxconn" "somaxconn" [];
    Finding "descriptor-limit" "descriptor-limit" [];
    Finding "worker-skew" "worker-skew" [];
    Finding "syn-flood" "syn-flood" [];
    Finding "defer-accept" "defer-accept" ["TCP_DEFER_ACCEPT"];
    Finding "slow-handshake" "slow-handshake" [];
    Finding "clients-leave" "clients-leave" [];
    Finding "close-wait-leak" "close-wait-leak" [];
    Finding "close-wait-unaccepted" "close-wait-unaccepted" [];
    Finding "port-exhaustion" "port-exhaustion" [];
    Finding "slow-reader" "slow-reader" [];
    Finding "resets" "resets" [];
    Finding "stuck-fin-wait1" "stuck-fin-wait1" [];
    Finding "orphan-fin-wait2" "orphan-fin-wait2" [];
    Finding "dead-peer" "dead-peer" [];

    Count "lost" "lost" ["ring_full", "members_full", "waiting_room_full"];
    Count "missed" "missed" ["recursion_misses"];
    Count "unmatched" "unmatched" [];
    Count "dropped" "dropped" ["decode_failed", "tracker_full", "unrecorded", "evicted"];
    Count "late" "late" [];
    Count "unexpected" "unexpected" [];
    Count "repaired" "repaired" ["disagreement", "reconcile", "audit"];
}
