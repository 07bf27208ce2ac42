//! Streams that nobody honest makes.

use super::*;
use crate::stream::tar::{EXTENTS_MAX, PAX_BYTES_MAX};
use crate::stream::ustar::OCTAL_11_MAX;

/// Header fields of a plain empty file.
fn fields(name: &[u8]) -> Fields<'_> {
    Fields { name, mode: 0o644, uid: 0, gid: 0, size: 0, mtime: 0, flag: flag::FILE, link: b"" }
}

/// A member with these pax records, byte for byte, and this main block.
fn with_pax(records: &[u8], main: Fields<'_>) -> Vec<u8> {
    let size = records.len() as u64;
    let mut out = Fields { size, flag: flag::PAX, ..fields(b"PaxHeaders/exhibit") }.to_block().to_vec();
    out.extend_from_slice(records);
    out.resize(out.len() + padding(size), 0);
    out.extend_from_slice(&main.to_block());
    out
}

fn records(list: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in list {
        push_record(&mut out, key.as_bytes(), value);
    }
    out
}

/// A sparse member whose map is this text.
fn with_map(map: &str, realsize: u64, data: u64) -> Vec<u8> {
    let size = realsize.to_string();
    let records = records(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ]);
    let blocks = map.len() as u64 + padding(map.len() as u64) as u64;
    let mut out = with_pax(&records, Fields { size: blocks + data, ..fields(b"GNUSparseFile.0/f") });
    out.extend_from_slice(map.as_bytes());
    out.resize(out.len() + padding(map.len() as u64), 0);
    out.resize(out.len() + data as usize + padding(data), 0);
    out
}

/// Parses it all with the end marker after it.
fn parse(bytes: &[u8]) -> Result<Keep, StreamError> {
    let (mut parser, mut kept) = (Parser::new(), Keep::default());
    parser.push(bytes, &mut kept)?;
    parser.finish()?;
    Ok(kept)
}

fn fault(bytes: &[u8]) -> &'static str {
    let whole = [bytes, &END_MARKER].concat();
    parse(&whole).err().map_or("accepted", |error| error.fault.code())
}

/// Replaces bytes of a block and repairs its checksum.
fn altered(mut block: [u8; BLOCK], at: usize, bytes: &[u8]) -> Vec<u8> {
    block[at..at + bytes.len()].copy_from_slice(bytes);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

#[test]
fn names_that_leave_the_folder() {
    for name in ["../x", "a/../x", "a/..", "/etc/passwd", "a//b", "./a", "a/.", "a/", ""] {
        assert_eq!(fault(&fields(name.as_bytes()).to_block()), "tar-head", "{name}");
        let long = [name, &"/y".repeat(60)].concat();
        assert_eq!(fault(&with_pax(&records(&[("path", long.as_bytes())]), fields(&long.as_bytes()[..100]))), "tar-head", "{long}");
    }
    assert_eq!(fault(&Fields { flag: flag::HARDLINK, link: b"../../etc/passwd", ..fields(b"a") }.to_block()), "tar-head");
    assert_eq!(fault(&with_pax(&records(&[("path", b"\xff\0")]), fields(b"\xff"))), "tar-head");
}

#[test]
fn nothing_comes_beneath_a_link_also_after_a_restart() {
    let member = |name: &[u8], kind: HeadKind<'_>| {
        let none = BTreeMap::new();
        let mut out = Vec::new();
        let head = Head { name, kind, mode: 0o777, uid: 0, gid: 0, mtime: None, atime: None, ctime: None, xattrs: &none };
        tar::encode(&head, &mut out).expect("head");
        out
    };
    let link = member(b"files/d", HeadKind::Symlink { target: b"/elsewhere" });
    let beneath = member(b"files/d/pwn", HeadKind::File { size: 0 });
    assert_eq!(fault(&[link.clone(), beneath.clone()].concat()), "tar-below-link");
    assert!(parse(&[beneath.clone(), member(b"files/e", HeadKind::Symlink { target: b"d" }), tar::END_MARKER.to_vec()].concat()).is_ok());
    let mut parser = Parser::new();
    parser.push(&link, &mut Ignore).expect("a link");
    let mut parser = Parser::restore(&parser.snapshot()).expect("own snapshot");
    assert_eq!(parser.push(&beneath, &mut Ignore).expect_err("beneath").fault, Fault::BelowLink);
}

#[test]
fn types_that_streams_do_not_have() {
    // Devices, fifos, contiguous and old-style files, global pax headers, GNU long names, volume labels, multi-volume.
    for flag in *b"3467\0gLKVMSDNX" {
        assert_eq!(fault(&Fields { flag, ..fields(b"a") }.to_block()), "tar-type", "{flag}");
    }
}

