//! How long a column's buffers must be: arrow trusts them, and a file may come from anywhere.

use arrow_schema::DataType;

/// Bytes of a value at most, where all have as many.
const MOST_WIDTH: i32 = 1 << 12;

/// Whether a column may have this type: a later version may have columns that are not understood here, of these types.
pub(super) fn is_known(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(key, value) => key.is_integer() && **value == DataType::Utf8,
        DataType::FixedSizeBinary(width) => (0..=MOST_WIDTH).contains(width),
        DataType::Boolean | DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary => true,
        other => other.primitive_width().is_some_and(|width| width <= 8),
    }
}

/// Whether columns of these types can have so many rows and nulls, and buffers of so many bytes.
pub(super) fn fits<'a>(types: impl IntoIterator<Item = &'a DataType>, nodes: &[(i64, i64)], lengths: &[u64]) -> bool {
    let (mut nodes, mut lengths) = (nodes.iter(), lengths.iter());
    let all = types.into_iter().all(|data_type| {
        let Some((rows, nulls)) = nodes.next() else { return false };
        let Ok(rows) = u64::try_from(*rows) else { return false };
        let validity = if *nulls == 0 { 0 } else { rows.div_ceil(8) };
        let mut has = |least: u64, unit: u64| lengths.next().is_some_and(|bytes| *bytes >= least && bytes % unit == 0);
        // None at all will do for no rows.
        let offsets = |width: u64| if rows == 0 { 0 } else { (rows + 1) * width };
        has(validity, 1)
            && match data_type {
                DataType::Boolean => has(rows.div_ceil(8), 1),
                DataType::Utf8 | DataType::Binary => has(offsets(4), 4) && has(0, 1),
                DataType::LargeUtf8 | DataType::LargeBinary => has(offsets(8), 8) && has(0, 1),
                DataType::FixedSizeBinary(width) => has(rows * u64::from(width.unsigned_abs()), 1),
                DataType::Dictionary(key, _) => {
                    key.primitive_width().is_some_and(|width| has(rows * width as u64, width as u64))
                }
                other => other.primitive_width().is_some_and(|width| has(rows * width as u64, width as u64)),
            }
    });
    all && nodes.next().is_none() && lengths.next().is_none()
}
