use super::*;

const NO_XATTRS: &BTreeMap<String, Vec<u8>> = &BTreeMap::new();

fn head<'a>(name: &'a [u8], kind: HeadKind<'a>) -> Head<'a> {
    Head { name, kind, mode: 0o644, uid: 0, gid: 0, mtime: None, atime: None, ctime: None, xattrs: NO_XATTRS }
}

fn encoded(head: &Head<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(head, &mut out).expect("a good head");
    out
}

#[test]
fn a_plain_small_file_is_one_ustar_block() {
    let block = encoded(&head(b"files/etc/hostname", HeadKind::File { size: 9 }));
    assert_eq!(block.len(), 512);
    assert!(block.starts_with(b"files/etc/hostname\0"));
    // POSIX ustar, by the table of the standard: octal fields end in NUL, magic "ustar\0", version "00".
    assert_eq!(&block[100..148], b"0000644\x000000000\x000000000\x0000000000011\x0000000000000\0");
    assert_eq!((block[156], &block[257..265]), (b'0', &b"ustar\x0000"[..]));
}

#[test]
fn pax_records_in_their_order() {
    let xattrs = BTreeMap::from([("user.b".to_owned(), vec![0, 255]), ("user.a=%".to_owned(), b"1".to_vec())]);
    let time = |s, ns| Some(FileTime { s, ns });
    let bytes = encoded(&Head {
        name: "files/é".as_bytes(),
        kind: HeadKind::File { size: 8 << 30 },
        uid: 3_000_000_000,
        gid: 2_097_152,
        mtime: time(1, 5),
        atime: time(-1, 500_000_000),
        ctime: time(0, 0),
        xattrs: &xattrs,
        ..head(b"", HeadKind::Directory)
    });
    let records = b"17 path=files/\xc3\xa9\n19 size=8589934592\n18 uid=3000000000\n15 gid=2097152\n21 mtime=1.000000005\n\
        22 atime=-0.500000000\n21 ctime=0.000000000\n31 SCHILY.xattr.user.a%3D%25=1\n26 SCHILY.xattr.user.b=\x00\xff\n";
    assert_eq!(String::from_utf8_lossy(&bytes[512..512 + records.len()]), String::from_utf8_lossy(records));
    let main = &bytes[1024..];
    assert_eq!(&main[108..148], b"0000000\x000000000\x0000000000000\x0000000000001\0");
}

#[test]
fn a_sparse_map_ends_with_the_files_end() {
    let extents = [Extent { offset: 4096, length: 512 }, Extent { offset: 1 << 33, length: 5 }];
    let mut out = Vec::new();
    let data = encode(&head(b"files/s", HeadKind::Sparse { size: (1 << 33) + 5, extents: &extents }), &mut out);
    assert_eq!(data, Ok(517));
    assert_eq!(out.len(), 512 + 512 + 512 + 512);
    assert!(out[1024..].starts_with(b"GNUSparseFile.0/files/s\0"));
    // 512 of map + 517 = 1029 = 0o2005.
    assert_eq!(&out[1024 + 124..1024 + 136], b"00000002005\0");
    assert!(out[1536..].starts_with(b"3\n4096\n512\n8589934592\n5\n8589934597\n0\n\0"));
}

#[test]
fn what_cannot_be_written_says_why() {
    let zero_in = |v: u32| Some(FileTime { s: 0, ns: v });
    let xattrs = |name: &str, len| BTreeMap::from([(name.to_owned(), vec![1; len])]);
    let (nul, long, huge) = (xattrs("user.\0", 1), xattrs(&"x".repeat(XATTR_NAME_BYTES_MAX + 1), 1), xattrs("user.x", PAX_BYTES_MAX));
    let file = HeadKind::File { size: 0 };
    let long_name = vec![b'n'; NAME_BYTES_MAX + 1];
    let names: [&[u8]; 9] = [b"", b"/a", b"a//b", b"a/../b", b"..", b"./a", b"a/", b"a\0b", &long_name];
    for name in names {
        assert!(matches!(encode(&head(name, file), &mut Vec::new()), Err(BadHead::Name(_))), "{name:?}");
    }
    assert_eq!(encode(&head(b"files/", HeadKind::Directory), &mut Vec::new()), Ok(0));
    assert!(encode(&head(b"files//", HeadKind::Directory), &mut Vec::new()).is_err());
    let long_target = vec![b't'; TARGET_BYTES_MAX + 1];
    for target in [&b""[..], b"a\0", &long_target] {
        assert!(matches!(encode(&head(b"l", HeadKind::Symlink { target }), &mut Vec::new()), Err(BadHead::Target(_))));
    }
    assert_eq!(encode(&head(b"l", HeadKind::Symlink { target: b"/../x//" }), &mut Vec::new()), Ok(0));
    assert!(matches!(encode(&head(b"l", HeadKind::Hardlink { target: b"/a" }), &mut Vec::new()), Err(BadHead::Target(_))));
    let plain = head(b"f", file);
    for (bad, why) in [
        (Head { mode: 0o10_000, ..plain }, BadHead::Mode(0o10_000)),
        (Head { mtime: zero_in(1_000_000_000), ..plain }, BadHead::Time("mtime")),
        (Head { ctime: Some(FileTime { s: i64::MIN, ns: 0 }), ..plain }, BadHead::Time("ctime")),
        (Head { xattrs: &nul, ..plain }, BadHead::XattrName("user.\\x00".to_owned())),
        (Head { xattrs: &long, ..plain }, BadHead::XattrName("x".repeat(200))),
        (Head { xattrs: &huge, ..plain }, BadHead::PaxTooLarge(PAX_BYTES_MAX + 29)),
        (head(b"f", HeadKind::File { size: SIZE_MAX + 1 }), BadHead::Size(SIZE_MAX + 1)),
    ] {
        let mut out = b"before".to_vec();
        assert_eq!(encode(&bad, &mut out), Err(why));
        assert_eq!(out, b"before");
    }
}

