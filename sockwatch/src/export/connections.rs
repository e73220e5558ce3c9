//! What each finished connection came to, as rows of a table.

use std::{io, sync::Arc};

use arrow_array::{
    ArrayRef, RecordBatch, TimestampMicrosecondArray,
    builder::{
        BooleanBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder, UInt16Builder,
        UInt32Builder, UInt64Builder,
    },
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::table::{Table, TableError};
use crate::{
    pipeline::Totals,
    process::names::Names,
    recording::header::Header,
    sink::{Sink, wall::Wall},
    tcp::{
        close::Ending,
        connection::{Connection, Role},
        sentence::sentence,
        update::{Happening, Update},
    },
};

/// The time zone of instants.
const UTC: &str = "+00:00";

/// Instants, of microseconds: Spark and others know no nanoseconds.
#[derive(Default)]
struct Instants(TimestampMicrosecondBuilder);

impl Instants {
    fn append_value(&mut self, unix_ns: u64) {
        self.0.append_value((unix_ns / 1000).cast_signed());
    }

    fn finish(&mut self) -> TimestampMicrosecondArray {
        self.0.finish().with_timezone(UTC)
    }
}

/// Rows of a batch at most.
const BATCH_ROWS: usize = 1 << 14;

macro_rules! columns {
    ($($(#[doc = $doc:literal])+ $name:ident: $builder:ty = $data_type:expr,)+) => {
        /// The columns in the making.
        #[derive(Default)]
        struct Builders {
            $($(#[doc = $doc])+ $name: $builder,)+
        }

        impl Builders {
            fn finish(&mut self) -> Vec<ArrayRef> {
                vec![$(Arc::new(self.$name.finish()) as ArrayRef,)+]
            }
        }

        /// Name, type and meaning of each column.
        pub(super) fn columns() -> Vec<(&'static str, DataType, &'static str)> {
            vec![$((stringify!($name), $data_type, concat!($($doc),+).trim()),)+]
        }
    };
}

columns! {
    /// The machine's name.
    host: StringBuilder = DataType::Utf8,
    /// When it was first seen, UTC.
    first_seen: Instants = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
    /// When it reached CLOSE, or was gone, UTC.
    ended: Instants = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
    /// The network namespace's inode number.
    netns: UInt32Builder = DataType::UInt32,
    /// The socket's cookie.
    cookie: UInt64Builder = DataType::UInt64,
    /// How often this socket was opened before.
    incarnation: UInt32Builder = DataType::UInt32,
    /// active, passive, listener or unknown.
    role: StringBuilder = DataType::Utf8,
    /// The local address.
    local_address: StringBuilder = DataType::Utf8,
    /// The local port.
    local_port: UInt16Builder = DataType::UInt16,
    /// The remote address.
    remote_address: StringBuilder = DataType::Utf8,
    /// The remote port.
    remote_port: UInt16Builder = DataType::UInt16,
    /// The owner's process id.
    pid: UInt32Builder = DataType::UInt32,
    /// The owner's name.
    process: StringBuilder = DataType::Utf8,
    /// The systemd unit of its owner.
    unit: StringBuilder = DataType::Utf8,
    /// The cgroup of its owner.
    cgroup: StringBuilder = DataType::Utf8,
    /// How it ended, in a word (`sockwatch explain WORD`).
    end: StringBuilder = DataType::Utf8,
    /// Who ended it and why, in a sentence.
    why: StringBuilder = DataType::Utf8,
    /// Birth to end, in nanoseconds.
    lifetime_ns: UInt64Builder = DataType::UInt64,
    /// First SYN-ACK to accept queue, in nanoseconds.
    handshake_ns: Int64Builder = DataType::Int64,
    /// Accept queue to accept, in nanoseconds.
    wait_ns: Int64Builder = DataType::Int64,
    /// It left the accept queue before anybody accepted it.
    abandoned: BooleanBuilder = DataType::Boolean,
    /// The listener's cookie.
    listener: UInt64Builder = DataType::UInt64,
    /// The accept queue's depth before it.
    queue_depth: UInt32Builder = DataType::UInt32,
    /// The accept queue's limit.
    queue_limit: UInt32Builder = DataType::UInt32,
    /// The descriptor that accept returned.
    fd: Int32Builder = DataType::Int32,
    /// Segments sent again.
    retransmits: UInt32Builder = DataType::UInt32,
    /// RSTs sent.
    resets_sent: UInt32Builder = DataType::UInt32,
    /// RSTs received.
    resets_received: UInt32Builder = DataType::UInt32,
    /// Payload bytes sent and acknowledged.
    acked_bytes: UInt64Builder = DataType::UInt64,
    /// Payload bytes received.
    received_bytes: UInt64Builder = DataType::UInt64,
    /// Bytes that nobody had read when it ended.
    unread_bytes: UInt32Builder = DataType::UInt32,
    /// sk_err at the end, an errno; 0 if none.
    error: UInt16Builder = DataType::UInt16,
}

/// Writes a row for each finished connection.
pub struct Connections<T> {
    table: T,
    schema: SchemaRef,
    builders: Builders,
    rows: usize,
    total: u64,
    host: String,
    wall: Wall,
    names: Names,
}

impl<T: Table> Connections<T> {
    /// Into this table.
    pub fn new(table: T, header: &Header, wall: Wall, names: Names) -> Self {
        Self {
            table,
            schema: schema(),
            builders: Builders::default(),
            rows: 0,
            total: 0,
            host: header.host.clone(),
            wall,
            names,
        }
    }

    /// Writes what is left. Returns the table, and how many rows it has.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<(T, u64), TableError> {
        self.write()?;
        Ok((self.table, self.total))
    }

    fn write(&mut self) -> Result<(), TableError> {
        let batch = RecordBatch::try_new(SchemaRef::clone(&self.schema), self.builders.finish())?;
        self.rows = 0;
        self.table.write(&batch)
    }

    fn row(&mut self, connection: &Connection, at_ns: u64) {
        let unix_ns = |at_ns| self.wall.unix_ns(at_ns);
        let rows = &mut self.builders;
        rows.host.append_value(&self.host);
        rows.first_seen.append_value(unix_ns(connection.first_seen_ns));
        rows.ended.append_value(unix_ns(connection.ended_ns.unwrap_or(at_ns)));
        rows.netns.append_value(connection.key.netns);
        rows.cookie.append_value(connection.key.cookie);
        rows.incarnation.append_value(connection.incarnation);
        rows.role.append_value(connection.role.word());
        rows.local_address.append_value(connection.local.address.to_string());
        rows.local_port.append_value(connection.local.port);
        rows.remote_address.append_value(connection.remote.address.to_string());
        rows.remote_port.append_value(connection.remote.port);
        let owner = connection.ownership.owner();
        rows.pid.append_option(owner.map(|owner| owner.pid));
        rows.process.append_option(owner.map(|owner| owner.comm.to_string()));
        let closer = connection.ownership.closer.and_then(|closer| self.names.of_thread(closer, at_ns));
        let workload = owner.and_then(|owner| self.names.of(owner.pid, at_ns)).map(|process| &process.workload);
        rows.unit.append_option(workload.and_then(|workload| workload.unit.as_deref()));
        rows.cgroup.append_option(workload.and_then(|workload| workload.cgroup.as_deref()));
        rows.end.append_option(connection.ending.map(Ending::word));
        rows.why.append_option(sentence(connection, closer));
        rows.lifetime_ns.append_option(connection.lifetime_ns());
        let queued = connection.queued.filter(|_| connection.role == Role::Passive);
        rows.handshake_ns.append_option(queued.and_then(|queued| queued.handshake_ns));
        rows.wait_ns.append_option(queued.and_then(|queued| queued.wait_ns()));
        rows.abandoned.append_value(connection.is_queued());
        rows.listener.append_option(connection.ownership.listener);
        rows.queue_depth.append_option(queued.and_then(|queued| queued.depth));
        rows.queue_limit.append_option(connection.queued.and_then(|queued| queued.limit));
        rows.fd.append_option(connection.ownership.fd);
        rows.retransmits.append_value(connection.retransmits);
        rows.resets_sent.append_value(connection.resets.sent);
        rows.resets_received.append_value(connection.resets.received);
        let payload = connection.payload();
        rows.acked_bytes.append_option(payload.and_then(|payload| payload.acked_bytes));
        rows.received_bytes.append_option(payload.map(|payload| payload.received_bytes));
        rows.unread_bytes.append_option(payload.map(|payload| payload.unread_bytes));
        rows.error.append_option(connection.evidence.map(|evidence| evidence.error));
        self.rows += 1;
        self.total += 1;
    }
}

/// The table's columns.
pub fn schema() -> SchemaRef {
    let fields = columns().into_iter().map(|(name, data_type, _)| Field::new(name, data_type, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl<T: Table> Sink for Connections<T> {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        if let Happening::Ended(connection) = &update.happening {
            self.row(connection, update.at_ns);
            if self.rows >= BATCH_ROWS {
                self.write().map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
        Ok(())
    }
}
