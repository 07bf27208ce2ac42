//! What is written is opened, also by age itself; what is altered anywhere is not.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::digest::Digest;

fn identity(n: u8) -> Identity {
    Identity::from_secret(zeroize::Zeroizing::new([n; 32])).expect("usable")
}

fn recipients(of: &[&Identity]) -> Recipients {
    of.iter().map(|i| *i.recipient()).collect::<Vec<_>>().try_into().expect("different")
}

/// Bytes that differ from call to call of one test, and never from run to run.
fn random(to: &Recipients, seed: u8) -> Vec<u8> {
    (0..random_len(to.as_slice().len())).map(|n| Digest::of(&[seed, n as u8]).as_bytes()[0]).collect()
}

fn encrypt(plain: &[u8], to: &Recipients, piece: usize) -> Vec<u8> {
    let mut encryptor = Encryptor::new(to, &random(to, plain.len() as u8), vec![1, 2, 3]).expect("begins");
    for bytes in plain.chunks(piece) {
        encryptor.push(bytes).expect("room");
    }
    let finished = encryptor.finished().to_vec();
    let file = encryptor.finish().expect("ends");
    assert!(file.starts_with(&finished) && file.len() - finished.len() <= CHUNK_LEN + TAG_LEN, "what is finished stays as it is");
    file
}

fn plain(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

#[test]
fn what_was_encrypted_is_opened_by_each_recipient_and_by_nobody_else() {
    let (a, b, other) = (identity(1), identity(2), identity(3));
    let to = recipients(&[&a, &b]);
    for len in [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN, 3 * CHUNK_LEN + 17] {
        let plain = plain(len);
        let file = encrypt(&plain, &to, 10_007);
        assert!(file.len() <= len + Encryptor::overhead(2, len), "{len}");
        assert_eq!(Form::of(&file, 2), Ok(Form { plain_len: len as u64 }));
        let mut out = vec![9];
        for holder in [&a, &b] {
            decrypt(&file, 2, &[other.clone(), holder.clone()], &mut out).expect("a recipient");
            assert!(out == plain, "{len}");
            assert_eq!(opens(&file, 2, holder), Ok(()));
        }
        assert_eq!(opens(&file, 2, &other), Err(AgeError::Closed(*other.recipient())));
        assert_eq!(decrypt(&file, 2, std::slice::from_ref(&other), &mut out), Err(AgeError::OtherRecipients));
        assert!(out.is_empty());
        assert!(matches!(Form::of(&file, 1), Err(AgeError::Form { .. })) && matches!(Form::of(&file, 3), Err(AgeError::Form { .. })));
    }
}

#[test]
fn nothing_that_was_altered_or_cut_is_opened() {
    let (a, b) = (identity(1), identity(2));
    let to = recipients(&[&a, &b]);
    let file = encrypt(&plain(CHUNK_LEN + 100), &to, 999);
    let mut out = Vec::new();
    let refused = |bytes: &[u8], out: &mut Vec<u8>| {
        assert!(decrypt(bytes, 2, std::slice::from_ref(&b), out).is_err());
        assert!(out.is_empty());
    };
    let header = file.len() - (CHUNK_LEN + 100 + 2 * TAG_LEN + NONCE_LEN);
    for at in (0..header + 64).chain((header + 64..file.len()).step_by(4_001)).chain([file.len() - 1]) {
        let mut altered = file.clone();
        altered[at] ^= 4;
        refused(&altered, &mut out);
    }
    for len in (0..header + 40).chain((header + 40..file.len()).step_by(4_001)).chain([file.len() - 1]) {
        refused(&file[..len], &mut out);
    }
    // A chunk on a border taken away is a file of a possible length.
    let cut = &file[..file.len() - 100 - TAG_LEN];
    assert!(Form::of(cut, 2).is_ok());
    assert_eq!(decrypt(cut, 2, std::slice::from_ref(&b), &mut out), Err(AgeError::Altered("the payload")));
    refused(&[file.as_slice(), &[0]].concat(), &mut out);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_handled(bytes: Vec<u8>, at: usize, with: u8, n in 0_usize..4) {
        let a = identity(1);
        let mut out = Vec::new();
        proptest::prop_assert!(decrypt(&bytes, n, std::slice::from_ref(&a), &mut out).is_err());
        let mut file = encrypt(&bytes, &recipients(&[&a]), 100);
        let at = at % file.len();
        file[at] ^= with;
        proptest::prop_assert_eq!(decrypt(&file, 1, &[a], &mut out).is_ok(), with == 0);
    }
}

#[test]
fn texts_are_those_of_age() {
    // The secret of the specification's test vectors, and its recipient as `age-keygen -y` prints it.
    let secret = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
    let identities = Identity::read_file(format!("# made: today\n\n{secret}\n").as_bytes()).expect("an identity file");
    let public = identities[0].recipient().to_string();
    let asked = Command::new("age-keygen").arg("-y").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().and_then(|mut child| {
        child.stdin.take().expect("piped").write_all(secret.as_bytes())?;
        child.wait_with_output()
    });
    let asked = asked.expect("age-keygen is installed (tests/run does it)");
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), public);
    assert_eq!(public.parse::<Recipient>().expect("reads").to_string(), public);
    let mut typo = public.clone().into_bytes();
    typo[20] = if typo[20] == b'q' { b'p' } else { b'q' };
    let typo = String::from_utf8(typo).expect("ASCII");
    let upper = public.to_ascii_uppercase();
    for bad in [typo.as_str(), upper.as_str(), secret, "", "age1", "ssh-ed25519 AAAA"] {
        assert!(bad.parse::<Recipient>().is_err(), "{bad}");
    }
    for bad in ["", "# only a comment\n", public.as_str(), "age-secret-key-1egtzv", "\u{fffd}"] {
        let shown = Identity::read_file(bad.as_bytes()).expect_err("none").to_string();
        assert!(bad.is_empty() || !shown.contains(bad.trim()), "{shown}");
    }
    assert!(!format!("{:?}", identities[0]).contains("SECRET-KEY-1EGT"));
    for pasted in [secret.to_owned(), secret.to_lowercase()] {
        assert_eq!(pasted.parse::<Recipient>(), Err(AgeError::Secret));
    }
    // The same secret with a bit set behind its last byte, and the checksum of that.
    let other_text = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40PHH72XA";
    assert!(matches!(other_text.parse::<Identity>(), Err(AgeError::Identity(why)) if why.contains("one text")));
    let one = *identities[0].recipient();
    assert!(Recipients::try_from(vec![one, one]).is_err() && Recipients::try_from(vec![]).is_err());
    assert!(serde_json::from_str::<Recipients>("[]").is_err());
}

