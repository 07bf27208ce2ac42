//! From a collection of a guest's memory to what analysts open, with the coordinator alone at hand: symbols although the guest hid
//! them, and the image in other formats, read by foreign programs.

use std::path::Path;
use std::time::Duration;

use exhibit_evidence::Digest;
use exhibit_tests::{Finished, Fleet, GuestPlan};
use serde_json::Value;

/// Tells where two of the kernel's symbols are, hides all of them, and starts known processes.
const HIDDEN: &str = "
grep -w -e linux_banner -e init_task /proc/kallsyms | while read -r address kind name; do echo \"at-$name $address\"; done
echo 2 > /proc/sys/kernel/kptr_restrict
echo \"hidden $(grep -c '^0000000000000000 . init_task' /proc/kallsyms)\"
suspect tree &
sleep 1
";

fn number(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The ranges of an image by a reading of the format that is not the program's: address and bytes.
fn ranges(lime: &[u8]) -> Vec<(u64, &[u8])> {
    let (mut found, mut rest) = (Vec::new(), lime);
    while !rest.is_empty() {
        let word = |n: usize| u64::from_le_bytes(rest[n..n + 8].try_into().expect("8 bytes"));
        assert_eq!(&rest[..8], b"EMiL\x01\0\0\0");
        let (start, length) = (word(8), usize::try_from(word(16) - word(8) + 1).expect("fits"));
        found.push((start, &rest[32..32 + length]));
        rest = &rest[32 + length..];
    }
    found
}

struct Taken<'a> {
    fleet: &'a Fleet,
    item: String,
    sha256: String,
    out: &'a Path,
}

impl Taken<'_> {
    /// Makes a format of the image: the file's bytes, after what the program says of them was checked.
    fn format(&self, format: &str, name: &str) -> (Vec<u8>, Value) {
        let to = self.out.join(format);
        let args = ["get", &self.item, "--as", format, "--out", to.to_str().expect("UTF-8"), "--reason", "analysis"];
        let said = self.fleet.exhibit(&args).ok().json().remove(0);
        let bytes = std::fs::read(to.join("memory").join(name)).expect("made");
        assert_eq!(said["file_sha256"], Digest::of(&bytes).to_string(), "{said}");
        assert_eq!(said["sha256"], self.sha256, "{said}");
        assert_eq!((said["as"].as_str(), said["same_bytes"].as_bool()), (Some(format), Some(format == "lime")), "{said}");
        (bytes, said)
    }
}

/// Every byte of every range is in a segment, and the other way round.
fn check_elf(elf: &[u8], ranges: &[(u64, &[u8])]) {
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().expect("8 bytes"));
    let (table, count) = (usize::try_from(word(32)).expect("fits"), usize::from(u16::from_le_bytes([elf[56], elf[57]])));
    let mut loads = Vec::new();
    for n in 0..count {
        let at = table + n * 56;
        if elf[at] == 1 {
            let (offset, size) = (usize::try_from(word(at + 8)).expect("fits"), usize::try_from(word(at + 32)).expect("fits"));
            loads.push((word(at + 24), &elf[offset..offset + size]));
        }
    }
    let sum = |parts: &[(u64, &[u8])]| parts.iter().map(|(_, b)| b.len()).sum::<usize>();
    assert_eq!(sum(&loads), sum(ranges));
    for (start, bytes) in ranges {
        let (address, load) = loads.iter().rfind(|(a, _)| a <= start).expect("a segment");
        let from = usize::try_from(start - address).expect("fits");
        assert!(load[from..from + bytes.len()] == **bytes, "{start:#x}");
    }
}

/// The image and nothing beside it, as another tool would have taken it: which of the texts that lie about in memory is the
/// kernel's own has to be found out.
fn same_from_the_image_alone(fleet: &Fleet, out: &Path, symbols: &Value) {
    let (from, bare) = (out.join("lime/memory"), out.join("bare.json"));
    let args = ["symbols", "build", "--from", from.to_str().expect("UTF-8"), "--out", bare.to_str().expect("UTF-8")];
    let said = fleet.exhibit(&args).ok().json().remove(0);
    assert_eq!((said["symbols_from"].as_str(), said["types_from"].as_str()), (Some("image"), Some("image")), "{said}");
    let bare: Value = serde_json::from_slice(&std::fs::read(&bare).expect("made")).expect("JSON");
    for name in ["init_task", "linux_banner", "modules", "_text"] {
        assert_eq!(bare["symbols"][name], symbols["symbols"][name], "{name}");
    }
}

