use std::collections::BTreeMap;

use super::*;
use crate::log::{Tiler, Tree, leaf_hash};

/// All tiles of a tree, and its roots at every size.
fn tree(size: u64) -> (BTreeMap<Tile, Vec<u8>>, Vec<Digest>) {
    let (mut tiler, mut tree, mut tiles) = (Tiler::new(), Tree::new(), BTreeMap::new());
    let mut roots = vec![tree.root()];
    for n in 0..size {
        tiler.append(leaf(n), &mut |tile, bytes| {
            tiles.insert(tile, bytes);
        });
        tree.append(&n.to_le_bytes());
        roots.push(tree.root());
    }
    tiles.extend(tiler.partial());
    (tiles, roots)
}

fn leaf(n: u64) -> Digest {
    leaf_hash(&n.to_le_bytes())
}

fn build(plan: &Plan, tiles: &BTreeMap<Tile, Vec<u8>>) -> Vec<Digest> {
    plan.build(&|tile| tiles.get(tile).map(Vec::as_slice)).expect("tiles")
}

#[test]
fn every_small_proof_holds_and_no_other_one() {
    for size in 1..70_u64 {
        let (tiles, roots) = tree(size);
        let root = &roots[size as usize];
        for n in 0..size {
            let proof = build(&Plan::inclusion(n, size).expect("inside"), &tiles);
            assert_eq!(verify_inclusion(leaf(n), n, size, &proof, root), Ok(()), "{n} of {size}");
            assert!(verify_inclusion(leaf(n + 1), n, size, &proof, root).is_err());
            assert!(verify_inclusion(leaf(n), n + 1, size, &proof, root).is_err());
            let old = &roots[n as usize];
            let proof = build(&Plan::consistency(n, size).expect("inside"), &tiles);
            assert_eq!(verify_consistency((n, old), (size, root), &proof), Ok(()), "{n} to {size}");
            if n > 0 {
                assert!(verify_consistency((n, root), (size, root), &proof).is_err());
                assert!(verify_consistency((n, old), (size, old), &proof).is_err());
                assert!(verify_consistency((n, old), (size, root), &[proof.clone(), vec![*old]].concat()).is_err());
            }
        }
        assert_eq!(Plan::inclusion(size, size), None);
        assert_eq!(verify_consistency((size, root), (size, root), &[]), Ok(()));
        assert!(verify_consistency((size, root), (size - 1, root), &[]).is_err());
    }
}

/// A proof of another history says which root that one has, except at sizes whose root no proof holds.
#[test]
fn a_proof_gives_the_earlier_root_of_its_own_history() {
    for size in 2..40_u64 {
        let (tiles, roots) = tree(size);
        let root = &roots[size as usize];
        for old in 0..=size {
            let proof = build(&Plan::consistency(old, size).expect("inside"), &tiles);
            let shown = earlier_root(old, (size, root), &proof);
            let holds = old > 0 && old < size && !old.is_power_of_two();
            assert_eq!(shown, holds.then_some(roots[old as usize]), "{old} to {size}");
            if holds {
                let mut damaged = proof.clone();
                damaged[0] = leaf(1_000);
                assert_eq!(earlier_root(old, (size, root), &damaged), None, "it does not lead to the later root");
                assert_eq!(earlier_root(old, (size, root), &proof[1..]), None);
                assert_eq!(earlier_root(old, (size, root), &[proof, vec![leaf(0)]].concat()), None);
            }
        }
    }
}

#[test]
fn a_proof_reads_few_tiles_and_has_few_hashes() {
    let (tiles, roots) = tree(70_000);
    let root = &roots[70_000];
    for n in [0, 1, 255, 256, 4_711, 65_535, 65_536, 69_887, 69_888, 69_999] {
        let plan = Plan::inclusion(n, 70_000).expect("inside");
        let proof = build(&plan, &tiles);
        assert!(plan.tiles().len() <= 6 && proof.len() <= 17, "{n}: {} tiles, {} hashes", plan.tiles().len(), proof.len());
        assert_eq!(verify_inclusion(leaf(n), n, 70_000, &proof, root), Ok(()));
        let earlier = Plan::inclusion(n, n + 3).expect("inside").in_tree(70_000);
        if n < 69_000 {
            assert_eq!(verify_inclusion(leaf(n), n, n + 3, &build(&earlier, &tiles), &roots[n as usize + 3]), Ok(()), "{n}");
        }
        let plan = Plan::consistency(n, 70_000).expect("inside");
        let proof = build(&plan, &tiles);
        assert!(plan.tiles().len() <= 6 && proof.len() <= 18, "{n}: {} tiles, {} hashes", plan.tiles().len(), proof.len());
        assert_eq!(verify_consistency((n, &roots[n as usize]), (70_000, root), &proof), Ok(()));
    }
    let plan = Plan::inclusion(0, 70_000).expect("inside");
    let gone = *plan.tiles().first().expect("some");
    assert_eq!(plan.build(&|t| tiles.get(t).filter(|_| *t != gone).map(Vec::as_slice)), Err(MissingTile(gone)));
    assert_eq!(plan.build(&|t| tiles.get(t).map(|b| if *t == gone { &b[..31] } else { b })), Err(MissingTile(gone)));
}

