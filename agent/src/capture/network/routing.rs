//! Links, addresses, neighbours, routes, rules and queueing disciplines as `rtnetlink(7)` gives them. Table-driven: a new
//! attribute is one line, and one without a line is recorded by number.

use serde_json::{Map, Value, json};

use super::netlink::{after, attributes, i32_at, ip, u8_at, u16_at, u32_at, u64_at};
use crate::capture::live::{Lossless, to_hex};

/// How an attribute's value is shown.
#[derive(Debug, Clone, Copy)]
enum Shape {
    U8,
    U16,
    U32,
    I32,
    Ip,
    /// A hardware address.
    Mac,
    Text,
    /// Numbers of 32 bits in a row.
    U32s,
    /// Counters of 64 bits in a row.
    U64s,
    Nested(&'static [(u16, &'static str, Shape)]),
    NextHops,
    /// The same is in another attribute.
    Same,
}

type Names = &'static [(u16, &'static str, Shape)];

/// A field of a message's fixed head: name, offset, shape.
type Head = &'static [(&'static str, usize, Shape)];

/// One kind of dump.
#[derive(Debug, Clone, Copy)]
pub struct Dump {
    /// The record's name without `.jsonl`.
    pub name: &'static str,
    /// `RTM_GET*`; answers are two less.
    pub request: u16,
    /// The request's payload: address family and zeros.
    pub family: u8,
    head_bytes: usize,
    head: Head,
    names: Names,
}

impl Dump {
    /// The request's payload.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let mut payload = vec![0; self.head_bytes];
        if let Some(first) = payload.first_mut() {
            *first = self.family;
        }
        payload
    }
}

/// All dumps.
pub const DUMPS: &[Dump] = &[
    Dump { name: "neighbours", request: 30, family: 0, head_bytes: 12, head: NEIGHBOUR_HEAD, names: NEIGHBOUR },
    Dump { name: "bridge-neighbours", request: 30, family: 7, head_bytes: 12, head: NEIGHBOUR_HEAD, names: NEIGHBOUR },
    Dump { name: "routes", request: 26, family: 0, head_bytes: 12, head: ROUTE_HEAD, names: ROUTE },
    Dump { name: "rules", request: 34, family: 0, head_bytes: 12, head: RULE_HEAD, names: RULE },
    Dump { name: "links", request: 18, family: 0, head_bytes: 16, head: LINK_HEAD, names: LINK },
    Dump { name: "addresses", request: 22, family: 0, head_bytes: 8, head: ADDRESS_HEAD, names: ADDRESS },
    Dump { name: "qdiscs", request: 38, family: 0, head_bytes: 20, head: QDISC_HEAD, names: QDISC },
];

const NEIGHBOUR_HEAD: Head =
    &[("family", 0, Shape::U8), ("ifindex", 4, Shape::I32), ("state", 8, Shape::U16), ("flags", 10, Shape::U8), ("type", 11, Shape::U8)];
const NEIGHBOUR: Names = &[
    (1, "destination", Shape::Ip),
    (2, "lladdr", Shape::Mac),
    // Ticks since confirmed, used, updated; references.
    (3, "cache_info", Shape::U32s),
    (4, "probes", Shape::U32),
    (5, "vlan", Shape::U16),
    (8, "via_ifindex", Shape::U32),
    (9, "master", Shape::U32),
    (12, "protocol", Shape::U8),
    (15, "flags_ext", Shape::U32),
];

