use std::os::unix::fs::FileExt as _;
use std::process::Command;

use super::*;

struct InFile(std::fs::File);

impl Output for InFile {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_all_at(bytes, offset).expect("write");
        Ok(())
    }
    fn read(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

fn media(size: u64, bad: &[(u64, u64)]) -> Media {
    Media { size, sector: None, what: what(), set: [7; 16], bad: bad.to_vec() }
}

fn run(program: &str, args: &[&str]) -> Option<(bool, String)> {
    let Ok(out) = Command::new(program).args(args).output() else {
        println!("{program} is not installed: not compared");
        return None;
    };
    Some((out.status.success(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))))
}

fn what() -> Description {
    Description {
        case_number: "01JCASE".to_owned(),
        evidence_number: "item.s1.7".to_owned(),
        description: "/dev/sdb on żółw\tdb-1".to_owned(),
        examiner: "Ann".to_owned(),
        notes: "SHA-256 abc\nsecond line".to_owned(),
        acquired: Some(Timestamp::from_unix_ns(1_700_000_000_000_000_000)),
        now: Some(Timestamp::from_unix_ns(1_700_000_100_000_000_000)),
        physical: true,
    }
}

fn write(dir: &std::path::Path, media: &[u8], skip_to: usize, bad: &[(u64, u64)]) -> String {
    let path = dir.join("x.E01");
    let _ = std::fs::remove_file(&path);
    let mut out = InFile(std::fs::File::create(&path).expect("file"));
    let mut writer = E01::new(self::media(media.len() as u64, bad));
    for (n, piece) in media.chunks(50_001).enumerate() {
        let at = n * 50_001;
        if at + piece.len() > skip_to {
            writer.write(at as u64, piece, &mut out).expect("write");
        }
    }
    let made = writer.end(media.len() as u64, &mut out).expect("ends");
    assert_eq!(made.size, out.0.metadata().expect("size").len());
    path.to_str().expect("text").to_owned()
}

fn noise(count: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(count)
    .collect()
}

#[test]
fn libewf_reads_what_was_written() {
    let dir = tempfile::tempdir().expect("folder");
    let text: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    for media in
        [noise(512), noise(32 << 10), noise((1 << 20) + 512), [vec![0; 5 << 20], text[..11_000_320].to_vec(), noise(70_144)].concat()]
    {
        let path = write(dir.path(), &media, 5 << 20, &[(1024, 512)]);
        let (sound, said) = run("ewfverify", &["-q", &path]).expect("installed");
        assert!(sound && said.contains("SUCCESS"), "{} bytes: {said}", media.len());
        let out = dir.path().join("back");
        let (done, said) = run("ewfexport", &["-q", "-u", "-f", "raw", "-t", out.to_str().expect("text"), &path]).expect("installed");
        assert!(done, "{said}");
        let back = std::fs::read(dir.path().join("back.raw")).expect("exported");
        assert!(back == skipped(&media), "{} bytes come back otherwise", media.len());
        std::fs::remove_file(dir.path().join("back.raw")).expect("remove");
        let (_, info) = run("ewfinfo", &["-d", "iso8601", &path]).expect("installed");
        for part in ["01JCASE", "item.s1.7", "żółw\\tdb-1", "Ann", "SHA-256 abc\\nsecond line", "2023-11-14T22:13:20", "exhibit"] {
            assert!(info.contains(part), "{part}: {info}");
        }
        for digest in [hex(&Md5::digest(&back)), hex(&Sha1::digest(&back))] {
            assert!(info.contains(&digest), "{digest}: {info}");
        }
    }
}

