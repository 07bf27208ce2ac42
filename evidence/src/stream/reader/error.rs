//! What can be wrong with a stream.

use crate::stream::tar::{BadHead, EXTENTS_MAX, PAX_BYTES_MAX};
use crate::stream::ustar::BlockFault;

/// Where a stream is not one of ours, and why. Whoever wrote the bytes is to blame: the agent when they are fresh, the
/// store or somebody with access to it when their digests no longer match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("raw stream, byte {offset}: {fault}")]
pub struct StreamError {
    /// Bytes of the stream that had passed when the fault was found.
    pub offset: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a stream. The set is closed; [`Fault::code`] is stable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No tar header where one must be.
    #[error("no ustar header (magic 'ustar', version '00')")]
    Magic,
    /// The header's checksum does not fit.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// A header field is unreadable.
    #[error("header field '{0}' is not of the expected form")]
    Header(&'static str),
    /// A type flag that streams do not use.
    #[error("member type '{}' is not allowed: only files, directories, symbolic and hard links are", crate::text::escape_bytes(&[*.0]))]
    Type(u8),
    /// Pax records are empty or too many.
    #[error("pax records of {0} bytes: 1 to {PAX_BYTES_MAX} are allowed")]
    PaxSize(u64),
    /// A pax record does not parse.
    #[error("a pax record is malformed")]
    PaxRecord,
    /// A pax key that streams do not use.
    #[error("pax key '{0}' is not allowed")]
    PaxKey(String),
    /// A pax key twice.
    #[error("pax key '{0}' stands twice")]
    PaxTwice(String),
    /// A pax value that does not parse.
    #[error("the value of pax key '{0}' is malformed")]
    PaxValue(String),
    /// Pax records without their member.
    #[error("pax records are not followed by the member that they describe")]
    PaxAlone,
    /// The member's facts are out of bounds.
    #[error("{0}")]
    Head(BadHead),
    /// The sparse map is wrong.
    #[error("the map of a sparse file is malformed: {0}")]
    SparseMap(&'static str),
    /// The sparse map is too long.
    #[error("the map of a sparse file has {0} entries: at most {EXTENTS_MAX} data ranges and the end are allowed")]
    SparseMapSize(u64),
    /// The stated size is not that of the data.
    #[error("the header states {stated} bytes where {expected} follow from the rest of the head")]
    Size {
        /// In the header.
        stated: u64,
        /// By map and type.
        expected: u64,
    },
    /// Not the one form.
    #[error("the member's head is not in the form that the format prescribes (it differs at byte {at} of the raw stream)")]
    Form {
        /// Raw offset of the first difference.
        at: u64,
    },
    /// More holes than a stream may have.
    #[error("the holes of the stream's sparse files exceed the limit")]
    Holes,
    /// A member at or beneath a symbolic link.
    #[error("the member has the name of a symbolic link that stands before it, or lies beneath one")]
    BelowLink,
    /// More symbolic links than a stream may have.
    #[error("more than {} symbolic links", super::SYMLINKS_MAX)]
    Links,
    /// Something in the padding.
    #[error("padding after a member's data is not zero")]
    Padding,
    /// One zero block alone.
    #[error("one block of zeros is not followed by a second")]
    HalfEnd,
    /// Data after the end marker.
    #[error("data after the end marker")]
    AfterEnd,
    /// The stream stops before its end marker.
    #[error("the stream stops before its end marker")]
    Truncated,
}

impl Fault {
    /// A stable name of the kind of fault, for findings, metrics and tests.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Magic => "tar-magic",
            Self::Checksum => "tar-checksum",
            Self::Header(_) => "tar-header",
            Self::Type(_) => "tar-type",
            Self::PaxSize(_) => "tar-pax-size",
            Self::PaxRecord => "tar-pax-record",
            Self::PaxKey(_) => "tar-pax-key",
            Self::PaxTwice(_) => "tar-pax-twice",
            Self::PaxValue(_) => "tar-pax-value",
            Self::PaxAlone => "tar-pax-alone",
            Self::Head(_) => "tar-head",
            Self::SparseMap(_) => "tar-sparse-map",
            Self::SparseMapSize(_) => "tar-sparse-map-size",
            Self::Size { .. } => "tar-size",
            Self::Form { .. } => "tar-form",
            Self::Holes => "tar-holes",
            Self::BelowLink => "tar-below-link",
            Self::Links => "tar-links",
            Self::Padding => "tar-padding",
            Self::HalfEnd => "tar-half-end",
            Self::AfterEnd => "tar-after-end",
            Self::Truncated => "tar-truncated",
        }
    }
}

impl From<BlockFault> for Fault {
    fn from(fault: BlockFault) -> Self {
        match fault {
            BlockFault::Magic => Self::Magic,
            BlockFault::Checksum => Self::Checksum,
            BlockFault::Field(name) => Self::Header(name),
        }
    }
}