/// RFC 6962 section 2.1.3: the tree of seven leaves d0 to d6 and its proofs, by the letters of the drawing.
#[test]
#[allow(clippy::many_single_char_names, reason = "the names of the RFC's picture")]
fn the_example_of_rfc_6962() {
    let (tiles, _) = tree(7);
    let [a, b, c, d, e, f, j] = [0, 1, 2, 3, 4, 5, 6].map(leaf);
    let (g, h, i) = (node_hash(&a, &b), node_hash(&c, &d), node_hash(&e, &f));
    let (k, l) = (node_hash(&g, &h), node_hash(&i, &j));
    let inclusion = |n| build(&Plan::inclusion(n, 7).expect("inside"), &tiles);
    assert_eq!([inclusion(0), inclusion(3), inclusion(4)], [vec![b, h, l], vec![c, g, l], vec![f, j, k]]);
    assert_eq!(inclusion(6), [i, k]);
    let consistency = |n| build(&Plan::consistency(n, 7).expect("inside"), &tiles);
    assert_eq!(consistency(3), [c, d, g, l]);
    assert_eq!(consistency(4), [l]);
    assert_eq!(consistency(6), [i, j, k]);
}

#[test]
fn texts_are_those_of_the_specifications() {
    let checkpoint = b"o\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\xe2\x80\x94 o AAAAAAAA\n".to_vec();
    let proof = InclusionProof { index: 7, hashes: vec![leaf(1), leaf(2)], checkpoint: checkpoint.clone() };
    let text = String::from_utf8(proof.to_bytes()).expect("text");
    assert!(
        text.starts_with("c2sp.org/tlog-proof@v1\nindex 7\n")
            && text.ends_with("=\n\no\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u{2014} o AAAAAAAA\n")
    );
    assert_eq!(InclusionProof::parse(text.as_bytes()), Ok(proof.clone()));
    let extra = text.replace("index 7", "extra AAAA\nindex 7");
    assert_eq!(InclusionProof::parse(extra.as_bytes()), Ok(proof));
    for bad in [
        text.replace("@v1", "@v2"),
        text.replace("index 7", "index 07"),
        text.replace("\n\no", "\no"),
        text.replace("index 7\n", "index 7\nAAAA\n"),
    ] {
        assert!(InclusionProof::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let request = ConsistencyProof { old: 0, hashes: Vec::new(), checkpoint };
    assert!(request.to_bytes().starts_with(b"old 0\n\no\n"));
    assert_eq!(ConsistencyProof::parse(&request.to_bytes()), Ok(request.clone()));
    let many = ConsistencyProof { hashes: vec![leaf(0); 65], ..request };
    assert!(ConsistencyProof::parse(&many.to_bytes()).is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    #[test]
    fn round_trips_hold_and_every_flipped_byte_is_refused(size in 1_u64..700, at: u64, flip_at: usize, flip in 1_u8..) {
        let n = at % size;
        let (tiles, roots) = tree(size);
        let root = &roots[size as usize];
        let inclusion = build(&Plan::inclusion(n, size).expect("inside"), &tiles);
        proptest::prop_assert_eq!(verify_inclusion(leaf(n), n, size, &inclusion, root), Ok(()));
        let consistency = build(&Plan::consistency(n, size).expect("inside"), &tiles);
        let old = (n, &roots[n as usize]);
        proptest::prop_assert_eq!(verify_consistency(old, (size, root), &consistency), Ok(()));
        for (is_inclusion, proof) in [(true, &inclusion), (false, &consistency)] {
            if proof.is_empty() {
                continue;
            }
            let mut bytes: Vec<u8> = proof.iter().flat_map(|h| *h.as_bytes()).collect();
            let len = bytes.len();
            bytes[flip_at % len] ^= flip;
            let flipped: Vec<Digest> = bytes.as_chunks::<32>().0.iter().map(|h| Digest::from_bytes(*h)).collect();
            let refused = if is_inclusion {
                verify_inclusion(leaf(n), n, size, &flipped, root).is_err()
            } else {
                verify_consistency(old, (size, root), &flipped).is_err()
            };
            proptest::prop_assert!(refused);
            // A hash less, a hash more.
            let less = &proof[1..];
            let more = [&proof[..], &proof[..1]].concat();
            for other in [less, &more] {
                let refused = if is_inclusion {
                    verify_inclusion(leaf(n), n, size, other, root).is_err()
                } else {
                    verify_consistency(old, (size, root), other).is_err()
                };
                proptest::prop_assert!(refused);
            }
        }
    }

    #[test]
    fn any_bytes_and_numbers_are_handled(bytes: Vec<u8>, n: u64, size: u64, hashes in proptest::collection::vec(proptest::array::uniform32(0_u8..), 0..70)) {
        let _ = InclusionProof::parse(&bytes);
        let _ = ConsistencyProof::parse(&bytes);
        let hashes: Vec<Digest> = hashes.into_iter().map(Digest::from_bytes).collect();
        let root = Digest::of(b"r");
        proptest::prop_assert!(verify_inclusion(root, n, size, &hashes, &Digest::of(b"x")).is_err());
        let _ = verify_consistency((n, &root), (size, &root), &hashes);
        if n < size && size < 1 << 62 {
            let _ = Plan::inclusion(n, size).map(|p| p.tiles());
            let _ = Plan::consistency(n, size).map(|p| p.tiles());
        }
    }
}
