//! The table of finding codes in `docs/format/verification.md` is the registry.

use std::fmt::Write as _;
use std::path::Path;

use exhibit_evidence::verify::Code;

#[test]
fn the_table_of_codes_is_the_registry() {
    let mut table = String::from("| code | severity | ask | found | means |\n|---|---|---|---|---|\n");
    for code in Code::ALL {
        let (severity, ask) = (code.severity().as_str(), code.blame().as_str());
        let _ = writeln!(table, "| `{code}` | {severity} | {ask} | {} | {} |", code.found(), code.meaning());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format/verification.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let found = page.find("| code |").map(|at| &page[at..]).unwrap_or_default();
    assert!(found == table, "the page must end with this table:\n{table}");
}
