//! Evidence is destroyed in one place, on what two people signed.

const THE_PLACE: &str = "coordinator/src/custody/destroy.rs";

#[test]
fn one_place_destroys() {
    let mut found = Vec::new();
    for path in super::files(".rs") {
        let name = super::shown(&path);
        let text = std::fs::read_to_string(&path).expect("readable");
        let calls = text.lines().any(|line| line.contains(".destroy(") && !line.trim_start().starts_with("//"));
        // The store's own backends and wrappers, and tests.
        let may = name.starts_with("coordinator/src/store/") || name.starts_with("tests/") || name.contains("/tests/");
        if calls && !may {
            found.push(name);
        }
    }
    assert_eq!(found, [THE_PLACE], "Store::destroy is called elsewhere, or no longer where it should be");
}
