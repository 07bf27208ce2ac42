//! Bounds of messages and of what they announce. The proto files repeat them in words; a receiver checks them.

/// Largest gRPC message that either side accepts: 1 MiB of data and 64 KiB around it.
pub const MESSAGE_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Largest piece of segment data or manifest lines in one message.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// Largest piece of tar data in one `ReadItemsResponse`.
pub const READ_BYTES_MAX: usize = 256 << 10;
/// Largest segment as stored: the format's bound; agents make them of about 4 MiB.
pub const SEGMENT_BYTES_MAX: u64 = 10 << 20;
/// Largest raw size of a segment: the format's, so that highly compressible data cannot make one segment costly to check.
pub const SEGMENT_RAW_BYTES_MAX: u64 = exhibit_evidence::stream::SEGMENT_RAW_BYTES_MAX as u64;
/// Most bytes of manifest lines that go with one segment: an agent cuts a segment when frames and lines together reach
/// their target, and at most a frame's lines and one line more come on top.
pub const SEGMENT_MANIFEST_BYTES_MAX: u64 = 10 << 20;
/// Largest bookmark of an agent.
pub const BOOKMARK_BYTES_MAX: usize = 256 << 10;
/// Largest manifest of one stream: about a million and a half ordinary lines. It is put into the store in one piece.
pub const MANIFEST_BYTES_MAX: u64 = 512 << 20;
/// Most enrolment records in one message.
pub const ENROLMENTS_MAX: usize = 8;
/// Longest reason text.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Longest name-like text (host names, versions, kernels).
pub const NAME_BYTES_MAX: usize = 255;
/// Most ids in one request.
pub const IDS_MAX: usize = 1_000;
/// Most items in one read request.
pub const READ_ITEMS_MAX: usize = 10_000;
/// Most labels of an agent.
pub const LABELS_MAX: usize = 32;
/// Longest label key or value.
pub const LABEL_BYTES_MAX: usize = 63;
