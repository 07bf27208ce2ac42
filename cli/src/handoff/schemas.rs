//! The JSON schemas of the records and manifests, as they travel in a bag.

/// Name and content of each file below `docs/format/schemas`.
pub const ALL: [(&str, &str); 24] = [
    ("access.v1.json", include_str!("../../../docs/format/schemas/access.v1.json")),
    ("acquisition.v1.json", include_str!("../../../docs/format/schemas/acquisition.v1.json")),
    ("approval.v1.json", include_str!("../../../docs/format/schemas/approval.v1.json")),
    ("case-closed.v1.json", include_str!("../../../docs/format/schemas/case-closed.v1.json")),
    ("case-opened.v1.json", include_str!("../../../docs/format/schemas/case-opened.v1.json")),
    ("common.v1.json", include_str!("../../../docs/format/schemas/common.v1.json")),
    ("destruction.v1.json", include_str!("../../../docs/format/schemas/destruction.v1.json")),
    ("disposal.v1.json", include_str!("../../../docs/format/schemas/disposal.v1.json")),
    ("enrolment.v1.json", include_str!("../../../docs/format/schemas/enrolment.v1.json")),
    ("envelope.v1.json", include_str!("../../../docs/format/schemas/envelope.v1.json")),
    ("hold-released.v1.json", include_str!("../../../docs/format/schemas/hold-released.v1.json")),
    ("hold.v1.json", include_str!("../../../docs/format/schemas/hold.v1.json")),
    ("incident.v1.json", include_str!("../../../docs/format/schemas/incident.v1.json")),
    ("manifest-line.v1.json", include_str!("../../../docs/format/schemas/manifest-line.v1.json")),
    ("order.v1.json", include_str!("../../../docs/format/schemas/order.v1.json")),
    ("receipt.v1.json", include_str!("../../../docs/format/schemas/receipt.v1.json")),
    ("refusal.v1.json", include_str!("../../../docs/format/schemas/refusal.v1.json")),
    ("release.v1.json", include_str!("../../../docs/format/schemas/release.v1.json")),
    ("retention.v1.json", include_str!("../../../docs/format/schemas/retention.v1.json")),
    ("revocation.v1.json", include_str!("../../../docs/format/schemas/revocation.v1.json")),
    ("seal.v1.json", include_str!("../../../docs/format/schemas/seal.v1.json")),
    ("timestamp-failed.v1.json", include_str!("../../../docs/format/schemas/timestamp-failed.v1.json")),
    ("timestamp.v1.json", include_str!("../../../docs/format/schemas/timestamp.v1.json")),
    ("transfer.v1.json", include_str!("../../../docs/format/schemas/transfer.v1.json")),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_schema_travels() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format/schemas");
        let mut there: Vec<String> =
            std::fs::read_dir(folder).expect("schemas").map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        there.sort();
        assert_eq!(there, super::ALL.map(|(name, _)| name));
    }
}