const ROUTE_HEAD: Head = &[
    ("family", 0, Shape::U8),
    ("destination_bits", 1, Shape::U8),
    ("source_bits", 2, Shape::U8),
    ("tos", 3, Shape::U8),
    ("protocol", 5, Shape::U8),
    ("scope", 6, Shape::U8),
    ("type", 7, Shape::U8),
    ("flags", 8, Shape::U32),
];
const ROUTE: Names = &[
    (1, "destination", Shape::Ip),
    (2, "source", Shape::Ip),
    (3, "iif", Shape::U32),
    (4, "oif", Shape::U32),
    (5, "gateway", Shape::Ip),
    (6, "priority", Shape::U32),
    (7, "preferred_source", Shape::Ip),
    (9, "next_hops", Shape::NextHops),
    (12, "cache_info", Shape::U32s),
    (15, "table", Shape::U32),
    (16, "mark", Shape::U32),
    (20, "preference", Shape::U8),
    (21, "encapsulation_type", Shape::U16),
    (30, "next_hop_id", Shape::U32),
];

const RULE_HEAD: Head = &[
    ("family", 0, Shape::U8),
    ("destination_bits", 1, Shape::U8),
    ("source_bits", 2, Shape::U8),
    ("tos", 3, Shape::U8),
    ("action", 7, Shape::U8),
    ("flags", 8, Shape::U32),
];
const RULE: Names = &[
    (1, "destination", Shape::Ip),
    (2, "source", Shape::Ip),
    (3, "iif", Shape::Text),
    (4, "goto", Shape::U32),
    (6, "priority", Shape::U32),
    (10, "mark", Shape::U32),
    (14, "suppress_prefix_length", Shape::I32),
    (15, "table", Shape::U32),
    (16, "mark_mask", Shape::U32),
    (17, "oif", Shape::Text),
    (20, "uid_range", Shape::U32s),
    (21, "protocol", Shape::U8),
    (22, "ip_protocol", Shape::U8),
];

const LINK_HEAD: Head = &[("hardware_type", 2, Shape::U16), ("ifindex", 4, Shape::I32), ("flags", 8, Shape::U32)];
const LINK: Names = &[
    (1, "address", Shape::Mac),
    (2, "broadcast", Shape::Mac),
    (3, "name", Shape::Text),
    (4, "mtu", Shape::U32),
    (5, "link", Shape::U32),
    (6, "qdisc", Shape::Text),
    (7, "stats32", Shape::Same),
    (10, "master", Shape::U32),
    (13, "transmit_queue_length", Shape::U32),
    (16, "operational_state", Shape::U8),
    (17, "link_mode", Shape::U8),
    (18, "info", Shape::Nested(&[(1, "kind", Shape::Text), (4, "slave_kind", Shape::Text)])),
    (20, "alias", Shape::Text),
    // struct rtnl_link_stats64: packets received, sent, bytes received, sent, errors, dropped, multicast, collisions, ...
    (23, "stats64", Shape::U64s),
    (27, "group", Shape::U32),
    // More than 0: somebody listens to everything on it.
    (30, "promiscuity", Shape::U32),
    (31, "transmit_queues", Shape::U32),
    (32, "receive_queues", Shape::U32),
    (33, "carrier", Shape::U8),
    (35, "carrier_changes", Shape::U32),
    (37, "link_netnsid", Shape::I32),
    (
        43,
        "xdp",
        Shape::Nested(&[
            (2, "attached", Shape::U8),
            (3, "flags", Shape::U32),
            (4, "program_id", Shape::U32),
            (5, "driver_program_id", Shape::U32),
            (6, "generic_program_id", Shape::U32),
            (7, "hardware_program_id", Shape::U32),
        ]),
    ),
    (50, "mtu_min", Shape::U32),
    (51, "mtu_max", Shape::U32),
    (54, "permanent_address", Shape::Mac),
    (61, "all_multicast", Shape::U32),
];

const ADDRESS_HEAD: Head = &[("family", 0, Shape::U8), ("prefix_bits", 1, Shape::U8), ("scope", 3, Shape::U8), ("ifindex", 4, Shape::U32)];
const ADDRESS: Names = &[
    (1, "address", Shape::Ip),
    (2, "local", Shape::Ip),
    (3, "label", Shape::Text),
    (4, "broadcast", Shape::Ip),
    (5, "anycast", Shape::Ip),
    // Preferred and valid lifetime in seconds, created and updated in hundredths of a second since boot.
    (6, "cache_info", Shape::U32s),
    (8, "flags", Shape::U32),
    (9, "route_priority", Shape::U32),
    (11, "protocol", Shape::U8),
];

