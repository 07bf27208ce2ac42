//! The case in CASE 1.5.0 / UCO, as JSON-LD: a view for tools of other makers. The log is the source.
//!
//! One node per order, acquisition, manifest and transfer: items are in the manifests, which the nodes name by digest.

use exhibit_evidence::{Digest, Timestamp};
use serde_json::{Value, json};

use super::facts::{At, Facts};
use super::words::host;
use exhibit_evidence::record::{Acquisition, Order};
use exhibit_evidence::text::one_line;
use exhibit_evidence::verify::CollectionSummary;

/// Name of the file.
pub const FILE: &str = "case.jsonld";

/// An IRI that ends in a UUID (RFC 9562, laid out as version 5, which is what validators know) made of the digest of what the node is about.
fn id(kind: &str, about: &str) -> String {
    let digest = Digest::of(format!("{kind}\n{about}").as_bytes());
    let mut bytes: Vec<u8> = digest.as_bytes().iter().take(16).copied().collect();
    bytes[6] = (bytes[6] & 0x0f) | 0x50;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = bytes.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
    format!("kb:{kind}-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn to(kind: &str, about: &str) -> Value {
    json!({"@id": id(kind, about)})
}

fn moment(at: Timestamp) -> Value {
    json!({"@type": "xsd:dateTime", "@value": at.to_string()})
}

fn text(text: &str) -> String {
    one_line(text, 2_000)
}

/// The file's content.
pub fn case(facts: &Facts) -> serde_json::Result<Vec<u8>> {
    let mut nodes = vec![investigation(facts), authorization(facts)];
    nodes.extend(parties(facts));
    for collection in &facts.report.collections {
        nodes.extend(collection_nodes(facts, collection));
    }
    for acquisition in &facts.acquisitions {
        nodes.extend(acquisition_nodes(facts, acquisition));
    }
    nodes.extend(facts.orders.iter().map(|order| order_node(facts, order)));
    nodes.extend(transfer(facts));
    nodes.dedup_by(|a, b| a["@id"] == b["@id"]);
    let mut bytes = serde_json::to_vec_pretty(&json!({"@context": context(), "@graph": nodes}))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn context() -> Value {
    let uco = |part: &str| format!("https://ontology.unifiedcyberontology.org/uco/{part}/");
    json!({
        "kb": "urn:exhibit:",
        "case-investigation": "https://ontology.caseontology.org/case/investigation/",
        "uco-action": uco("action"), "uco-core": uco("core"), "uco-identity": uco("identity"), "uco-location": uco("location"),
        "uco-observable": uco("observable"), "uco-tool": uco("tool"), "uco-types": uco("types"),
        "xsd": "http://www.w3.org/2001/XMLSchema#",
    })
}

fn investigation(facts: &Facts) -> Value {
    let case = facts.description.case.as_str();
    let actions: Vec<Value> = facts
        .orders
        .iter()
        .map(|o| to("order", &o.digest.to_string()))
        .chain(facts.acquisitions.iter().map(|a| to("acquisition", &a.digest.to_string())))
        .chain([to("transfer", case)])
        .collect();
    json!({
        "@id": id("investigation", case), "@type": "case-investigation:Investigation",
        "uco-core:name": text(facts.report.case.as_ref().map_or("", |c| &c.title)),
        "uco-core:description": format!("Exhibit case {case}, log head {}:{}", facts.description.head.size, facts.description.head.root),
        "case-investigation:investigationForm": "incident",
        "case-investigation:relevantAuthorization": to("authorization", case),
        "uco-core:object": actions,
    })
}

fn authorization(facts: &Facts) -> Value {
    let case = facts.description.case.as_str();
    json!({
        "@id": id("authorization", case), "@type": "case-investigation:Authorization",
        "case-investigation:authorizationType": text(facts.report.case.as_ref().map_or("", |c| &c.legal_basis)),
        "case-investigation:authorizationIdentifier": case,
    })
}

/// Everybody who acts in the graph.
fn parties(facts: &Facts) -> Vec<Value> {
    let people = facts.orders.iter().map(|o| o.record.issued_by.as_str()).chain([facts.description.exported_by.as_str(), "recipient"]);
    let unique: std::collections::BTreeSet<&str> = people.collect();
    let named =
        |name: &&str| if *name == "recipient" { "the recipient, to be named on the chain-of-custody form".to_owned() } else { text(name) };
    unique.iter().map(|name| json!({"@id": id("person", name), "@type": "uco-identity:Person", "uco-core:name": named(name)})).collect()
}

fn collection_nodes(facts: &Facts, c: &CollectionSummary) -> Vec<Value> {
    let agent = c.agent.as_str();
    let machine = facts.acquisitions_of(&c.id).find_map(|a| a.record.host.machine_id.clone()).unwrap_or_else(|| agent.to_owned());
    let facet =
        json!({"@id": id("device", c.id.as_str()), "@type": "uco-observable:DeviceFacet", "uco-observable:serialNumber": text(&machine)});
    vec![
        json!({
            "@id": id("host", c.id.as_str()), "@type": "uco-observable:ObservableObject",
            "uco-core:name": text(&host(c)), "uco-core:hasFacet": facet,
        }),
        json!({"@id": id("location", c.id.as_str()), "@type": "uco-location:Location", "uco-core:name": format!("host {}", text(&host(c)))}),
    ]
}

fn order_node(facts: &Facts, at: &At<Order>) -> Value {
    let o = &at.record;
    let hosts: Vec<Value> = facts.report.collections.iter().filter(|c| c.order == at.digest).map(|c| to("host", c.id.as_str())).collect();
    json!({
        "@id": id("order", &at.digest.to_string()), "@type": "case-investigation:InvestigativeAction",
        "uco-core:name": format!("order {}", o.order), "uco-core:description": text(&o.reason),
        "uco-action:startTime": moment(o.issued_at), "uco-action:endTime": moment(o.issued_at),
        "uco-action:performer": to("person", &o.issued_by), "uco-action:object": hosts,
    })
}

fn acquisition_nodes(facts: &Facts, at: &At<Acquisition>) -> Vec<Value> {
    let a = &at.record;
    let (about, collection) = (at.digest.to_string(), a.collection.as_str());
    let size = json!({"@type": "xsd:integer", "@value": a.manifest.size.to_string()});
    let hash = json!({
        "@id": id("hash", &about), "@type": "uco-types:Hash", "uco-types:hashMethod": "SHA256",
        "uco-types:hashValue": {"@type": "xsd:hexBinary", "@value": a.manifest.sha256.to_string()},
    });
    let manifest = json!({
        "@id": id("manifest", &about), "@type": "uco-observable:File",
        "uco-core:hasFacet": [
            {"@id": id("file", &about), "@type": "uco-observable:FileFacet", "uco-observable:fileName": "manifest.jsonl",
             "uco-observable:filePath": format!("data/collections/{collection}/{}/manifest.jsonl", a.stream), "uco-observable:sizeInBytes": size},
            {"@id": id("content", &about), "@type": "uco-observable:ContentDataFacet", "uco-observable:sizeInBytes": size, "uco-observable:hash": hash},
        ],
    });
    let tool = json!({
        "@id": id("tool", &about), "@type": "uco-tool:Tool", "uco-core:name": text(&a.tool.name), "uco-tool:version": text(&a.tool.version),
        "uco-tool:toolType": "Acquisition", "uco-core:description": format!("SHA-256 of the program: {}", a.tool.sha256),
    });
    let provenance = json!({
        "@id": id("provenance", &about), "@type": "case-investigation:ProvenanceRecord",
        "case-investigation:exhibitNumber": exhibits(facts, collection), "uco-core:object": to("manifest", &about),
    });
    // The agent acts on the host; the person who ordered it answers for it.
    let performer = facts.orders.iter().find(|o| o.digest == a.predecessor).map(|o| to("person", &o.record.issued_by));
    let action = json!({
        "@id": id("acquisition", &about), "@type": "case-investigation:InvestigativeAction",
        "uco-core:name": format!("acquisition {collection} {}", a.stream),
        "uco-action:startTime": moment(a.started.wall), "uco-action:endTime": moment(a.ended.wall),
        "uco-action:performer": performer, "uco-action:instrument": to("tool", &about), "uco-action:location": to("location", collection),
        "uco-action:object": to("host", collection), "uco-action:result": [to("manifest", &about), to("provenance", &about)],
        "case-investigation:wasInformedBy": to("order", &a.predecessor.to_string()),
    });
    vec![manifest, tool, provenance, action]
}

fn exhibits(facts: &Facts, collection: &str) -> String {
    let found = facts.report.collections.iter().find(|c| c.id.as_str() == collection).and_then(|c| c.exhibits);
    found.map_or_else(|| "none".to_owned(), |[first, last]| format!("{first}-{last}"))
}

/// The handing over itself. Who receives it, nobody can know yet.
fn transfer(facts: &Facts) -> Vec<Value> {
    let (d, case) = (&facts.description, facts.description.case.as_str());
    let given: Vec<&At<Acquisition>> =
        facts.acquisitions.iter().filter(|a| d.collections.binary_search(&a.record.collection).is_ok()).collect();
    let manifests: Vec<Value> = given.iter().map(|a| to("manifest", &a.digest.to_string())).collect();
    let informed: Vec<Value> = given.iter().map(|a| to("acquisition", &a.digest.to_string())).collect();
    let mut action = json!({
        "@id": id("transfer", case), "@type": "case-investigation:InvestigativeAction",
        "uco-core:name": "transfer", "uco-core:description": text(&d.reason), "uco-action:startTime": moment(d.exported_at),
        "uco-action:performer": to("person", &d.exported_by), "uco-action:participant": to("person", "recipient"),
        "uco-action:result": to("handed-over", case),
    });
    let all = facts.report.collections.iter().filter_map(|c| c.exhibits).map(|[first, last]| format!("{first}-{last}"));
    let all = all.collect::<Vec<_>>().join(",");
    let mut record = json!({
        "@id": id("handed-over", case), "@type": "case-investigation:ProvenanceRecord",
        "case-investigation:exhibitNumber": all, "case-investigation:rootExhibitNumber": all,
    });
    if manifests.is_empty() {
        record["uco-core:object"] = to("investigation", case);
    } else {
        action["uco-action:object"] = json!(manifests);
        action["case-investigation:wasInformedBy"] = json!(informed);
        record["uco-core:object"] = json!(manifests);
    }
    vec![action, record]
}
