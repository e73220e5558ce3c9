//! Columns of a file, read: a column that the file does not have has no value anywhere.

use std::marker::PhantomData;

use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, DictionaryArray, FixedSizeBinaryArray, PrimitiveArray, StringArray,
    cast::AsArray, types::Int8Type,
};

use super::{
    columns::{ADDRESS_BYTES, Addresses, Column, Numbers, Texts, Words},
    words::Word,
};

/// How a column is read.
pub(super) trait Readable: Column {
    /// What it is read by.
    type Cells: Default;

    /// `None` if it holds something else.
    fn read(array: &ArrayRef) -> Option<Self::Cells>;
}

/// Numbers.
#[derive(Debug)]
pub(super) struct NumberCells<T: ArrowPrimitiveType>(Option<PrimitiveArray<T>>);

impl<T: ArrowPrimitiveType> Default for NumberCells<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: ArrowPrimitiveType> NumberCells<T> {
    /// The row's number.
    #[inline]
    pub(super) fn get(&self, row: usize) -> Option<T::Native> {
        let array = self.0.as_ref()?;
        array.is_valid(row).then(|| array.value(row))
    }

    /// The same, 0 if there is none.
    #[inline]
    pub(super) fn or_zero(&self, row: usize) -> T::Native {
        self.get(row).unwrap_or_default()
    }
}

impl<T: ArrowPrimitiveType> Readable for Numbers<T> {
    type Cells = NumberCells<T>;

    fn read(array: &ArrayRef) -> Option<Self::Cells> {
        array.as_primitive_opt().cloned().map(Some).map(NumberCells)
    }
}

/// Words.
#[derive(Debug)]
pub(super) struct WordCells<W> {
    numbers: Option<PrimitiveArray<Int8Type>>,
    /// The dictionary's words; `None` for those that this version does not know.
    words: Vec<Option<W>>,
    of: PhantomData<W>,
}

impl<W> Default for WordCells<W> {
    fn default() -> Self {
        Self { numbers: None, words: Vec::new(), of: PhantomData }
    }
}

impl<W: Word> WordCells<W> {
    /// The row's word, if it has one that this version knows.
    #[inline]
    pub(super) fn get(&self, row: usize) -> Option<W> {
        let numbers = self.numbers.as_ref()?;
        let number = numbers.is_valid(row).then(|| numbers.value(row))?;
        *self.words.get(usize::try_from(number).ok()?)?
    }
}

impl<W: Word> Readable for Words<W> {
    type Cells = WordCells<W>;

    fn read(array: &ArrayRef) -> Option<Self::Cells> {
        let array: &DictionaryArray<Int8Type> = array.as_dictionary_opt()?;
        let spelled: &StringArray = array.values().as_string_opt()?;
        let words = spelled.iter().map(|text| W::all().iter().copied().find(|word| Some(word.word()) == text));
        Some(WordCells { numbers: Some(array.keys().clone()), words: words.collect(), of: PhantomData })
    }
}

/// Texts.
#[derive(Debug, Default)]
pub(super) struct TextCells(Option<StringArray>);

impl TextCells {
    /// The row's text.
    #[inline]
    pub(super) fn get(&self, row: usize) -> Option<&str> {
        let array = self.0.as_ref()?;
        array.is_valid(row).then(|| array.value(row))
    }
}

impl Readable for Texts {
    type Cells = TextCells;

    fn read(array: &ArrayRef) -> Option<Self::Cells> {
        array.as_string_opt().cloned().map(Some).map(TextCells)
    }
}

/// Addresses.
#[derive(Debug, Default)]
pub(super) struct AddressCells(Option<FixedSizeBinaryArray>);

impl AddressCells {
    /// The row's address.
    #[inline]
    pub(super) fn get(&self, row: usize) -> Option<[u8; ADDRESS_BYTES]> {
        let array = self.0.as_ref()?;
        array.is_valid(row).then(|| array.value(row).try_into().ok())?
    }
}

impl Readable for Addresses {
    type Cells = AddressCells;

    fn read(array: &ArrayRef) -> Option<Self::Cells> {
        let array: &FixedSizeBinaryArray = array.as_fixed_size_binary_opt()?;
        (array.value_length() as usize == ADDRESS_BYTES).then(|| AddressCells(Some(array.clone())))
    }
}
