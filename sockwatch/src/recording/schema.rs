//! The columns of a recording. Which of them a row fills depends on its kind; columns may be added, and readers ignore
//! those that they do not know.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, RecordBatch,
    types::{Int32Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type},
};
use arrow_schema::{Field, Metadata, Schema, SchemaRef};

use super::{
    cells::Readable,
    columns::{Addresses, Column, Numbers, Texts, Words},
    words::{Kind, What},
};
use crate::tcp::state::TcpState;

macro_rules! columns {
    ($($(#[doc = $doc:literal])+ $name:ident: $column:ty,)+) => {
        /// All columns in the making.
        #[derive(Debug, Default)]
        pub(super) struct Columns {
            $($(#[doc = $doc])+ pub(super) $name: $column,)+
        }

        impl Columns {
            /// The whole columns of so many rows; they are empty afterwards.
            pub(super) fn finish(&mut self, rows: usize) -> Vec<ArrayRef> {
                vec![$(self.$name.finish(rows),)+]
            }
        }

        /// All columns of a batch, read.
        #[derive(Default)]
        pub(super) struct Cells {
            $($(#[doc = $doc])+ pub(super) $name: <$column as Readable>::Cells,)+
        }

        impl Cells {
            /// # Errors
            /// The name of a column that holds something else than it should.
            pub(super) fn of(batch: &RecordBatch) -> Result<Self, &'static str> {
                let mut cells = Self::default();
                $(if let Some(array) = batch.column_by_name(stringify!($name)) {
                    cells.$name = <$column as Readable>::read(array).ok_or(stringify!($name))?;
                })+
                Ok(cells)
            }
        }

        /// The columns: name, type, meaning.
        fn fields() -> Vec<(&'static str, arrow_schema::DataType, String)> {
            vec![$((stringify!($name), <$column as Column>::data_type(), [$($doc.trim()),+].join(" ")),)+]
        }
    };
}

columns! {
    /// When, in nanoseconds of CLOCK_MONOTONIC: `clock` rows say what time of day that is.
    at_ns: Numbers<UInt64Type>,
    /// What the row tells.
    kind: Words<Kind>,
    /// The network namespace's inode number.
    netns: Numbers<UInt32Type>,
    /// The socket's cookie: with netns, its identity. 0: the kernel had given it none yet.
    cookie: Numbers<UInt64Type>,
    /// The address of the kernel's struct sock: an identity from birth to destroy only.
    skaddr: Numbers<UInt64Type>,
    /// 4 or 6.
    family: Numbers<UInt8Type>,
    /// The local address, 16 bytes in network order; that of an IPv4 socket as ::ffff:a.b.c.d.
    local_address: Addresses,
    /// The local port.
    local_port: Numbers<UInt16Type>,
    /// The remote address, as the local one.
    remote_address: Addresses,
    /// The remote port.
    remote_port: Numbers<UInt16Type>,
    /// The state before.
    old: Words<TcpState>,
    /// The state after, or the one that it is in.
    new: Words<TcpState>,
    /// The process that did it; of a closing, the one that was running.
    pid: Numbers<UInt32Type>,
    /// Its thread.
    tid: Numbers<UInt32Type>,
    /// The thread's name, up to 15 bytes.
    comm: Texts,
    /// The descriptor that accept() returned.
    fd: Numbers<Int32Type>,
    /// accept_failed: the errno.
    errno: Numbers<Int32Type>,
    /// The cookie of the listener that it was queued at.
    listener: Numbers<UInt64Type>,
    /// Accept queue depth: at a birth, before it.
    queue_depth: Numbers<UInt32Type>,
    /// Accept queue limit: the queue takes one more than this.
    queue_limit: Numbers<UInt32Type>,
    /// enqueue: when the first SYN-ACK was sent, as at_ns.
    synack_at_ns: Numbers<UInt64Type>,
    /// enqueue: SYN-ACKs sent again.
    synack_retransmits: Numbers<UInt32Type>,
    /// reset_sent: enum sk_rst_reason, whose names are in the metadata.
    reset_reason: Numbers<UInt32Type>,
    /// closing: payload bytes that the peer acknowledged.
    acked_bytes: Numbers<UInt64Type>,
    /// closing: payload bytes that arrived in order.
    received_bytes: Numbers<UInt64Type>,
    /// closing: bytes that nobody read.
    unread_bytes: Numbers<UInt32Type>,
    /// closing: segments sent.
    segments_out: Numbers<UInt32Type>,
    /// closing: sk_err, an errno.
    error: Numbers<UInt16Type>,
    /// closing: sk_err_soft.
    soft_error: Numbers<UInt16Type>,
    /// closing: retransmissions in a row that nobody acknowledged.
    retransmits: Numbers<UInt8Type>,
    /// closing: probes that nobody answered.
    probes: Numbers<UInt8Type>,
    /// closing: sk_shutdown, 1 receive, 2 send.
    shutdown: Numbers<UInt8Type>,
    /// closing: TCP_LINGER2 in clock ticks, negative: abort.
    linger2: Numbers<Int32Type>,
    /// closing: TCP_USER_TIMEOUT in milliseconds.
    user_timeout_ms: Numbers<UInt32Type>,
    /// closing: how long an orphan stays in FIN_WAIT2, in milliseconds.
    fin_timeout_ms: Numbers<UInt32Type>,
    /// Bits: 1 perhaps repeated, 2 by a minisock; closing: 4 evidence, 8 all acknowledged, 16 dead, 32 done, 64 linger,
    /// 128 has a descriptor; listing: 256 first, 512 follows all; socket: 1024 passes the filter; loss: 2048 lost
    /// before this batch.
    flags: Numbers<UInt16Type>,
    /// listed, unlisted: how long ago the previous listing was, in nanoseconds.
    interval_ns: Numbers<UInt64Type>,
    /// listing, socket: not written before this, as at_ns.
    from_ns: Numbers<UInt64Type>,
    /// socket: a minisock's remaining time in nanoseconds.
    expires_in_ns: Numbers<UInt64Type>,
    /// socket: sk_drops of a listener.
    drops: Numbers<UInt32Type>,
    /// socket, holder: the number by which processes hold it; 0 if none does.
    inode: Numbers<UInt32Type>,
    /// listing: net.core.somaxconn.
    somaxconn: Numbers<UInt32Type>,
    /// What is counted.
    what: Words<What>,
    /// How many.
    count: Numbers<UInt64Type>,
    /// process: the first word of its command line.
    command: Texts,
    /// process: the path of its cgroup.
    cgroup: Texts,
}

/// The schema, with what is told of the whole recording.
pub fn schema(metadata: Metadata) -> SchemaRef {
    let fields = fields().into_iter().map(|(name, data_type, _)| Field::new(name, data_type, true));
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), metadata))
}

/// What each column holds, in their order.
pub(super) fn meanings() -> impl Iterator<Item = String> {
    fields().into_iter().map(|(_, _, meaning)| meaning)
}

/// The bits of `flags`.
pub(super) mod flag {
    pub(in crate::recording) const AGAIN: u16 = 1;
    pub(in crate::recording) const MINISOCK: u16 = 1 << 1;
    pub(in crate::recording) const EVIDENCE: u16 = 1 << 2;
    pub(in crate::recording) const ALL_ACKED: u16 = 1 << 3;
    pub(in crate::recording) const DEAD: u16 = 1 << 4;
    pub(in crate::recording) const DONE: u16 = 1 << 5;
    pub(in crate::recording) const LINGER: u16 = 1 << 6;
    pub(in crate::recording) const HAS_SOCKET: u16 = 1 << 7;
    pub(in crate::recording) const FIRST: u16 = 1 << 8;
    pub(in crate::recording) const FOLLOWS_ALL: u16 = 1 << 9;
    pub(in crate::recording) const OURS: u16 = 1 << 10;
    pub(in crate::recording) const BEFORE: u16 = 1 << 11;
}
