//! The generated code is what the proto files say. protoc (Debian: protobuf-compiler) reads them: a compiler in Rust was a
//! hundredth of the whole build.

use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message as _;

fn generate(into: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["exhibit/agent/v1/agent.proto", "exhibit/log/v1/log.proto", "exhibit/responder/v1/responder.proto"];
    let out = into.join("descriptors.bin");
    let mut protoc = Command::new("protoc");
    protoc.args(["--include_source_info", "-I"]).arg(root).arg("-o").arg(&out).args(files);
    assert!(protoc.status().expect("protoc").success(), "the proto files compile");
    let descriptors = prost_types::FileDescriptorSet::decode(std::fs::read(&out).expect("descriptors").as_slice()).expect("descriptors");
    tonic_prost_build::configure()
        .out_dir(into)
        .bytes(".exhibit.agent.v1.UploadRequest.kind.segment_data")
        .bytes(".exhibit.agent.v1.UploadRequest.kind.manifest_lines")
        .bytes(".exhibit.responder.v1.ReadItemsResponse.kind.tar_data")
        .bytes(".exhibit.responder.v1.ReadItemsResponse.kind.segment_data")
        .bytes(".exhibit.responder.v1.ExportCaseResponse.kind.data")
        .bytes(".exhibit.agent.v1.UploadRequest.segment_data")
        .bytes(".exhibit.agent.v1.UploadRequest.manifest_lines")
        .bytes(".exhibit.responder.v1.ReadItemsResponse.tar_data")
        .bytes(".exhibit.responder.v1.ReadItemsResponse.segment_data")
        .bytes(".exhibit.responder.v1.ExportCaseResponse.data")
        .btree_map(".")
        .build_transport(false)
        .compile_fds(descriptors)
        .expect("code generation");
}

#[test]
fn generated_code_is_current() {
    let checked_in: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("EXHIBIT_REGENERATE").is_some() {
        generate(&checked_in);
        return;
    }
    let fresh = tempfile::tempdir().expect("temporary folder");
    generate(fresh.path());
    for name in ["exhibit.agent.v1.rs", "exhibit.log.v1.rs", "exhibit.responder.v1.rs", "descriptors.bin"] {
        let want = std::fs::read(fresh.path().join(name)).expect("generated");
        let have = std::fs::read(checked_in.join(name)).expect("checked in");
        assert!(
            want == have,
            "src/gen/{name} is not what exhibit/*.proto says: run EXHIBIT_REGENERATE=1 cargo test -p exhibit-proto --test generated"
        );
    }
}
