//! Every rpc has a line in the authorization table, and every line an rpc.

use std::collections::BTreeSet;

use prost::Message as _;

fn methods_of_the_proto_files() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(exhibit_proto::DESCRIPTORS).expect("descriptors");
    let mut methods = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    assert!(methods.len() > 10, "the descriptors hold the services");
    methods
}

#[test]
fn the_table_and_the_proto_files_agree() {
    let table: BTreeSet<String> =
        exhibit_coordinator::authz::TABLE.iter().map(|line| line.0.to_owned()).filter(|m| m.starts_with("/exhibit.")).collect();
    let methods = methods_of_the_proto_files();
    let missing: Vec<_> = methods.difference(&table).collect();
    let extra: Vec<_> = table.difference(&methods).collect();
    assert!(missing.is_empty(), "rpcs without a line in the authorization table: {missing:?}");
    assert!(extra.is_empty(), "lines in the authorization table without an rpc: {extra:?}");
}

#[test]
fn every_field_and_rpc_is_documented() {
    for path in super::files(".proto") {
        let text = std::fs::read_to_string(&path).expect("readable");
        let mut previous = "";
        for (number, line) in text.lines().enumerate() {
            let code = line.trim();
            let is_field = code.ends_with(';') && code.contains(" = ") && !code.starts_with("//") && !code.starts_with("syntax");
            let is_rpc = code.starts_with("rpc ");
            if is_field || is_rpc {
                assert!(previous.trim().starts_with("//"), "{}:{}: no comment above '{code}'", super::shown(&path), number + 1);
            }
            previous = line;
        }
        for (at, _) in text.match_indices("  rpc ") {
            let above = text[..at].rsplit("\n\n").next().unwrap_or_default();
            let comment: String = above.lines().rev().take_while(|l| l.trim().starts_with("//")).collect();
            assert!(
                comment.contains("Caller") || text.contains("Caller of every method"),
                "{}: an rpc does not say who may call it",
                super::shown(&path)
            );
            assert!(
                comment.to_lowercase().contains("epeatable"),
                "{}: an rpc does not say whether it may be repeated: {comment}",
                super::shown(&path)
            );
        }
    }
}