const QDISC_HEAD: Head = &[("ifindex", 4, Shape::I32), ("handle", 8, Shape::U32), ("parent", 12, Shape::U32)];
const QDISC: Names = &[(1, "kind", Shape::Text)];

/// Reads one answer into a row.
#[must_use]
pub fn row(dump: &Dump, netns: u64, payload: &[u8]) -> Value {
    let mut row = Map::new();
    row.insert("netns".into(), json!(netns));
    for (name, at, shape) in dump.head {
        let value = match shape {
            Shape::U8 => u8_at(payload, *at).map(Value::from),
            Shape::U16 => u16_at(payload, *at).map(Value::from),
            Shape::I32 => i32_at(payload, *at).map(Value::from),
            _ => u32_at(payload, *at).map(Value::from),
        };
        row.insert((*name).into(), value.unwrap_or(Value::Null));
    }
    named(&mut row, dump.names, after(payload, dump.head_bytes));
    Value::Object(row)
}

fn named(row: &mut Map<String, Value>, names: Names, bytes: &[u8]) {
    for (kind, value) in attributes(bytes) {
        let known = names.iter().find(|(k, ..)| *k == kind);
        let read = known.and_then(|(_, name, shape)| Some((*name, read(*shape, value)?)));
        match (known, read) {
            (Some((_, _, Shape::Same)), _) => {}
            (_, Some((name, read))) => {
                row.insert(name.into(), read);
            }
            // Unknown here, or not of the shape that it should have: its bytes.
            _ => {
                row.insert(format!("attr_{kind}"), to_hex(value).into());
            }
        }
    }
}

fn read(shape: Shape, value: &[u8]) -> Option<Value> {
    Some(match shape {
        Shape::U8 => u8_at(value, 0)?.into(),
        Shape::U16 => u16_at(value, 0)?.into(),
        Shape::U32 => u32_at(value, 0)?.into(),
        Shape::I32 => i32_at(value, 0)?.into(),
        // Bridge and tunnel entries put other things there.
        Shape::Ip => ip(value)?.to_string().into(),
        Shape::Mac => mac(value).into(),
        Shape::Text => serde_json::to_value(Lossless::from(value.strip_suffix(b"\0").unwrap_or(value))).ok()?,
        Shape::U32s => value.chunks_exact(4).filter_map(|c| u32_at(c, 0)).collect::<Vec<_>>().into(),
        Shape::U64s => value.chunks_exact(8).filter_map(|c| u64_at(c, 0)).collect::<Vec<_>>().into(),
        Shape::Nested(names) => {
            let mut inner = Map::new();
            named(&mut inner, names, value);
            inner.into()
        }
        Shape::NextHops => next_hops(value).into(),
        Shape::Same => Value::Null,
    })
}

fn mac(value: &[u8]) -> String {
    value.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

/// `struct rtnexthop`: length, flags, weight less one, interface, attributes.
fn next_hops(value: &[u8]) -> Vec<Value> {
    let mut rest = value;
    let mut hops = Vec::new();
    while let Some(length) = u16_at(rest, 0).map(usize::from) {
        let (Some(hop), true) = (rest.get(..length), length >= 8) else { break };
        let mut row = Map::new();
        row.insert("weight".into(), u8_at(hop, 3).map_or(0, u16::from).saturating_add(1).into());
        row.insert("oif".into(), i32_at(hop, 4).into());
        named(&mut row, ROUTE, after(hop, 8));
        hops.push(row.into());
        rest = rest.get(length.saturating_add(3) & !3..).unwrap_or_default();
    }
    hops
}
