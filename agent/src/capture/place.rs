//! How a later process of this agent finds a source again that it has to finish.

use serde::{Deserialize, Serialize};

use super::Source;
use super::disk::image::ImageSource;
use super::disk::source::DevicePlace;
use super::walk::source::FilePlace;

/// Where a source is and what of its reading must be known to go on. It travels in a bookmark (`pipeline/bookmark.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Place {
    /// A regular file.
    File(Box<FilePlace>),
    /// A regular file that is the image of a disk, and is read as patiently as one.
    Image(Box<FilePlace>),
    /// A block device.
    Device(Box<DevicePlace>),
}

impl Place {
    /// Opens it again.
    ///
    /// # Errors
    /// Why the rest of it cannot be read, for the record.
    pub fn open(self) -> Result<Box<dyn Source>, String> {
        match self {
            Self::File(place) => Ok(Box::new(place.open()?)),
            Self::Image(place) => Ok(Box::new(ImageSource::open_again(*place)?)),
            Self::Device(place) => Ok(Box::new(place.open()?)),
        }
    }
}
