//! Memory of `exhibit export`, by the size of the case.

use std::io::Write as _;
use std::time::Duration;

use exhibit_tests::{Fleet, Running};

/// A file of so many GiB that do not compress.
fn noise(path: &std::path::Path, gib: u64) {
    let (mut state, mut file) = (gib | 1, std::io::BufWriter::new(std::fs::File::create(path).expect("file")));
    for _ in 0..gib << 27 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes()).expect("written");
    }
    file.flush().expect("written");
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#[test]
#[ignore = "a measurement of minutes that needs 15 GiB of disk"]
fn export_by_size() {
    println!("{:>8} {:>14} {:>10}", "GiB", "peak RSS, MiB", "seconds");
    // Beyond what a machine of tests has room for: three times as much disk is needed.
    let sizes = std::env::var("EXHIBIT_EXPORT_GIB").unwrap_or_else(|_| "1,4".to_owned());
    for gib in sizes.split(',').map(|n| n.parse::<u64>().expect("GiB, with commas between them")) {
        let (fleet, source) = (Fleet::start(), tempfile::tempdir().expect("folder"));
        noise(&source.path().join("noise.bin"), gib);
        let agent = fleet.agent();
        let case = fleet.open_case();
        let capture = format!("files:paths={}/**,max_size={gib}G,max_total={gib}G", source.path().display());
        let collection = fleet.order(&case, &agent, &["--capture", &capture]);
        assert_eq!(fleet.wait_closed(&collection, Duration::from_mins(20))["state"], "sealed");
        let (out, log) = (fleet.path().join("bag"), fleet.path().join("export.log"));
        let mut command = fleet.program("exhibit");
        command.args(["export", "--case", &case, "--reason", "measure", "--out"]).arg(&out);
        let begun = std::time::Instant::now();
        let mut export = Running::start(&mut command, &log);
        let mut peak = 0;
        while export.is_alive() {
            peak = peak.max(export.status_bytes("VmHWM").unwrap_or(0));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(out.join("bag.json").is_file(), "{}", export.said());
        println!("{gib:>8} {:>14} {:>10.1}", peak >> 20, begun.elapsed().as_secs_f64());
    }
}
