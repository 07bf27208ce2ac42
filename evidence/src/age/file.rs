//! One age file: its header in the one form, and its payload in chunks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use super::secret::{self, Aead, FileKey, MAC_LEN, WRAPPED_LEN};
use super::{AgeError, CHUNK_LEN, FILE_KEY_LEN, Identity, KEY_LEN, NONCE_LEN, Recipients, TAG_LEN, random_len};

const INTRO: &[u8] = b"age-encryption.org/v1\n";
const STANZA: &[u8] = b"-> X25519 ";
const END: &[u8] = b"---";
/// Characters of 32 bytes in base64 without padding.
const TEXT_LEN: usize = 43;
const STANZA_LEN: usize = STANZA.len() + 2 * (TEXT_LEN + 1);

/// Bytes before the payload's first chunk.
const fn header_len(recipients: usize) -> usize {
    INTRO.len() + STANZA_LEN * recipients + END.len() + 1 + TEXT_LEN + 1
}

/// The nonce of chunk `n`.
fn chunk_nonce(n: u64, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    if let Some(counter) = nonce.get_mut(3..11) {
        counter.copy_from_slice(&n.to_be_bytes());
    }
    if let Some(flag) = nonce.last_mut() {
        *flag = u8::from(last);
    }
    nonce
}

/// Encrypts a file piece by piece into one buffer, in place: it takes no memory besides.
pub struct Encryptor {
    out: Vec<u8>,
    key: Aead,
    /// Where the chunk begins that is being filled, and its number.
    chunk: usize,
    n: u64,
}

impl std::fmt::Debug for Encryptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encryptor({} bytes)", self.out.len())
    }
}

impl Encryptor {
    /// Most bytes by which a file is longer than the `plain` bytes that it holds.
    #[must_use]
    pub const fn overhead(recipients: usize, plain: usize) -> usize {
        header_len(recipients) + NONCE_LEN + TAG_LEN * (plain / CHUNK_LEN + 1)
    }

    /// Begins a file in `out`, whose content is dropped and whose capacity is kept. `random` are [`random_len`] random bytes that
    /// are used nowhere else.
    ///
    /// # Errors
    /// [`AgeError::Encrypt`]: too few random bytes, or a recipient's key that nobody can have.
    pub fn new(to: &Recipients, random: &[u8], mut out: Vec<u8>) -> Result<Self, AgeError> {
        let few = AgeError::Encrypt("too few random bytes");
        if to.is_none() || random.len() != random_len(to.as_slice().len()) {
            return Err(few);
        }
        let (file_key, rest) = random.split_first_chunk::<FILE_KEY_LEN>().ok_or_else(|| few.clone())?;
        let (nonce, ephemeral) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(|| few.clone())?;
        let file_key: FileKey = Zeroizing::new(*file_key);
        out.clear();
        out.extend_from_slice(INTRO);
        for (recipient, ephemeral) in to.as_slice().iter().zip(ephemeral.chunks_exact(KEY_LEN)) {
            let ephemeral = ephemeral.first_chunk().ok_or_else(|| few.clone())?;
            let (share, wrapped) = secret::wrap(&file_key, recipient, ephemeral)?;
            out.extend_from_slice(STANZA);
            for part in [share.as_slice(), wrapped.as_slice()] {
                out.extend_from_slice(STANDARD_NO_PAD.encode(part).as_bytes());
                out.push(b'\n');
            }
        }
        out.extend_from_slice(END);
        let derived = AgeError::Encrypt("the file's keys could not be derived");
        let mac = secret::mac(&file_key, &out).ok_or_else(|| derived.clone())?;
        out.push(b' ');
        out.extend_from_slice(STANDARD_NO_PAD.encode(mac).as_bytes());
        out.push(b'\n');
        out.extend_from_slice(nonce);
        let key = secret::payload_key(&file_key, nonce).ok_or(derived)?;
        Ok(Self { chunk: out.len(), out, key, n: 0 })
    }

    /// Adds plain bytes.
    ///
    /// # Errors
    /// [`AgeError::Encrypt`] when the cryptography fails; the file is then of no use.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), AgeError> {
        while !bytes.is_empty() {
            let filled = self.out.len().saturating_sub(self.chunk);
            // A full chunk is sealed only when more follows: the last one is sealed as such.
            if filled == CHUNK_LEN {
                self.seal(false)?;
                continue;
            }
            let (now, rest) = bytes.split_at_checked(CHUNK_LEN.saturating_sub(filled)).unwrap_or((bytes, &[]));
            self.out.extend_from_slice(now);
            bytes = rest;
        }
        Ok(())
    }

    fn seal(&mut self, last: bool) -> Result<(), AgeError> {
        let failed = AgeError::Encrypt("a chunk could not be encrypted");
        let chunk = self.out.get_mut(self.chunk..).ok_or_else(|| failed.clone())?;
        let tag = self.key.seal(chunk_nonce(self.n, last), chunk).ok_or(failed)?;
        self.out.extend_from_slice(&tag);
        self.chunk = self.out.len();
        self.n = self.n.saturating_add(1);
        Ok(())
    }

    /// What is finished so far and was not drained. Nothing changes in it any more.
    #[must_use]
    pub fn finished(&self) -> &[u8] {
        self.out.get(..self.chunk).unwrap_or_default()
    }

    /// Writes out what is finished so far and holds it no longer: a file of any size takes the memory of a chunk.
    ///
    /// # Errors
    /// Those of `to`; the file is then of no use.
    pub fn drain(&mut self, to: &mut dyn std::io::Write) -> std::io::Result<()> {
        to.write_all(self.finished())?;
        self.out.drain(..self.chunk.min(self.out.len()));
        self.chunk = 0;
        Ok(())
    }

    /// Ends the file: gives what was not drained.
    ///
    /// # Errors
    /// As [`Encryptor::push`].
    pub fn finish(mut self) -> Result<Vec<u8>, AgeError> {
        self.seal(true)?;
        Ok(self.out)
    }
}