/// What nobody's identity has is no recipient: a case would be opened for good, and nothing could ever be read, or taken.
#[test]
fn a_key_that_nobody_can_have_is_no_recipient() {
    let text = |key: &[u8; KEY_LEN]| bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age").expect("short"), key).expect("short");
    let own = *identity(1).recipient().as_bytes();
    assert_eq!(text(&own).parse::<Recipient>(), Ok(*identity(1).recipient()));
    let mut same_to_x25519 = own;
    same_to_x25519[31] |= 0x80;
    let mut prime = [0xff; KEY_LEN];
    (prime[0], prime[31]) = (0xed, 0x7f);
    let mut one = [0; KEY_LEN];
    one[0] = 1;
    for bad in [same_to_x25519, prime, [0xff; KEY_LEN], [0; KEY_LEN], one] {
        assert_eq!(text(&bad).parse::<Recipient>(), Err(AgeError::Unusable(text(&bad))));
    }
    // The text of `own` with a bit set behind its last byte, and the checksum of that.
    let other_text = "age15nsf9y4k28p83wth93tf7hafhvfajp45d2mge80ems45gz0c5gy3vdd0gd";
    assert_eq!(text(&own).get(..55), other_text.get(..55), "the same key");
    assert_eq!(other_text.parse::<Recipient>(), Err(AgeError::Recipient(other_text.to_owned())));
}

/// Like a private key: the owner's alone, and no more is read than one can have. A pipe has no such mode.
#[test]
fn identity_files_are_their_owners_alone() {
    let secret = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
    for mode in [None, Some(0o100_600), Some(0o100_400)] {
        assert_eq!(Identity::read_from(&mut secret.as_bytes(), mode).expect("the owner's").len(), 1);
    }
    for mode in [0o100_644, 0o100_640, 0o010_602] {
        let shown = Identity::read_from(&mut secret.as_bytes(), Some(mode)).expect_err("open").to_string();
        assert!(shown.contains("chmod 600") && shown.contains(&format!("{:04o}", mode & 0o7777)), "{shown}");
    }
    assert!(matches!(Identity::read_from(&mut std::io::repeat(b'#'), None), Err(AgeError::Identity(_))), "endless");
}

#[test]
fn age_itself_opens_what_is_written_here() {
    let secret = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
    let own: Identity = secret.parse().expect("an identity");
    let dir = tempfile::tempdir().expect("folder");
    let (key, file) = (dir.path().join("key"), dir.path().join("file.age"));
    std::fs::write(&key, secret).expect("write");
    for len in [0, CHUNK_LEN, 2 * CHUNK_LEN + 5] {
        let to = recipients(&[&identity(7), &own]);
        std::fs::write(&file, encrypt(&plain(len), &to, 50_000)).expect("write");
        let opened = Command::new("age").arg("-d").arg("-i").arg(&key).arg(&file).output().expect("age is installed (tests/run does it)");
        assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
        assert!(opened.stdout == plain(len), "{len}");
    }
}
