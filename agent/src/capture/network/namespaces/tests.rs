//! What is remembered of namespaces and holders, and what is told of the rest.

use super::*;

fn some_file() -> OwnedFd {
    std::fs::File::open("/dev/null").expect("open").into()
}

/// One that cannot be opened must not keep a handle of the same namespace out that comes later.
#[test]
fn a_good_handle_takes_the_place_of_none() {
    let mut found = Found::default();
    found.without_process(7, FoundBy::Mount, None, Err("something lies over it".to_owned()));
    assert!(found.wants(7));
    found.without_process(7, FoundBy::Descriptor, None, Ok(some_file()));
    assert!(found.namespaces[0].handle.is_ok() && !found.wants(7));
    found.without_process(7, FoundBy::Socket, None, Err("too late".to_owned()));
    assert!(found.namespaces.len() == 1 && found.namespaces[0].handle.is_ok());
}

/// Namespaces that somebody only keeps do not crowd out those in which processes live, and what has no room is told.
#[test]
fn who_lives_in_a_namespace_has_its_place_first() {
    let mut found = Found { own: Some(1), room: Room::of(Some(128 + 2 * 4)), ..Found::default() };
    for inode in [7, 8, 9, 9] {
        found.without_process(inode, FoundBy::Descriptor, None, Ok(some_file()));
    }
    assert!(!found.wants(9) && found.wants(1), "there is always room for the agent's own");
    assert!(found.missing().iter().any(|m| m.starts_with("1 network namespaces were not looked into, after 2 others (among them 9)")));
    for inode in [10, 1, 11, 12] {
        found.namespace(inode, 4711, None, some_file());
    }
    assert_eq!(found.namespaces.iter().map(|n| n.inode).collect::<Vec<_>>(), [10, 1, 11]);
    let told = "4 network namespaces were not looked into, after 2 others (among them 7, 8, 9, 12)";
    assert!(found.missing().iter().any(|m| m.starts_with(told)));
}

#[test]
fn paths_of_mounts_are_bounded() {
    let mut found = Found::default();
    assert_eq!(found.kept("/run/x".to_owned()), "/run/x");
    assert!(found.kept("x".repeat(PATHS_BYTES_MAX)).starts_with("a path of 1048576 bytes"));
}

/// Nothing is stored of sockets that are in no table, however many there are.
#[test]
fn sockets_that_are_in_no_table_are_found_one_by_one() {
    let holders = vec![(5, 1, 3, None), (6, 1, 4, None), (6, 2, 4, Some(9)), (8, 2, 5, None)];
    let found = Found { holders, ..Found::default() };
    let listed = [true, false, false, false];
    assert_eq!(found.next_unlisted(0, &listed), Some((6, 1..3)));
    assert_eq!(found.holder_at(2), Some(Descriptor { pid: 2, fd: 4, thread: Some(9) }));
    assert_eq!(found.next_unlisted(3, &listed), Some((8, 3..4)));
    assert_eq!(found.next_unlisted(4, &listed), None);
}

#[test]
fn descriptors_and_names_that_were_not_looked_at_are_told() {
    let found = Found { fds_cut: 1, unseen_names: 2, ..Found::default() };
    let missing = found.missing();
    assert!(missing.iter().any(|m| m.contains("more than 1048576 descriptors")), "{missing:?}");
    assert!(missing.iter().any(|m| m.starts_with("2 names in /run/netns or /run/docker/netns")), "{missing:?}");
}
