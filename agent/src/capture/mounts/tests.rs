use super::*;

/// Real lines: proc_pid_mountinfo(5)'s example, then a host with volumes, a bind mount, NFS and a container.
const TABLE: &[u8] = b"\
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
40 22 254:0 /srv/data /mnt/bound rw shared:1 - ext4 /dev/vda rw
41 22 8:1 / /var/log rw - xfs /dev/sda1 rw
42 22 0:50 / /mnt/with\\040space\\011and\\134back rw - nfs4 server:/export rw,addr=10.0.0.1
43 22 0:60 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/l/a:/l/b\\134:c,upperdir=/u/p,workdir=/u/w
44 22 0:61 / /rel rw - overlay overlay rw,lowerdir=l/A:l/B,upperdir=/u/p
45 22 8:1 /audit /mnt/audit rw - xfs /dev/sda1 rw
46 22 8:1 / /mnt/logs rw - xfs /dev/sda1 rw
nonsense
";

#[test]
fn reads_a_table() {
    let mounts = Mounts::parse(TABLE);
    assert_eq!((mounts.all().len(), mounts.bad_lines), (10, 1));
    let nfs = mounts.by_id(42).expect("42");
    assert_eq!(nfs.point, b"/mnt/with space\tand\\back");
    assert_eq!((nfs.class, nfs.source.as_slice()), (Class::Remote, b"server:/export".as_slice()));
    assert_eq!(mounts.at(b"/proc").expect("proc").class, Class::Pseudo);
    assert_eq!(mounts.holding(b"/var/log/audit/audit.log").expect("held").id, 41);
    assert_eq!(mounts.holding(b"/var/logs").expect("held").id, 22);
    assert_eq!(mounts.holding(b"/").expect("held").id, 22);
    let overlay = mounts.by_id(43).expect("43").overlay_layers().expect("absolute layers");
    assert_eq!(overlay, [b"/l/a".to_vec(), b"/l/b:c".to_vec(), b"/u/p".to_vec()]);
    assert_eq!(mounts.by_id(44).expect("44").overlay_layers(), None, "relative layers cannot be found by path");
}

#[test]
fn aliases_of_bind_mounts() {
    let mounts = Mounts::parse(TABLE);
    let aliases = |id| mounts.aliases(mounts.by_id(id).expect("id"));
    assert_eq!(aliases(40), [b"/srv/data".to_vec()], "a bind mount shows a directory of the root file system again");
    assert!(aliases(22).is_empty());
    assert!(aliases(41).is_empty(), "of two equal mounts the earlier one is the one to walk");
    assert_eq!(aliases(46), [b"/var/log".to_vec()]);
    assert_eq!(aliases(45), [b"/var/log/audit".to_vec(), b"/mnt/logs/audit".to_vec()]);
}

#[test]
fn an_alias_that_is_mounted_over_does_not_count() {
    let mounts = Mounts::parse(
        b"1 0 254:0 / / rw - ext4 /dev/vda rw\n2 1 254:0 /srv /mnt/a rw - ext4 /dev/vda rw\n3 1 0:9 / /srv rw - tmpfs none rw\n",
    );
    assert!(mounts.aliases(mounts.by_id(2).expect("2")).is_empty());
}

#[test]
fn classes() {
    for (name, class) in [
        ("ext4", Class::Local),
        ("xfs", Class::Local),
        ("btrfs", Class::Local),
        ("zfs", Class::Local),
        ("tmpfs", Class::Local),
        ("devtmpfs", Class::Local),
        ("ramfs", Class::Local),
        ("overlay", Class::Local),
        ("squashfs", Class::Local),
        ("fuseblk", Class::Local),
        ("vfat", Class::Local),
        ("fuse.fuse-overlayfs", Class::Local),
        ("nfs", Class::Remote),
        ("nfs4", Class::Remote),
        ("cifs", Class::Remote),
        ("smb3", Class::Remote),
        ("9p", Class::Remote),
        ("virtiofs", Class::Remote),
        ("ceph", Class::Remote),
        ("glusterfs", Class::Remote),
        ("afs", Class::Remote),
        ("lustre", Class::Remote),
        ("fuse.sshfs", Class::Remote),
        ("fuse.s3fs", Class::Remote),
        ("fuse.glusterfs", Class::Remote),
        ("fuse", Class::Remote),
        ("proc", Class::Pseudo),
        ("sysfs", Class::Pseudo),
        ("cgroup2", Class::Pseudo),
        ("debugfs", Class::Pseudo),
        ("autofs", Class::Trigger),
    ] {
        assert_eq!(Class::of(name.as_bytes()), class, "{name}");
    }
}

#[test]
fn this_host_has_a_root() {
    let mounts = Mounts::read().expect("mountinfo");
    assert_eq!(mounts.bad_lines, 0);
    assert!(mounts.at(b"/").is_some());
}

fn escape_octal(text: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|b| if b" \t\n\\#".contains(b) { format!("\\{b:03o}").into_bytes() } else { vec![*b] }).collect()
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_handled(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let mounts = Mounts::parse(&bytes);
        for mount in mounts.all() {
            let _ = (mounts.aliases(mount), mount.overlay_layers(), mounts.holding(&mount.point));
        }
    }

    #[test]
    fn names_come_back(id: u64, dev: (u32, u32), point in proptest::collection::vec(1_u8..=255, 0..60), source in proptest::collection::vec(1_u8..=255, 1..60)) {
        let point = [b"/".as_slice(), &point].concat();
        let line = [
            format!("{id} 1 {}:{} / ", dev.0, dev.1).as_bytes(), &escape_octal(&point), b" rw shared:1 master:7 - ext4 ", &escape_octal(&source), b" rw\n",
        ].concat();
        let mounts = Mounts::parse(&line);
        let mount = mounts.by_id(id).expect("parsed");
        proptest::prop_assert_eq!((&mount.point, &mount.source, mount.dev), (&point, &source, dev));
    }
}
