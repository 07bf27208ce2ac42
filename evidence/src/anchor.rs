//! The anchor: what a verifier trusts before it looks at any evidence. It never travels inside a case or a bag.

use serde::{Deserialize, Serialize};

use crate::key::PublicKey;

/// Version text of the anchor file.
pub const FORMAT: &str = "exhibit-anchor/1";

/// The anchor file: one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// [`FORMAT`].
    pub format: String,
    /// The deployment's name, the authority part of its SPIFFE-style URIs.
    pub deployment: String,
    /// The root evidence key. Every other key is enrolled, directly or through an issuer or admin, under it.
    pub root_key: PublicKey,
}

impl Anchor {
    /// Reads an anchor file.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let anchor: Self = serde_json::from_slice(bytes).map_err(|e| format!("not an anchor file: {e}"))?;
        if anchor.format != FORMAT {
            return Err(format!("anchor format '{}': this program reads '{FORMAT}'", crate::text::escape_bounded(&anchor.format, 40)));
        }
        Ok(anchor)
    }
}