#[test]
fn headers_that_are_not() {
    assert_eq!(fault(&[b'a'; 512]), "tar-magic");
    assert_eq!(fault(&altered(fields(b"a").to_block(), 257, b"ustar  \0")), "tar-magic");
    let mut block = fields(b"a").to_block();
    block[0] = b'b';
    assert_eq!(fault(&block), "tar-checksum");
    for (at, value) in [(100, &b" 000644\0"[..]), (108, b"0000008\0"), (124, b"0000000000 \0"), (124, b"\x80\x01"), (136, b"-0000000001\0")]
    {
        assert_eq!(fault(&altered(fields(b"a").to_block(), at, value)), "tar-header", "{at}");
    }
}

#[test]
fn places_where_something_could_hide() {
    let block = fields(b"a").to_block();
    // After the name's NUL, link of a file, uname, gname, devices, prefix, the unused end, another checksum form.
    for (at, value) in [(50, &b"x"[..]), (157, b"x"), (265, b"root"), (297, b"root"), (329, b"0000001"), (345, b"dir"), (500, b"x")] {
        assert_eq!(fault(&altered(block, at, value)), "tar-form", "{at}");
    }
    assert_eq!(fault(&Fields { mtime: 1, ..fields(b"a") }.to_block()), "tar-form");
    let mut spaced = with_pax(&records(&[("path", "é".as_bytes())]), fields("é".as_bytes()));
    spaced[511 + 100] = 1;
    assert_eq!(fault(&spaced), "tar-form");
    let renamed = altered(Fields { size: 11, flag: flag::PAX, ..fields(b"PaxHeaders/exhibit") }.to_block(), 0, b"x");
    assert_eq!(fault(&[renamed, spaced[512..].to_vec()].concat()), "tar-form");
}

