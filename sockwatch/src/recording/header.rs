//! What a recording says of itself, once, in the metadata of its schema.

use arrow_schema::Metadata;

use super::FormatError;
use crate::tcp::reset::ResetReasons;

/// The format's version: readers take every file with their own major number. A minor one adds columns or kinds of rows,
/// which older readers ignore.
pub const FORMAT: (u32, u32) = (1, 0);

/// What all keys begin with.
const PREFIX: &str = "sockwatch.";

/// The keys, without their prefix, and what they hold.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("format", "the format's version"),
    ("version", "the version of sockwatch that recorded it"),
    ("kernel", "the kernel's release"),
    ("host", "the machine's name"),
    ("boot", "the kernel's boot_id: times of two recordings can be compared only if it is the same"),
    ("source", "`ebpf`, or `poll`"),
    ("probes", "each probe with the alternative that was taken (`sockwatch doctor`)"),
    ("filter", "the filter's words; empty if there were none"),
    ("started_monotonic_ns", "CLOCK_MONOTONIC when the file was begun"),
    ("wall_offset_ns", "the Unix time when CLOCK_MONOTONIC was 0, as of then"),
    ("recording", "a UUID that all files of one recording have"),
    ("part", "which of its files this is, from 1"),
    ("reset_reasons", "the kernel's `enum sk_rst_reason`, as `NUMBER=NAME` words"),
];

/// What is told of the whole recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The version of the sockwatch that recorded it.
    pub sockwatch: String,
    /// The kernel's release.
    pub kernel: String,
    /// The machine's name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`: times of two recordings can be compared only if it is the same.
    pub boot: String,
    /// Where events came from: `ebpf` or `poll`.
    pub source: String,
    /// Each probe with the alternative that was taken: `state=btf accept=fexit`.
    pub probes: String,
    /// What was asked for: the filter's words, empty if there were none.
    pub filter: String,
    /// `CLOCK_MONOTONIC` when it began, in nanoseconds.
    pub started_ns: u64,
    /// The Unix time when that was 0.
    pub wall_offset_ns: u64,
    /// The recording's own name: all of its files have it.
    pub recording: String,
    /// Which of its files this is, from 1.
    pub part: u32,
    /// What the kernel's numbers of reasons for a RST mean.
    pub reset_reasons: ResetReasons,
}

impl Header {
    /// As metadata.
    pub(super) fn to_metadata(&self) -> Metadata {
        let reasons: Vec<_> = self.reset_reasons.iter().map(|(number, name)| format!("{number}={name}")).collect();
        let pairs = [
            ("format", format!("{}.{}", FORMAT.0, FORMAT.1)),
            ("version", self.sockwatch.clone()),
            ("kernel", self.kernel.clone()),
            ("host", self.host.clone()),
            ("boot", self.boot.clone()),
            ("source", self.source.clone()),
            ("probes", self.probes.clone()),
            ("filter", self.filter.clone()),
            ("started_monotonic_ns", self.started_ns.to_string()),
            ("wall_offset_ns", self.wall_offset_ns.to_string()),
            ("recording", self.recording.clone()),
            ("part", self.part.to_string()),
            ("reset_reasons", reasons.join(" ")),
        ];
        pairs.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect()
    }

    /// From metadata.
    pub(super) fn of_metadata(metadata: &Metadata) -> Result<Self, FormatError> {
        let get = |key: &str| metadata.get(&format!("{PREFIX}{key}"));
        let text = |key| get(key).map(|text| text.replace(crate::tcp::event::is_unprintable, "?")).unwrap_or_default();
        let format =
            get("format").ok_or_else(|| FormatError::Foreign("an Arrow stream without its metadata".into()))?;
        let major = format.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major != Some(FORMAT.0) {
            return Err(FormatError::Newer { found: text("format") });
        }
        let number = |key: &str| get(key).and_then(|value| value.parse().ok()).unwrap_or_default();
        let reasons = text("reset_reasons");
        let reasons = reasons.split(' ').filter_map(|pair| pair.split_once('='));
        let reasons = reasons.filter_map(|(value, name)| Some((value.parse().ok()?, name.to_owned())));
        Ok(Self {
            sockwatch: text("version"),
            kernel: text("kernel"),
            host: text("host"),
            boot: text("boot"),
            source: text("source"),
            probes: text("probes"),
            filter: text("filter"),
            started_ns: number("started_monotonic_ns"),
            wall_offset_ns: number("wall_offset_ns"),
            recording: text("recording"),
            part: u32::try_from(number("part")).unwrap_or(1),
            reset_reasons: reasons.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            sockwatch: "0.1.0".into(),
            kernel: "6.12.1".into(),
            host: "web-1".into(),
            boot: "b".into(),
            source: "ebpf".into(),
            probes: "state=btf accept=fexit".into(),
            filter: "--port 8080".into(),
            started_ns: 123,
            wall_offset_ns: 456,
            recording: "r".into(),
            part: 3,
            reset_reasons: [(1, "NO_SOCKET".to_owned()), (7, "TCP_ABORT".to_owned())].into_iter().collect(),
        }
    }

    #[test]
    fn every_key_is_told() {
        let metadata = header().to_metadata();
        let mut keys: Vec<_> = metadata.iter().map(|(key, _)| key.strip_prefix(PREFIX).unwrap()).collect();
        let mut told: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        told.sort_unstable();
        assert_eq!(keys, told);
    }

    #[test]
    fn it_comes_back_as_it_was() {
        assert_eq!(Header::of_metadata(&header().to_metadata()).unwrap(), header());
    }

    #[test]
    fn other_formats_are_told_apart() {
        let mut metadata = header().to_metadata();
        metadata.insert("sockwatch.format", "1.9");
        assert!(Header::of_metadata(&metadata).is_ok(), "a later minor version adds only");
        metadata.insert("sockwatch.format", "2.0");
        let error = Header::of_metadata(&metadata).unwrap_err().to_string();
        assert!(error.contains("2.0") && error.contains("newer"), "{error}");
        metadata.remove("sockwatch.format");
        assert!(matches!(Header::of_metadata(&metadata), Err(FormatError::Foreign(_))));
    }
}
