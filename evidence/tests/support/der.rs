//! DER as tests take it apart and put it together again.
#![allow(dead_code, reason = "each test program uses another part")]

/// A value: all its bytes, and its content.
pub fn der(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (header, length) = match bytes[1] {
        short @ ..=0x7f => (2, usize::from(short)),
        long => {
            let digits = usize::from(long & 0x7f);
            (2 + digits, bytes[2..2 + digits].iter().fold(0, |n, byte| (n << 8) | usize::from(*byte)))
        }
    };
    (&bytes[..header + length], &bytes[header..header + length])
}

/// The values in a content, one after another.
pub fn values(mut content: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while !content.is_empty() {
        let (value, _) = der(content);
        out.push(value.to_vec());
        content = &content[value.len()..];
    }
    out
}

/// A value of this tag.
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let header = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    assert!(length < 0x1_0000);
    [header, content.to_vec()].concat()
}

/// The same value with another content.
pub fn with(bytes: &[u8], change: impl FnOnce(Vec<Vec<u8>>) -> Vec<Vec<u8>>) -> Vec<u8> {
    value(bytes[0], &change(values(der(bytes).1)).concat())
}

/// The reply with another `SignedData`, whose values are given one after another.
pub fn with_signed_data(reply: &[u8], change: impl FnOnce(Vec<Vec<u8>>) -> Vec<Vec<u8>>) -> Vec<u8> {
    let [status, token] = values(der(reply).1).try_into().expect("status and token");
    let [kind, explicit] = values(der(&token).1).try_into().expect("type and content");
    let signed = with(der(&explicit).1, change);
    value(0x30, &[status, value(0x30, &[kind, value(0xa0, &signed)].concat())].concat())
}

/// The reply with one more value at the end of the first one of this tag in its `SignedData`.
pub fn with_more(reply: &[u8], tag: u8, more: &[u8]) -> Vec<u8> {
    with_signed_data(reply, |parts| {
        let at = parts.iter().position(|part| part[0] == tag).expect("there");
        let more = |part: &Vec<u8>| value(tag, &[der(part).1, more].concat());
        parts.iter().enumerate().map(|(n, part)| if n == at { more(part) } else { part.clone() }).collect()
    })
}