#[test]
fn bad_extents_are_refused() {
    let e = |offset, length| Extent { offset, length };
    for (index, extents) in [
        (0, vec![e(0, 0)]),
        (1, vec![e(1024, 512), e(0, 512)]),
        (1, vec![e(0, 1024), e(512, 512)]),
        (0, vec![e(0, 3000)]),
        (0, vec![e(2048, 1000)]),
        (0, vec![e(512, 100)]),
        (0, vec![e(100, 412)]),
        (0, vec![e(u64::MAX - 511, 512)]),
    ] {
        let bad = head(b"s", HeadKind::Sparse { size: 2999, extents: &extents });
        assert_eq!(encode(&bad, &mut Vec::new()), Err(BadHead::Extents { index }));
    }
    let good = [e(0, 512), e(512, 512), e(2560, 439)];
    assert_eq!(encode(&head(b"s", HeadKind::Sparse { size: 2999, extents: &good }), &mut Vec::new()), Ok(1463));
    let many: Vec<Extent> = (0..=EXTENTS_MAX as u64).map(|i| e(i * 1024, 512)).collect();
    let bad = head(b"s", HeadKind::Sparse { size: 1 << 30, extents: &many });
    assert_eq!(encode(&bad, &mut Vec::new()), Err(BadHead::TooManyExtents(EXTENTS_MAX + 1)));
}

#[test]
fn too_many_extents_close_their_smallest_holes() {
    let mut extents: Vec<Extent> = (0..EXTENTS_MAX as u64 + 2).map(|i| Extent { offset: i * 5120, length: 512 }).collect();
    // Two holes that are smaller than the others.
    extents[7].length = 4000;
    extents[9].length = 3500;
    let size = extents.last().expect("some").end() - 5;
    let tidy = tidy_extents(extents, size);
    assert_eq!(tidy.len(), EXTENTS_MAX);
    assert_eq!((tidy[7], tidy[8]), (Extent { offset: 7 * 5120, length: 5632 }, Extent { offset: 9 * 5120, length: 5632 }));
    assert_eq!(tidy.last().map(Extent::end), Some(size));
}

proptest::proptest! {
    #[test]
    fn tidy_extents_cover_what_was_given_in_whole_blocks(
        raw in proptest::collection::vec((0_u64..9000, 0_u64..2000), 0..12),
        size in 0_u64..9000,
    ) {
        let extents: Vec<Extent> = raw.iter().map(|&(offset, length)| Extent { offset, length }).collect();
        let blocks = |list: &[Extent]| -> Vec<u64> {
            let touched = |b: u64| list.iter().any(|e| e.length > 0 && e.offset < (b + 512).min(size) && e.end() > b);
            (0..size).step_by(512).filter(|b| touched(*b)).collect()
        };
        let tidy = tidy_extents(extents.clone(), size);
        proptest::prop_assert_eq!(blocks(&tidy), blocks(&extents));
        proptest::prop_assert_eq!(check_extents(size, &tidy), Ok(()));
        proptest::prop_assert!(tidy.windows(2).all(|w| w[0].end() < w[1].offset));
    }

    #[test]
    fn padding_fills_blocks(bytes: u64) {
        let zeros = padding(bytes);
        proptest::prop_assert!(zeros < 512 && (u128::from(bytes) + zeros as u128).is_multiple_of(512));
    }
}
