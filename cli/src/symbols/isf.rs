//! Writes volatility3's intermediate symbol format (`volatilityfoundation/volatility3`, `schemas/schema-6.2.0.json`): numbers, structures,
//! enumerations, and the symbols with their types.

use std::collections::HashMap;
use std::io::Write;

use base64::Engine as _;
use exhibit_evidence::Digest;
use serde::Serialize;
use serde::ser::SerializeMap as _;
use serde_json::json;

use super::btf::{Btf, Kind, Member, TypeId, Value};
use super::describe::{Descriptor, Types, number_of};
use super::kallsyms::Symbols;
use super::known::{KNOWN, Shape};

/// The version of the format that is written.
const FORMAT: &str = "6.2.0";
/// A kernel's is 15 MiB; types that name each other without end make no more than this.
const BYTES_MAX: u64 = 1 << 30;
/// No table of a kernel is longer.
const ARRAY_MAX: u64 = 4_096;

/// What goes into a file of symbols.
pub struct Contents<'a> {
    /// Types of the kernel and its modules.
    pub btf: &'a Btf,
    /// Symbols without slide.
    pub symbols: &'a Symbols,
    /// The kernel's banner, with the newline at its end.
    pub banner: &'a [u8],
    /// SHA-256 of what the symbols and the types were read from.
    pub digests: (Digest, Digest),
}

/// How much there is of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Symbols.
    pub symbols: usize,
    /// Symbols of which the type is known.
    pub typed: usize,
    /// Types as the kernel counts them.
    pub types: usize,
}

/// Something that is written as a map while it is walked, so that it is never in memory as a whole.
struct Walk<F>(F);

impl<I, K, V, F> Serialize for Walk<F>
where
    F: Fn() -> I,
    I: Iterator<Item = (K, V)>,
    K: Serialize,
    V: Serialize,
{
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map((self.0)())
    }
}

#[derive(Serialize)]
struct Document<B, U, E, S> {
    metadata: serde_json::Value,
    base_types: B,
    user_types: U,
    enums: E,
    symbols: S,
}

/// A structure or union; its members are written one by one.
struct Record<'a> {
    types: &'a Types<'a>,
    size: u32,
    kind: &'static str,
    members: &'a [Member],
}

impl Serialize for Record<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("size", &self.size)?;
        map.serialize_entry("kind", self.kind)?;
        map.serialize_entry("fields", &Walk(|| self.types.fields(self.members)))?;
        map.end()
    }
}

struct Enumeration<'a> {
    btf: &'a Btf,
    size: u32,
    base: &'static str,
    values: &'a [Value],
}

impl Serialize for Enumeration<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("size", &self.size)?;
        map.serialize_entry("base", self.base)?;
        map.serialize_entry("constants", &Walk(|| self.values.iter().map(|v| (self.btf.value_name(v), v.value))))?;
        map.end()
    }
}

#[derive(Serialize)]
struct Symbol {
    address: u64,
    #[serde(rename = "type")]
    of: Descriptor,
    #[serde(skip_serializing_if = "Option::is_none")]
    constant_data: Option<String>,
}

/// Writes the file.
///
/// # Errors
/// What `out` says; more than a gigabyte.
pub fn write(contents: &Contents<'_>, out: impl Write) -> std::io::Result<Counts> {
    let types = Types::new(contents.btf);
    let variables = Variables::new(&types, contents);
    let typed = contents.symbols.addresses.iter().filter(|(name, address)| variables.shape(name, **address).is_some()).count();
    let (symbols_from, types_from) = contents.digests;
    let source = |name: &str, digest: Digest| json!([{"kind": "symtab", "name": name, "hash_type": "sha256", "hash_value": digest}]);
    let document = Document {
        metadata: json!({
            "linux": {"symbols": source("kallsyms", symbols_from), "types": source("btf", types_from)},
            "producer": {"name": "exhibit", "version": env!("CARGO_PKG_VERSION")},
            "format": FORMAT,
        }),
        base_types: types.bases(),
        user_types: Walk(|| records(&types)),
        enums: Walk(|| enumerations(&types)),
        symbols: Walk(|| contents.symbols.addresses.iter().map(|(name, address)| (name, variables.symbol(name, *address)))),
    };
    let mut bounded = Bounded { out, left: BYTES_MAX };
    serde_json::to_writer(&mut bounded, &document)?;
    bounded.flush()?;
    Ok(Counts { symbols: contents.symbols.addresses.len(), typed, types: contents.btf.len() })
}

fn records<'a>(types: &'a Types<'a>) -> impl Iterator<Item = (String, Record<'a>)> {
    let defined = types.btf.types().filter_map(|(id, of)| {
        let (kind, size, members) = match &of.kind {
            Kind::Struct { size, members } => ("struct", *size, members),
            Kind::Union { size, members } => ("union", *size, members),
            _ => return None,
        };
        Some((types.name(id, of), Record { types, size, kind, members: types.btf.members(members) }))
    });
    let undefined = types.undefined().into_iter();
    defined.chain(undefined.map(|name| (name.to_owned(), Record { types, size: 0, kind: "struct", members: &[] })))
}