#[test]
fn pax_records_that_are_not_ours() {
    let main = || fields(b"a");
    for (list, code) in [
        (&[("path", &b"a"[..])][..], "tar-form"),
        (&[("comment", b"x")], "tar-pax-key"),
        (&[("hdrcharset", b"BINARY")], "tar-pax-key"),
        (&[("GNU.sparse.map", b"0,1")], "tar-pax-key"),
        (&[("mtime", b"1.000000000"), ("mtime", b"2.000000000")], "tar-pax-twice"),
        (&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.a", b"1")], "tar-pax-twice"),
        (&[("SCHILY.xattr.", b"1")], "tar-head"),
        (&[("SCHILY.xattr.user.\u{e9}\0", b"1")], "tar-head"),
        (&[("atime", b"1.000000000"), ("mtime", b"1.000000000")], "tar-form"),
        (&[("mtime", b"1.5")], "tar-form"),
        (&[("mtime", b"now")], "tar-pax-value"),
        (&[("uid", b"4294967296")], "tar-pax-value"),
        (&[("uid", b"07")], "tar-pax-value"),
        (&[("uid", b"7")], "tar-form"),
        (&[("size", b"1")], "tar-form"),
        (&[("size", b"18446744073709551616")], "tar-pax-value"),
        (&[("size", b"18446744073709551615")], "tar-head"),
        (&[("linkpath", b"x")], "tar-form"),
        (&[("GNU.sparse.major", b"1")], "tar-pax-value"),
        (
            &[("GNU.sparse.major", b"0"), ("GNU.sparse.minor", b"1"), ("GNU.sparse.name", b"f"), ("GNU.sparse.realsize", b"1")],
            "tar-pax-value",
        ),
    ] {
        assert_eq!(fault(&with_pax(&records(list), main())), code, "{list:?}");
    }
    for bytes in [&b"5 a=b\n"[..], b"99 path=a\n", b"9 path=a\n\0", b"garbage", b"08 path=a\n"] {
        assert_eq!(fault(&with_pax(bytes, main())), "tar-pax-record", "{bytes:?}");
    }
    let mut latin1 = Vec::new();
    push_record(&mut latin1, b"SCHILY.xattr.user.\xe9", b"1");
    assert_eq!(fault(&with_pax(&latin1, main())), "tar-pax-key");
}

#[test]
fn pax_headers_of_any_size_and_alone() {
    for size in [0, PAX_BYTES_MAX as u64 + 1, OCTAL_11_MAX, u64::MAX] {
        assert_eq!(fault(&Fields { size, flag: flag::PAX, ..fields(b"PaxHeaders/exhibit") }.to_block()), "tar-pax-size", "{size}");
    }
    let pax = with_pax(&records(&[("mtime", b"1.000000000")]), fields(b"a"))[..1024].to_vec();
    assert_eq!(fault(&pax), "tar-pax-alone");
    assert_eq!(fault(&[pax.clone(), pax].concat()), "tar-pax-alone");
}

#[test]
fn sizes_that_lie() {
    for flag in [flag::SYMLINK, flag::HARDLINK, flag::DIRECTORY] {
        let link = if flag == flag::DIRECTORY { &b""[..] } else { b"x" };
        assert_eq!(fault(&Fields { flag, link, size: 512, ..fields(b"a") }.to_block()), "tar-size");
    }
    assert_eq!(fault(&[&Fields { size: 3, ..fields(b"a") }.to_block()[..], &[b'x'; 512]].concat()), "tar-padding");
    assert_eq!(fault(&Fields { size: 4096, ..fields(b"a") }.to_block()), "tar-truncated");
    assert_eq!(fault(&Fields { size: 1 << 51, ..fields(b"a") }.to_block()), "tar-head");
}

#[test]
fn sparse_maps_that_lie() {
    let many = format!("{}\n", EXTENTS_MAX + 2);
    for (map, realsize, data, code) in [
        ("2\n512\n512\n1100\n0\n", 1100, 512, "accepted"),
        ("2\n1024\n76\n1100\n0\n", 1100, 76, "accepted"),
        ("1\n0\n0\n", 0, 0, "accepted"),
        ("2\n512\n512\n1100\n0\n", 1100, 513, "tar-size"),
        ("2\n512\n512\n1100\n0\n", 1100, 0, "tar-size"),
        ("2\n512\n512\n1099\n0\n", 1100, 512, "tar-sparse-map"),
        ("2\n512\n512\n1100\n1\n", 1100, 512, "tar-sparse-map"),
        ("3\n512\n512\n0\n512\n1100\n0\n", 1100, 1024, "tar-head"),
        ("3\n0\n1024\n512\n512\n1100\n0\n", 1100, 1536, "tar-head"),
        ("2\n1024\n512\n1100\n0\n", 1100, 512, "tar-head"),
        ("2\n1\n511\n1100\n0\n", 1100, 511, "tar-head"),
        ("2\n0\n5\n1100\n0\n", 1100, 5, "tar-head"),
        ("2\n0\n0\n1100\n0\n", 1100, 0, "tar-head"),
        ("2\n18446744073709551104\n512\n1100\n0\n", 1100, 512, "tar-head"),
        ("2\n18446744073709551616\n512\n1100\n0\n", 1100, 512, "tar-sparse-map"),
        ("2\n00\n512\n1100\n0\n", 1100, 512, "tar-sparse-map"),
        ("2\n0\n512\n1100\n0\n7", 1100, 512, "tar-form"),
        ("2\n0\n512\n1100\n0\n7\n", 1100, 512, "tar-sparse-map"),
        ("2\n0\n512\n", 1100, 512, "tar-sparse-map"),
        ("0\n", 0, 0, "tar-sparse-map"),
        ("x\n", 0, 0, "tar-sparse-map"),
        (&many, 1100, 5, "tar-sparse-map-size"),
        ("99999999999999999999\n", 1100, 5, "tar-sparse-map"),
    ] {
        assert_eq!(fault(&with_map(map, realsize, data)), code, "{map:?}");
    }
    // A map that never ends stops at its bound, in bounded memory.
    let mut endless = with_map("2\n", 10, 0);
    let main = endless.len() - 1024;
    endless.splice(main..main + 512, Fields { size: 1 << 40, ..fields(b"GNUSparseFile.0/f") }.to_block());
    endless.resize(1 << 20, b'1');
    assert_eq!(fault(&endless), "tar-sparse-map");
    // The realsize bound.
    assert_eq!(fault(&with_map(&format!("1\n{}\n0\n", 1_u64 << 51), 1 << 51, 0)), "tar-head");
}

#[test]
fn the_largest_map_is_read() {
    let extents: Vec<Extent> = (0..EXTENTS_MAX as u64).map(|i| Extent { offset: i * 1024, length: 512 }).collect();
    let head = MemberHead { size: EXTENTS_MAX as u64 * 1024, extents: Some(extents), ..plain(b"f", MemberKind::File) };
    let mut content = vec![0; EXTENTS_MAX * 1024];
    content.chunks_mut(1024).for_each(|chunk| chunk[..512].fill(1));
    let kept = parse(&stream(&[Sample { head, content: content.clone() }])).expect("within bounds");
    assert_eq!(kept.ended[0].sha256, Some(Digest::of(&content)));
}

#[test]
fn holes_have_a_budget() {
    let hole = |size| Sample { head: MemberHead { size, extents: Some(vec![]), ..plain(b"f", MemberKind::File) }, content: vec![] };
    let mut bytes = Vec::new();
    hole(600).write(&mut bytes);
    hole(400).write(&mut bytes);
    let mut parser = Parser::with_limits(Limits { hole_bytes_max: 1000 });
    parser.push(&bytes, &mut Ignore).expect("just enough");
    parser = Parser::restore(&parser.snapshot()).expect("own snapshot");
    bytes.clear();
    hole(1).write(&mut bytes);
    assert_eq!(parser.push(&bytes, &mut Ignore).map_err(|e| e.fault), Err(Fault::Holes));
    let mut default = Parser::new();
    bytes.clear();
    hole(HOLE_BYTES_MAX + 1).write(&mut bytes);
    assert_eq!(default.push(&bytes, &mut Ignore).map_err(|e| e.fault), Err(Fault::Holes));
}

#[test]
fn ends_that_are_not_the_end() {
    let good = stream(&[file(b"a", b"1")]);
    let code = |bytes: &[u8]| parse(bytes).err().map_or("accepted", |e| e.fault.code());
    assert_eq!(code(&good), "accepted");
    for cut in 0..good.len() {
        assert_eq!(code(&good[..cut]), "tar-truncated", "{cut}");
    }
    assert_eq!(code(&[&good[..], &[0]].concat()), "tar-after-end");
    assert_eq!(code(&[&good[..good.len() - 512], &fields(b"b").to_block(), &END_MARKER].concat()), "tar-half-end");
    assert_eq!(code(b""), "tar-truncated");
}

#[test]
fn a_failed_parser_stays_failed() {
    let mut parser = Parser::new();
    let error = parser.push(&[1; 512], &mut Ignore).expect_err("no header");
    assert_eq!(parser.push(&stream(&[]), &mut Ignore), Err(error.clone()));
    assert_eq!(parser.finish(), Err(error));
    assert!(parser.snapshot().is_empty() && Parser::restore(&parser.snapshot()).is_none());
}

/// No byte of a stream is without meaning: change any one, and the parser refuses or sees something else.
#[test]
fn every_flipped_byte_shows() {
    let mut rich = file(&[b"files/".to_vec(), vec![0xe9; 110]].concat(), &[5; 700]);
    rich.head.xattrs.insert("user.a".to_owned(), vec![0; 40]);
    rich.head.mtime = Some(FileTime { s: -5, ns: 7 });
    rich.head.uid = u32::MAX;
    let mut sparse = file(b"files/s", &[0; 900]);
    sparse.head.extents = Some(vec![Extent { offset: 512, length: 388 }]);
    let link = Sample { head: MemberHead { target: Some(b"/x".to_vec()), ..plain(b"l", MemberKind::Symlink) }, content: vec![] };
    let good = stream(&[rich, sparse, link]);
    let expected = parse(&good).expect("good").ended;
    for at in 0..good.len() {
        for flip in [0x01, 0x20, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            if let Ok(kept) = parse(&bad) {
                assert_ne!(kept.ended, expected, "byte {at} can be {:#x}", bad[at]);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = parse(&bytes);
        let _ = Parser::restore(&bytes);
        let _ = head::parse_map(&bytes, 10);
    }

    #[test]
    fn damaged_streams_are_handled(
        samples in proptest::collection::vec(sample(), 1..3),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        repair: bool,
    ) {
        let mut bytes = stream(&samples);
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
            let from = at / BLOCK * BLOCK;
            if repair && bytes[from + 257..].starts_with(b"ustar") {
                let block: [u8; BLOCK] = bytes[from..from + BLOCK].try_into().expect("a block");
                bytes[from..from + BLOCK].copy_from_slice(&altered(block, 0, &[]));
            }
        }
        let mut parser = Parser::new();
        for piece in bytes.chunks(777) {
            if parser.push(piece, &mut Ignore).is_err() {
                break;
            }
            prop_assert!(parser.held.len() <= 2 * PAX_BYTES_MAX);
        }
    }

    #[test]
    fn damaged_snapshots_are_handled(sample in sample(), at: prop::sample::Index, edit: prop::sample::Index, value: u8) {
        let bytes = stream(&[sample]);
        let mut parser = Parser::new();
        parser.push(&bytes[..at.index(bytes.len())], &mut Ignore).expect("own stream");
        let mut state = parser.snapshot();
        let edit = edit.index(state.len());
        state[edit] = value;
        if let Some(mut parser) = Parser::restore(&state) {
            let _ = parser.push(&bytes[at.index(bytes.len())..], &mut Ignore);
        }
    }
}
