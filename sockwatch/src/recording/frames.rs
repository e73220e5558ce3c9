//! Messages of an Arrow stream, one after the other, none larger than ours are: a file may come from anywhere.

use std::io::{self, Read};

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::{MessageHeader, convert::try_fb_to_schema, reader::StreamDecoder, root_as_message};
use arrow_schema::{DataType, SchemaRef};

use super::{FormatError, layout};

/// Bytes that describe a message at most.
const MOST_METADATA: u32 = 1 << 20;

/// Bytes of a message's columns at most, as they are in the file.
const MOST_BODY: u64 = 1 << 28;

/// Bytes of a message's columns at most, decompressed.
const MOST_DECOMPRESSED: u64 = 1 << 29;

/// Rows of a batch at most.
const MOST_ROWS: i64 = 1 << 22;

/// What all messages begin with.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its mark: whoever wrote it has finished.
    Marked,
    /// Without: whoever wrote it still does, or was stopped at once.
    Unmarked,
    /// Within a batch.
    Cut,
}

/// Reads messages.
pub(super) struct Frames<R> {
    input: R,
    decoder: StreamDecoder,
    /// The columns', once the schema has come.
    types: Vec<DataType>,
    /// Bytes that are well.
    at: u64,
    end: Option<End>,
}

impl<R: Read> Frames<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, decoder: StreamDecoder::new(), types: Vec::new(), at: 0, end: None }
    }

    /// Bytes that have been read and are well.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// How it ends, once it has.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// The schema, which comes first. `None` if the file ends before it is complete.
    pub(super) fn schema(&mut self) -> Result<Option<SchemaRef>, FormatError> {
        while self.decoder.schema().is_none() {
            let Some(message) = self.message()? else { break };
            self.decode(message)?;
        }
        Ok(self.decoder.schema())
    }

    /// The next batch; `None` at the end.
    pub(super) fn batch(&mut self) -> Result<Option<RecordBatch>, FormatError> {
        while let Some(message) = self.message()? {
            if let Some(batch) = self.decode(message)? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn decode(&mut self, message: Vec<u8>) -> Result<Option<RecordBatch>, FormatError> {
        let bytes = message.len() as u64;
        let mut buffer = Buffer::from_vec(message);
        let batch = self.decoder.decode(&mut buffer).map_err(|error| self.damaged(error))?;
        self.at += bytes;
        Ok(batch)
    }

    /// A whole message, checked for its size; `None` at the end.
    fn message(&mut self) -> Result<Option<Vec<u8>>, FormatError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let mut message = Vec::new();
        self.extend(&mut message, 8)?;
        match *message {
            [] => return Ok(self.ends(End::Unmarked)),
            [a, b, c, d, ..] if [a, b, c, d] != CONTINUATION => return Err(self.damaged("no message begins there")),
            _ if message.len() < 8 => return Ok(self.ends(End::Cut)),
            _ => {}
        }
        let length = u32::from_le_bytes(message[4..8].try_into().unwrap_or_default());
        if length == 0 {
            // The decoder looks at a message without columns only when the next one comes.
            self.decode(message)?;
            return Ok(self.ends(End::Marked));
        }
        if length > MOST_METADATA {
            return Err(self.damaged(format!("a message with {length} bytes of metadata")));
        }
        self.extend(&mut message, u64::from(length))?;
        let Some(metadata) = message[8..].get(..length as usize) else { return Ok(self.ends(End::Cut)) };
        let body = root_as_message(metadata).map_err(|error| self.damaged(error))?.bodyLength();
        let body = u64::try_from(body).ok().filter(|body| *body <= MOST_BODY);
        let Some(body) = body else { return Err(self.damaged("a message of a senseless length")) };
        self.extend(&mut message, body)?;
        let (metadata, body_read) = message[8..].split_at(length as usize);
        if (body_read.len() as u64) < body {
            return Ok(self.ends(End::Cut));
        }
        let checked = check(metadata, body_read, &self.types).map_err(|what| self.damaged(what))?;
        // The decoder tells its schema later.
        self.types.extend(checked);
        Ok(Some(message))
    }

    /// Appends so many bytes, or as many as there are.
    fn extend(&mut self, message: &mut Vec<u8>, bytes: u64) -> io::Result<()> {
        // Grows with what comes, not with what is announced.
        self.input.by_ref().take(bytes).read_to_end(message)?;
        Ok(())
    }

    fn ends(&mut self, end: End) -> Option<Vec<u8>> {
        self.end = Some(end);
        None
    }

    fn damaged(&self, what: impl ToString) -> FormatError {
        FormatError::Damaged { at: self.at, what: what.to_string() }
    }
}

/// Whether what a message unfolds to is within bounds, and as long as columns of these types must be. Returns the columns' types
/// if it is the schema.
fn check(metadata: &[u8], body: &[u8], types: &[DataType]) -> Result<Vec<DataType>, String> {
    let message = root_as_message(metadata).map_err(|error| error.to_string())?;
    let is_dictionary = message.header_type() == MessageHeader::DictionaryBatch;
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch().and_then(|it| it.data()),
        MessageHeader::Schema => return message.header_as_schema().map_or(Ok(Vec::new()), columns),
        _other => return Err("a message of an unknown kind".into()),
    };
    let Some(batch) = batch else { return Err("an empty message".into()) };
    let nodes: Vec<_> = batch.nodes().into_iter().flatten().map(|node| (node.length(), node.null_count())).collect();
    if std::iter::once(batch.length())
        .chain(nodes.iter().map(|node| node.0))
        .any(|rows| !(0..=MOST_ROWS).contains(&rows))
    {
        return Err("a batch with too many rows".into());
    }
    let compressed = batch.compression().is_some();
    let mut decompressed = 0_u64;
    let mut lengths = Vec::new();
    for buffer in batch.buffers().into_iter().flatten() {
        let column = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
        let column = column.and_then(|(offset, length)| body.get(offset..offset.checked_add(length)?));
        let Some(column) = column else { return Err("a column outside of its batch".into()) };
        if !compressed || column.is_empty() {
            lengths.push(column.len() as u64);
            continue;
        }
        // The first eight bytes say how many there will be; -1: they are as they are.
        let announced = column.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)).ok_or("a column that is cut")?;
        decompressed = decompressed.saturating_add(u64::try_from(announced.max(0)).unwrap_or(u64::MAX));
        if announced < -1 || decompressed > MOST_DECOMPRESSED {
            return Err("a batch that unfolds to too much".into());
        }
        lengths.push(u64::try_from(announced).unwrap_or(column.len() as u64 - 8));
    }
    let types = if is_dictionary { &[DataType::Utf8] } else { types };
    if layout::fits(types, &nodes, &lengths) { Ok(Vec::new()) } else { Err("a column of a wrong length".into()) }
}

/// The types of a schema's columns.
fn columns(schema: arrow_ipc::Schema<'_>) -> Result<Vec<DataType>, String> {
    let schema = try_fb_to_schema(schema).map_err(|error| error.to_string())?;
    let known = |data_type: DataType| match layout::is_known(&data_type) {
        true => Ok(data_type),
        false => Err(format!("a column of a type that no recording has: {data_type}")),
    };
    schema.fields().iter().map(|field| field.data_type().clone()).map(known).collect()
}
