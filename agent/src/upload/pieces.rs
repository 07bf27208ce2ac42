//! Cutting segments into messages.

use bytes::Bytes;
use exhibit_evidence::manifest::LINE_BYTES_MAX;

/// Pieces of at most `bytes_max`, without copying.
pub(super) fn of_data(data: &Bytes, bytes_max: usize) -> impl Iterator<Item = Bytes> {
    let mut rest = data.clone();
    let step = bytes_max.max(1);
    std::iter::from_fn(move || (!rest.is_empty()).then(|| rest.split_to(step.min(rest.len()))))
}

/// Pieces of whole lines: about `bytes_max`, more only where one line alone is longer.
pub(super) fn of_lines(lines: &Bytes, bytes_max: usize) -> impl Iterator<Item = Bytes> {
    debug_assert!(bytes_max <= LINE_BYTES_MAX);
    let mut rest = lines.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let head = rest.get(..bytes_max.min(rest.len())).unwrap_or_default();
        let end_of = |i: usize| i.saturating_add(1);
        let end = match head.iter().rposition(|b| *b == b'\n').map(end_of) {
            Some(end) => end,
            None => rest.iter().position(|b| *b == b'\n').map_or(rest.len(), end_of),
        };
        Some(rest.split_to(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_and_lines_stay_whole(lengths in proptest::collection::vec(0_usize..200, 0..50), bytes_max in 1_usize..300) {
            let text: Vec<u8> = lengths.iter().flat_map(|n| [vec![b'x'; *n], vec![b'\n']].concat()).collect();
            let text = Bytes::from(text);
            let pieces: Vec<Bytes> = of_lines(&text, bytes_max).collect();
            proptest::prop_assert!(pieces.iter().all(|p| p.ends_with(b"\n")));
            proptest::prop_assert!(pieces.iter().all(|p| p.len() <= bytes_max || p.split(|b| *b == b'\n').count() == 2));
            proptest::prop_assert_eq!(pieces.concat(), text.to_vec());
            let data: Vec<Bytes> = of_data(&text, bytes_max).collect();
            proptest::prop_assert!(data.iter().all(|p| !p.is_empty() && p.len() <= bytes_max));
            proptest::prop_assert_eq!(data.concat(), text.to_vec());
        }
    }
}
