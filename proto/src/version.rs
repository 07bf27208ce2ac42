//! Protocol versions. Both sides say the range they speak; they use the highest common one or part with an error that
//! names both ranges. Version 1 is the first.

/// Oldest version that this build speaks.
pub const MIN: u32 = 1;
/// Newest version that this build speaks.
pub const MAX: u32 = 1;

/// No common version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no common protocol version: the peer speaks {peer_min} to {peer_max}, this program {MIN} to {MAX}; upgrade the older of the two")]
pub struct NoCommonVersion {
    /// The peer's oldest.
    pub peer_min: u32,
    /// The peer's newest.
    pub peer_max: u32,
}

/// The highest version that both speak.
///
/// # Errors
/// [`NoCommonVersion`], also for an empty or reversed range.
pub const fn negotiate(peer_min: u32, peer_max: u32) -> Result<u32, NoCommonVersion> {
    let highest = if peer_max < MAX { peer_max } else { MAX };
    if peer_min > peer_max || highest < peer_min || highest < MIN {
        return Err(NoCommonVersion { peer_min, peer_max });
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_find_each_other_or_say_why_not() {
        assert_eq!(negotiate(1, 1), Ok(1));
        assert_eq!(negotiate(1, 9), Ok(MAX));
        for (low, high) in [(2, 9), (0, 0), (5, 1)] {
            assert_eq!(negotiate(low, high), Err(NoCommonVersion { peer_min: low, peer_max: high }));
        }
    }
}