#[test]
fn symbols_and_formats_come_from_the_collection_alone() {
    let fleet = Fleet::start();
    let plan = GuestPlan { memory_mib: 192, scenario: HIDDEN.to_owned(), ..GuestPlan::default() };
    let (guest, agent) = fleet.guest_agent(plan);
    assert_eq!(guest.told("hidden"), ["1"], "{}", guest.console());
    let case = fleet.open_case();
    let collection = fleet.order_for(&case, &agent, &["--capture", "memory"]);
    let ended = fleet.wait_closed(&collection, Duration::from_mins(6));
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());

    // The symbols are read from the image, and are where the guest had them.
    let out = tempfile::tempdir().expect("folder");
    let isf = out.path().join("symbols/linux/guest.json");
    let to = isf.to_str().expect("UTF-8");
    let args = ["symbols", "build", "--collection", &collection, "--out", to, "--reason", "analysis"];
    let said = fleet.exhibit(&args).ok().json().remove(0);
    assert_eq!((said["symbols_from"].as_str(), said["types_from"].as_str()), (Some("image"), Some("file")), "{said}");
    assert!(said["symbols"].as_u64() > Some(50_000) && said["modules"].as_u64() > Some(0), "{said}");
    let bytes = std::fs::read(&isf).expect("made");
    assert_eq!(said["sha256"], Digest::of(&bytes).to_string());
    let symbols: Value = serde_json::from_slice(&bytes).expect("JSON");
    let banner_at = number(&guest.told("at-linux_banner")[0]);
    for (name, address) in [("init_task", number(&guest.told("at-init_task")[0])), ("linux_banner", banner_at)] {
        let ours = symbols["symbols"][name]["address"].as_u64().expect(name) + said["slide"].as_u64().expect("slide");
        assert_eq!(ours, address, "{name}");
    }

    // The formats have the same bytes.
    let items = fleet.items(&collection);
    let image = items.iter().find(|i| i["path"] == "memory.lime").expect("an image");
    let text = |key: &str| image[key].as_str().expect(key).to_owned();
    let taken = Taken { fleet: &fleet, item: text("id"), sha256: text("sha256"), out: out.path() };
    let (lime, _) = taken.format("lime", "memory.lime");
    let ranges = ranges(&lime);
    same_from_the_image_alone(&fleet, out.path(), &symbols);
    let (raw, _) = taken.format("raw", "memory.raw");
    for (start, bytes) in &ranges {
        let from = usize::try_from(*start).expect("fits");
        assert!(raw[from..from + bytes.len()] == **bytes, "{start:#x}");
    }
    let (elf, said) = taken.format("elf", "memory.elf");
    assert!(said["notes"].to_string().contains("the kernel sees this memory from 0xffff"), "{said}");
    check_elf(&elf, &ranges);

    // drgn finds its way through notes and page tables; volatility3 lists the guest's processes.
    let elf = out.path().join("elf/memory/memory.elf");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/drgn_image.py");
    let found = Finished::of(std::process::Command::new("python3").arg(script).arg(&elf).arg(format!("v:{banner_at:x}"))).ok();
    assert!(found.text().starts_with("Linux version 6."), "{}", found.text());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/volatility.py");
    let mut vol = std::process::Command::new("python3");
    vol.arg(script).arg(&elf).arg(out.path().join("symbols")).arg("linux.pslist.PsList");
    let list = Finished::of(&mut vol).ok().text();
    for name in ["suspect-root", "suspect-leaf", "exhibit-agent"] {
        assert!(list.contains(&format!("\"{name}\"")), "{name} in {list}");
    }

    // A second time nothing is overwritten, and all that was read is recorded.
    let again =
        fleet.exhibit(&["get", &taken.item, "--as", "elf", "--out", out.path().join("elf").to_str().expect("UTF-8"), "--reason", "r"]);
    assert_eq!(again.code, 73, "{}", again.stderr);
    let _ = fleet.verify(&case).expect_sound();
}