/// The first 5 MiB are not written when they are skipped; they are zeros either way.
fn skipped(media: &[u8]) -> Vec<u8> {
    let mut want = media.to_vec();
    for (n, piece) in media.chunks(50_001).enumerate() {
        let at = n * 50_001;
        if at + piece.len() <= 5 << 20 {
            want[at..at + piece.len()].fill(0);
        }
    }
    want
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[test]
fn more_chunks_than_one_table_holds() {
    let dir = tempfile::tempdir().expect("folder");
    // 600 MiB, nearly all zeros: two tables.
    let path = dir.path().join("big.E01");
    let size = 600_u64 << 20;
    let mut out = InFile(std::fs::File::create(&path).expect("file"));
    let mut writer = E01::new(media(size, &[]));
    writer.write(550 << 20, b"here", &mut out).expect("write");
    let _ = writer.end(size, &mut out).expect("ends");
    let path = path.to_str().expect("text");
    let (sound, said) = run("ewfverify", &["-q", path]).expect("installed");
    assert!(sound && said.contains("SUCCESS"), "{said}");
}

/// One range that cannot be numbered must not cost the list of all others.
#[test]
fn bad_sectors_beyond_two_tib_are_counted_and_the_others_listed() {
    let far = (3_u64 << 40, 512);
    let count = |bad: &[(u64, u64)]| {
        let (body, beyond) = errors(bad, 512);
        (body.map(|b| u32::from_le_bytes(b[..4].try_into().expect("4 bytes"))), beyond)
    };
    assert_eq!(count(&[]), (None, 0));
    assert_eq!(count(&[(512, 512), (4096, 1024)]), (Some(2), 0));
    assert_eq!(count(&[(512, 512), far]), (Some(1), 1));
    assert_eq!(count(&[far]), (None, 1));
}

/// What a host says of its disk's sectors is used only where a file can count in them.
#[test]
fn sectors_are_the_disks_where_they_fit() {
    let sector = |said, size| Media { sector: said, ..media(size, &[]) }.sector();
    assert_eq!((sector(None, 1 << 20), sector(Some(512), 1 << 20), sector(Some(4096), 1 << 20)), (512, 512, 4096));
    for (said, size) in [(4096, (1 << 20) + 512), (0, 1 << 20), (3 * 512, 3 << 20), (256, 1 << 20), (1 << 16, 1 << 20), (u64::MAX, 1 << 20)]
    {
        assert_eq!(sector(Some(said), size), 512, "{said}");
    }
}

#[test]
fn what_would_lose_bytes_is_refused() {
    assert_eq!(refusal(1 << 20), None);
    assert!(refusal(0).is_some());
    assert!(refusal((1 << 20) + 1).is_some_and(|r| r.contains("1 bytes would be lost")));
    assert!(refusal(u64::MAX / 512 * 512).is_some_and(|r| r.contains("more than an E01 file can number")));
}

#[test]
fn the_checksum_is_adlers() {
    assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    assert_eq!(adler32(&vec![0xff; 100_000]), {
        let (mut a, mut b) = (1_u64, 0_u64);
        for _ in 0..100_000 {
            a = (a + 255) % 65_521;
            b = (b + a) % 65_521;
        }
        (b << 16 | a) as u32
    });
}

/// A hole is the zeros that it stands for, wherever it begins and ends within a chunk.
#[test]
fn a_hole_gives_the_same_file_as_its_zeros() {
    let dir = tempfile::tempdir().expect("folder");
    let media = [noise(700), vec![0; CHUNK_BYTES * 3 + 900], noise(512), vec![0; CHUNK_BYTES * 2 + 448]].concat();
    assert_eq!(refusal(media.len() as u64), None);
    let made = |name: &str, pieces: &[(usize, usize)]| {
        let path = dir.path().join(name);
        let mut out = InFile(std::fs::File::create(&path).expect("file"));
        let mut writer = E01::new(self::media(media.len() as u64, &[]));
        for (from, to) in pieces {
            writer.write(*from as u64, &media[*from..*to], &mut out).expect("write");
        }
        writer.end(media.len() as u64, &mut out).expect("ends");
        std::fs::read(path).expect("read")
    };
    let second = 700 + CHUNK_BYTES * 3 + 900;
    let whole = made("whole", &[(0, media.len())]);
    assert!(whole == made("holes", &[(0, 700), (second, second + 512)]), "holes make another file");
}
