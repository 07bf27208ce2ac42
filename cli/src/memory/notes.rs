//! The notes of a core file (ELF gABI, "Note Section"): name, type and content, each padded to four bytes.

use super::u32_at;

/// A note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note<'a> {
    /// Who defined it, without the ending zero.
    pub name: &'a [u8],
    /// Its type; what it means depends on the name.
    pub kind: u32,
    /// The content.
    pub content: &'a [u8],
}

/// The name of the note with what a crashed kernel's reader must know.
pub const VMCOREINFO: &[u8] = b"VMCOREINFO";

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(len)?;
    *bytes = rest.get((len.wrapping_neg() & 3).min(rest.len())..)?;
    Some(head)
}

/// The notes, up to the first that is not whole.
pub fn read(mut bytes: &[u8]) -> Vec<Note<'_>> {
    let mut found = Vec::new();
    while let (Some(name_len), Some(content_len), Some(kind)) = (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8)) {
        bytes = bytes.get(12..).unwrap_or_default();
        let (Some(name), Some(content)) = (take(&mut bytes, name_len as usize), take(&mut bytes, content_len as usize)) else { break };
        // Zeros behind the last note are padding, not notes.
        if name.is_empty() && content.is_empty() {
            break;
        }
        found.push(Note { name: name.strip_suffix(b"\0").unwrap_or(name), kind, content });
    }
    found
}

/// The content of the VMCOREINFO note, if there is one.
pub fn vmcoreinfo(bytes: &[u8]) -> Option<&[u8]> {
    read(bytes).into_iter().find(|n| n.name == VMCOREINFO).map(|n| n.content)
}

/// Notes without what may stand behind the last of them, so that others can follow.
pub fn rewritten(bytes: &[u8]) -> Vec<u8> {
    read(bytes).into_iter().filter_map(|n| write(n.name, n.kind, n.content)).flatten().collect()
}

/// Writes a note; none when it is larger than notes can be.
pub fn write(name: &[u8], kind: u32, content: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    out.extend_from_slice(&u32::try_from(name.len()).ok()?.checked_add(1)?.to_le_bytes());
    out.extend_from_slice(&u32::try_from(content.len()).ok()?.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(name);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn notes_come_back() {
        let mut bytes = write(b"CORE", 1, &[7; 5]).expect("small");
        bytes.extend(write(VMCOREINFO, 0, b"OSRELEASE=6.1\n").expect("small"));
        bytes.extend([0; 64]);
        assert_eq!(bytes.len() % 4, 0);
        let notes = read(&bytes);
        assert_eq!((notes.len(), notes[0].name, notes[0].kind, notes[0].content), (2, &b"CORE"[..], 1, &[7; 5][..]));
        assert_eq!(vmcoreinfo(&bytes), Some(&b"OSRELEASE=6.1\n"[..]));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(0xff), 0_u8..20], 0..200)) {
            prop_assert!(read(&bytes).len() <= bytes.len() / 12);
        }
    }
}
