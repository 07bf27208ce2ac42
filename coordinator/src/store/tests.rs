use super::*;

#[test]
fn names_of_the_layout_are_valid() {
    use exhibit_evidence::layout::{self, LogName, StreamNumber};
    let case = exhibit_evidence::CaseId::new(1, [2; 10]);
    let collection = exhibit_evidence::CollectionId::from_digest(&Digest::of(b"x"));
    for name in [
        layout::segment(&case, &collection, StreamNumber(1), 0),
        layout::manifest(&case, &collection, StreamNumber(1)),
        LogName::Case(case).slot(7),
        LogName::Deployment.checkpoint(),
    ] {
        assert!(name_is_valid(&name), "{name}");
    }
}

#[tokio::test]
async fn a_store_is_known_under_another_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let (folder, link) = (dir.path().join("store"), dir.path().join("link"));
    let first = LocalStore::create(&folder).expect("made");
    std::os::unix::fs::symlink(&folder, &link).expect("a link");
    let (again, other) = (LocalStore::open(&link).expect("opened"), LocalStore::create(&dir.path().join("other")).expect("made"));
    assert!(is_same(&first, &again).await.expect("tried"));
    assert!(!is_same(&first, &other).await.expect("tried"));
}

proptest::proptest! {
    #[test]
    fn no_name_leaves_its_folder(name: String) {
        if name_is_valid(&name) {
            let path = std::path::Path::new(&name);
            proptest::prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
        }
    }

    #[test]
    fn valid_names_stay_valid(name in "[a-z0-9_-][a-z0-9._-]{0,20}(/[a-z0-9_-][a-z0-9._-]{0,20}){0,5}") {
        proptest::prop_assert!(name_is_valid(&name));
    }
}
