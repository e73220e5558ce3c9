//! Columns in the making: a value is set at its row, and the rows before it that have none are filled in then. So a row
//! costs what it holds, not what it could hold.

use std::{
    marker::PhantomData,
    sync::{Arc, OnceLock},
};

use arrow_array::{
    ArrayRef, ArrowPrimitiveType, DictionaryArray, FixedSizeBinaryArray, PrimitiveArray, StringArray, types::Int8Type,
};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;

use super::words::Word;

/// Bytes of an address.
pub(super) const ADDRESS_BYTES: usize = 16;

/// A column in the making.
pub(super) trait Column: Default {
    /// What it holds, as Arrow calls it.
    fn data_type() -> DataType;

    /// The whole column of so many rows; it is empty afterwards.
    fn finish(&mut self, rows: usize) -> ArrayRef;
}

/// Which rows have a value. A byte for each costs less than a bit, as long as they come one by one.
#[derive(Debug, Default)]
struct Filled {
    rows: Vec<bool>,
    count: usize,
}

impl Filled {
    #[inline]
    fn fill(&mut self, row: usize) {
        self.rows.resize(row, false);
        self.rows.push(true);
        self.count += 1;
    }

    /// Whether no row has one.
    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// `None` if all have one.
    fn finish(&mut self, rows: usize) -> Option<NullBuffer> {
        let nulls = match self.count {
            0 => Some(NullBuffer::new_null(rows)),
            count if count == rows => None,
            _some => {
                self.rows.resize(rows, false);
                Some(NullBuffer::from(self.rows.as_slice()))
            }
        };
        self.rows.clear();
        self.count = 0;
        nulls
    }
}

/// So many zero bytes, always the same: for columns without any value, which most are in most batches.
fn zeros(bytes: usize) -> Buffer {
    static ZEROS: OnceLock<Buffer> = OnceLock::new();
    let zeros = ZEROS.get_or_init(|| Buffer::from_vec(vec![0_u64; MOST_ZEROS / 8]));
    if bytes <= MOST_ZEROS {
        return zeros.slice_with_length(0, bytes);
    }
    // A listing of very many sockets is one batch. Words, not bytes: columns of them must be aligned.
    Buffer::from_vec(vec![0_u64; bytes.div_ceil(8)]).slice_with_length(0, bytes)
}

/// The widest column of the longest batch.
const MOST_ZEROS: usize = ADDRESS_BYTES << 16;

/// A column of numbers.
#[derive(Debug)]
pub(super) struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    filled: Filled,
}

impl<T: ArrowPrimitiveType> Default for Numbers<T> {
    fn default() -> Self {
        Self { values: Vec::new(), filled: Filled::default() }
    }
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    /// Sets the value of a row behind all that have one.
    #[inline]
    pub(super) fn set(&mut self, row: usize, value: T::Native) {
        self.values.resize(row, T::Native::default());
        self.values.push(value);
        self.filled.fill(row);
    }

    /// The same where there is one.
    #[inline]
    pub(super) fn option(&mut self, row: usize, value: Option<T::Native>) {
        if let Some(value) = value {
            self.set(row, value);
        }
    }

    fn array(&mut self, rows: usize) -> PrimitiveArray<T> {
        if self.filled.is_empty() {
            return PrimitiveArray::new(
                ScalarBuffer::new(zeros(rows * size_of::<T::Native>()), 0, rows),
                self.filled.finish(rows),
            );
        }
        self.values.resize(rows, T::Native::default());
        // The next batch will have about as many.
        let values = std::mem::replace(&mut self.values, Vec::with_capacity(rows));
        PrimitiveArray::new(ScalarBuffer::from(values), self.filled.finish(rows))
    }
}

impl<T: ArrowPrimitiveType> Column for Numbers<T> {
    fn data_type() -> DataType {
        T::DATA_TYPE
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        Arc::new(self.array(rows))
    }
}

/// A column of words.
#[derive(Debug)]
pub(super) struct Words<W> {
    numbers: Numbers<Int8Type>,
    words: PhantomData<W>,
}

impl<W> Default for Words<W> {
    fn default() -> Self {
        Self { numbers: Numbers::default(), words: PhantomData }
    }
}

impl<W: Word> Words<W> {
    /// Sets the word of a row behind all that have one.
    #[inline]
    pub(super) fn set(&mut self, row: usize, word: W) {
        self.numbers.set(row, word.number() as i8);
    }
}

impl<W: Word> Column for Words<W> {
    fn data_type() -> DataType {
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8))
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        Arc::new(DictionaryArray::new(self.numbers.array(rows), Arc::clone(W::dictionary())))
    }
}

/// A column of texts.
#[derive(Debug, Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    /// Where each row's text ends.
    ends: Vec<i32>,
    filled: Filled,
}

impl Texts {
    /// Sets the text of a row behind all that have one.
    #[inline]
    pub(super) fn set(&mut self, row: usize, text: &str) {
        let end = self.end();
        self.ends.resize(row, end);
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(self.end());
        self.filled.fill(row);
    }

    /// A batch is cut long before there are so many bytes.
    fn end(&self) -> i32 {
        i32::try_from(self.bytes.len()).unwrap_or(i32::MAX)
    }
}

impl Column for Texts {
    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        if self.filled.is_empty() {
            let offsets = OffsetBuffer::new(ScalarBuffer::new(zeros((rows + 1) * size_of::<i32>()), 0, rows + 1));
            return Arc::new(StringArray::new(offsets, zeros(0), self.filled.finish(rows)));
        }
        let end = self.end();
        self.ends.resize(rows, end);
        let ends = std::mem::replace(&mut self.ends, Vec::with_capacity(rows));
        let offsets = OffsetBuffer::new(std::iter::once(0).chain(ends).collect());
        let bytes = Buffer::from_vec(std::mem::take(&mut self.bytes));
        Arc::new(StringArray::new(offsets, bytes, self.filled.finish(rows)))
    }
}

/// A column of addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    bytes: Vec<u8>,
    filled: Filled,
}

impl Addresses {
    /// Sets the address of a row behind all that have one.
    #[inline]
    pub(super) fn set(&mut self, row: usize, address: [u8; ADDRESS_BYTES]) {
        self.bytes.resize(row * ADDRESS_BYTES, 0);
        self.bytes.extend_from_slice(&address);
        self.filled.fill(row);
    }
}

impl Column for Addresses {
    fn data_type() -> DataType {
        DataType::FixedSizeBinary(ADDRESS_BYTES as i32)
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        if self.filled.is_empty() {
            let bytes = zeros(rows * ADDRESS_BYTES);
            return Arc::new(FixedSizeBinaryArray::new(ADDRESS_BYTES as i32, bytes, self.filled.finish(rows)));
        }
        self.bytes.resize(rows * ADDRESS_BYTES, 0);
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(rows * ADDRESS_BYTES));
        Arc::new(FixedSizeBinaryArray::new(ADDRESS_BYTES as i32, Buffer::from_vec(bytes), self.filled.finish(rows)))
    }
}