fn enumerations<'a>(types: &'a Types<'a>) -> impl Iterator<Item = (String, Enumeration<'a>)> {
    types.btf.types().filter_map(|(id, of)| {
        let Kind::Enum { size, signed, values } = &of.kind else { return None };
        let values = types.btf.values(values);
        Some((types.name(id, of), Enumeration { btf: types.btf, size: *size, base: number_of(*size, *signed), values }))
    })
}

/// The kernel's variables and their types.
struct Variables<'a> {
    types: &'a Types<'a>,
    known: HashMap<&'static str, Shape>,
    /// Variables that BTF names.
    described: HashMap<&'a str, TypeId>,
    /// All addresses, ascending: a table ends where the next symbol begins.
    addresses: Vec<u64>,
    banner: &'a [u8],
    /// Major and minor version of the kernel.
    release: (u32, u32),
}

impl<'a> Variables<'a> {
    fn new(types: &'a Types<'a>, contents: &'a Contents<'_>) -> Self {
        let mut addresses = contents.symbols.all.clone();
        addresses.sort_unstable();
        let variables = types.btf.types().filter_map(|(_, of)| match of.kind {
            Kind::Variable(id) => Some((types.btf.type_name(of), id)),
            _ => None,
        });
        let release = release(contents.banner).unwrap_or_default();
        Self { types, known: KNOWN.iter().copied().collect(), described: variables.collect(), addresses, banner: contents.banner, release }
    }

    fn symbol(&self, name: &str, address: u64) -> Symbol {
        if name == "linux_banner" {
            // With the zero at its end, as it lies in memory: a longer line that begins alike is another kernel's.
            let mut bytes = self.banner.to_vec();
            bytes.push(0);
            let of = Descriptor::base("char").array(bytes.len() as u32);
            return Symbol { address, of, constant_data: Some(base64::engine::general_purpose::STANDARD.encode(bytes)) };
        }
        let of = self.shape(name, address).unwrap_or_else(Descriptor::void);
        Symbol { address, of, constant_data: None }
    }

    /// The type of a variable at an address, if it is known.
    fn shape(&self, name: &str, address: u64) -> Option<Descriptor> {
        let Some(shape) = self.known.get(name) else { return self.described.get(name).map(|id| self.types.describe(*id)) };
        let record = |name: &str| self.types.record(name).map(|id| (self.types.describe(id), self.types.btf.size(id).unwrap_or(1)));
        match *shape {
            Shape::Struct(name) => record(name).map(|(of, _)| of),
            Shape::Pointer(name) => record(name).map(|(of, _)| of.pointer()),
            Shape::Structs(name, count) => record(name).map(|(of, _)| of.array(count)),
            Shape::StructsByRelease(name, counts) => {
                let count = counts.iter().find(|(since, _)| self.release >= *since).map_or(1, |(_, count)| *count);
                record(name).map(|(of, size)| of.array(self.room(address, size).min(count)))
            }
            Shape::With(member, name) => self.holder(member, name),
            Shape::PointersToNext => Some(Descriptor::void().pointer().array(self.room(address, 8))),
            Shape::NumbersToNext(name) => Some(Descriptor::base(name).array(self.room(address, 4))),
            Shape::Number(name) => Some(Descriptor::base(name)),
            Shape::Text => Some(Descriptor::base("char").pointer()),
        }
    }

    /// How many of a size have room before the next symbol.
    fn room(&self, address: u64, size: u64) -> u32 {
        let next = self.addresses.get(self.addresses.partition_point(|a| *a <= address));
        let bytes = next.map_or(size, |next| next.saturating_sub(address));
        bytes.checked_div(size).unwrap_or(1).clamp(1, ARRAY_MAX) as u32
    }

    /// The structure without a name that has a member of this name and structure.
    fn holder(&self, member: &str, record: &str) -> Option<Descriptor> {
        let wanted = self.types.record(record)?;
        let is = |id| self.types.btf.resolve(id).is_some_and(|(id, _)| id == wanted);
        let mut all = self.types.btf.types().filter(|(_, of)| self.types.btf.type_name(of).is_empty());
        let (id, _) = all.find(|(_, of)| match &of.kind {
            Kind::Struct { members, .. } => {
                let members = self.types.btf.members(members);
                members.iter().any(|m| self.types.btf.member_name(m) == member && is(m.of))
            }
            _ => false,
        })?;
        Some(self.types.describe(id))
    }
}

/// Major and minor version in a banner: `Linux version 6.1.0-...`.
fn release(banner: &[u8]) -> Option<(u32, u32)> {
    let text = std::str::from_utf8(banner.get(..64.min(banner.len()))?).ok()?;
    let mut numbers = text.strip_prefix("Linux version ")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A writer that refuses to go on without end.
struct Bounded<W> {
    out: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.left =
            self.left.checked_sub(bytes.len() as u64).ok_or_else(|| std::io::Error::other("more symbols and types than a kernel has"))?;
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
