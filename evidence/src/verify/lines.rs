//! Reading a manifest line by line in bounded memory, hashing every byte on the way.

use std::io::{self, BufRead as _, BufReader, Read};

use crate::digest::{Digest, Hasher};
use crate::manifest::{LINE_BYTES_MAX, Line};

/// A manifest that is being read.
pub(super) struct Lines<'a> {
    reader: BufReader<Box<dyn Read + 'a>>,
    hasher: Hasher,
    buffer: Vec<u8>,
    number: u64,
    held: Option<Line>,
}

/// What came instead of a line.
#[derive(Debug)]
pub(super) enum NoLine {
    /// The file ended where a line could have begun.
    End,
    /// The file cannot be read on.
    Io(io::Error),
    /// The line with this number (from 1) is no manifest line.
    Bad(u64, String),
}

impl<'a> Lines<'a> {
    pub fn new(reader: Box<dyn Read + 'a>) -> Self {
        Self { reader: BufReader::with_capacity(65_536, reader), hasher: Hasher::new(), buffer: Vec::new(), number: 0, held: None }
    }

    /// The next line.
    pub fn next(&mut self) -> Result<Line, NoLine> {
        if let Some(line) = self.held.take() {
            return Ok(line);
        }
        self.buffer.clear();
        let bound = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut self.reader).take(bound).read_until(b'\n', &mut self.buffer).map_err(NoLine::Io)?;
        if read == 0 {
            return Err(NoLine::End);
        }
        self.hasher.update(&self.buffer);
        self.number = self.number.saturating_add(1);
        if self.buffer.last() != Some(&b'\n') {
            let what = if read as u64 == bound { "it is too long" } else { "it has no newline at its end" };
            return Err(NoLine::Bad(self.number, what.to_owned()));
        }
        Line::parse(&self.buffer).map_err(|e| NoLine::Bad(self.number, crate::text::escape_bounded(&e, 300)))
    }

    /// Puts back a line that is not for this reader; the next call returns it again.
    pub fn hold(&mut self, line: Line) {
        self.held = Some(line);
    }

    /// Reads to the end of the file; returns digest and size of the whole file and whether anything followed the last
    /// line that was read.
    pub fn finish(mut self) -> io::Result<(Digest, u64, bool)> {
        let before = self.hasher.bytes();
        let mut chunk = vec![0; 65_536];
        loop {
            let n = self.reader.read(&mut chunk)?;
            match chunk.get(..n) {
                Some([]) | None => break,
                Some(bytes) => self.hasher.update(bytes),
            }
        }
        let size = self.hasher.bytes();
        Ok((self.hasher.finish(), size, size > before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_cut_lines_are_refused_and_still_hashed() {
        let long = [vec![b'x'; LINE_BYTES_MAX + 10], b"\n".to_vec()].concat();
        for (bytes, what) in [(long, "too long"), (b"{\"line\":".to_vec(), "no newline"), (b"{}\n".to_vec(), "not a manifest line")] {
            let mut lines = Lines::new(Box::new(bytes.as_slice()));
            match lines.next() {
                Err(NoLine::Bad(1, e)) => assert!(e.contains(what), "{e}"),
                other => panic!("{what}: {other:?}"),
            }
            let (digest, size, _) = lines.finish().expect("memory");
            assert_eq!((digest, size), (Digest::of(&bytes), bytes.len() as u64));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let mut lines = Lines::new(Box::new(bytes.as_slice()));
            while lines.next().is_ok() {}
            let (digest, ..) = lines.finish().expect("memory");
            proptest::prop_assert_eq!(digest, Digest::of(&bytes));
        }
    }
}