/// The outer form of a file: what shows without any key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Plain bytes in it.
    pub plain_len: u64,
}

impl Form {
    /// Checks that the bytes are a file of the one form for so many recipients, and that its payload has a possible length.
    /// For whom it is and what it holds cannot be seen.
    ///
    /// # Errors
    /// [`AgeError::Form`]
    pub fn of(bytes: &[u8], recipients: usize) -> Result<Self, AgeError> {
        Parts::of(bytes, recipients).map(|parts| Self { plain_len: parts.plain_len() as u64 })
    }
}

struct Parts<'a> {
    stanzas: Vec<([u8; KEY_LEN], [u8; WRAPPED_LEN])>,
    /// What the code is over.
    header: &'a [u8],
    mac: [u8; MAC_LEN],
    nonce: [u8; NONCE_LEN],
    payload: &'a [u8],
}

/// Takes an expected text off the front.
fn expect<'a>(bytes: &mut &'a [u8], text: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = bytes.split_at_checked(text.len())?;
    *bytes = rest;
    (found == text).then_some(found)
}

/// Takes 32 bytes in base64, in their one text, off the front; `after` follows.
fn text32(bytes: &mut &[u8], after: &[u8]) -> Option<[u8; 32]> {
    let (text, rest) = bytes.split_at_checked(TEXT_LEN)?;
    *bytes = rest;
    expect(bytes, after)?;
    STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8], recipients: usize) -> Result<Self, AgeError> {
        let bad = |problem| AgeError::Form { recipients, problem };
        let mut left = bytes;
        expect(&mut left, INTRO).ok_or_else(|| bad("it does not begin as one"))?;
        let mut stanzas = Vec::with_capacity(recipients);
        for _ in 0..recipients {
            let stanza = expect(&mut left, STANZA).and_then(|_| Some((text32(&mut left, b"\n")?, text32(&mut left, b"\n")?)));
            stanzas.push(stanza.ok_or_else(|| bad("it has fewer or other recipients, or they are not written in the one form"))?);
        }
        expect(&mut left, END).ok_or_else(|| bad("it has more or other recipients"))?;
        let header = bytes.get(..bytes.len().saturating_sub(left.len())).unwrap_or_default();
        let mac = expect(&mut left, b" ").and_then(|_| text32(&mut left, b"\n")).ok_or_else(|| bad("its header does not end in a code"))?;
        let (nonce, payload) = left.split_first_chunk().ok_or_else(|| bad("it ends before its payload"))?;
        let last = payload.len() % (CHUNK_LEN + TAG_LEN);
        // The last chunk is empty only when all is.
        if payload.is_empty() || (1..TAG_LEN).contains(&last) || (last == TAG_LEN && payload.len() > TAG_LEN) {
            return Err(bad("its payload has no possible length"));
        }
        Ok(Self { stanzas, header, mac, nonce: *nonce, payload })
    }

    const fn plain_len(&self) -> usize {
        self.payload.len() - self.payload.len().div_ceil(CHUNK_LEN + TAG_LEN) * TAG_LEN
    }
}

/// Checks that one of the recipients can open a file of the one form. For whom a stanza is, and that the file's key lies in it, only
/// that recipient's secret shows; whoever opens a file with another one knows nothing about it.
///
/// # Errors
/// [`AgeError::Form`], [`AgeError::Closed`]
pub fn opens(bytes: &[u8], recipients: usize, identity: &Identity) -> Result<(), AgeError> {
    let parts = Parts::of(bytes, recipients)?;
    let file_key = parts.stanzas.iter().find_map(|(share, wrapped)| secret::unwrap(share, wrapped, identity));
    // Another key than that of the file does not give the header's code.
    let opens = file_key.is_some_and(|key| secret::mac_holds(&key, parts.header, &parts.mac));
    if opens { Ok(()) } else { Err(AgeError::Closed(*identity.recipient())) }
}

/// Decrypts a file of the one form into `out`, whose content is dropped.
///
/// # Errors
/// [`AgeError::Form`], [`AgeError::OtherRecipients`], [`AgeError::Altered`]; `out` is then empty.
pub fn decrypt(bytes: &[u8], recipients: usize, identities: &[Identity], out: &mut Vec<u8>) -> Result<(), AgeError> {
    out.clear();
    let parts = Parts::of(bytes, recipients)?;
    let pairs = parts.stanzas.iter().flat_map(|stanza| identities.iter().map(move |identity| (stanza, identity)));
    let file_key = pairs.map(|((share, wrapped), identity)| secret::unwrap(share, wrapped, identity)).find_map(|key| key);
    let file_key = file_key.ok_or(AgeError::OtherRecipients)?;
    if !secret::mac_holds(&file_key, parts.header, &parts.mac) {
        return Err(AgeError::Altered("the header"));
    }
    let key = secret::payload_key(&file_key, &parts.nonce).ok_or(AgeError::Altered("the nonce"))?;
    out.reserve_exact(parts.payload.len());
    let mut chunks = parts.payload.chunks(CHUNK_LEN + TAG_LEN).enumerate().peekable();
    while let Some((n, chunk)) = chunks.next() {
        let from = out.len();
        out.extend_from_slice(chunk);
        let opened = out.get_mut(from..).and_then(|chunk| key.open(chunk_nonce(n as u64, chunks.peek().is_none()), chunk)).map(|p| p.len());
        let Some(len) = opened else {
            out.clear();
            return Err(AgeError::Altered("the payload"));
        };
        out.truncate(from.saturating_add(len));
    }
    Ok(())
}
