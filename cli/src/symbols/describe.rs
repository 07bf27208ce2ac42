//! Types in the words of volatility3's intermediate symbol format (its `schemas/schema-6.2.0.json`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::btf::{Btf, Kind, Member, Type, TypeId};

/// The deepest nesting of pointers and arrays that is described; real ones have less than ten, hostile ones no end.
const NESTING_MAX: usize = 16;

/// A type where it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Descriptor {
    /// A number, or `void`.
    Base { name: String },
    /// A pointer.
    Pointer { subtype: Box<Self> },
    /// An array.
    Array { count: u32, subtype: Box<Self> },
    /// A structure.
    Struct { name: String },
    /// A union.
    Union { name: String },
    /// An enumeration.
    Enum { name: String },
    /// A function.
    Function,
    /// Some bits of a number.
    Bitfield {
        /// The first of them.
        bit_position: u32,
        /// How many.
        bit_length: u32,
        /// The number.
        #[serde(rename = "type")]
        of: Box<Self>,
    },
}

impl Descriptor {
    /// No type.
    pub fn void() -> Self {
        Self::base("void")
    }

    /// A number.
    pub fn base(name: &str) -> Self {
        Self::Base { name: name.to_owned() }
    }

    /// A pointer to this.
    #[must_use]
    pub fn pointer(self) -> Self {
        Self::Pointer { subtype: Box::new(self) }
    }

    /// So many of this.
    #[must_use]
    pub fn array(self, count: u32) -> Self {
        Self::Array { count, subtype: Box::new(self) }
    }
}

/// A number as the format describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Base {
    size: u32,
    signed: bool,
    kind: &'static str,
    endian: &'static str,
}

const fn base(size: u32, signed: bool, kind: &'static str) -> Base {
    Base { size, signed, kind, endian: "little" }
}

/// A member of a structure as the format describes it.
#[derive(Debug, Serialize)]
pub struct Field {
    #[serde(rename = "type")]
    of: Descriptor,
    offset: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anonymous: bool,
}

/// BTF with a name for everything: in C several things may have one name, in the format they may not.
pub struct Types<'a> {
    /// The types.
    pub btf: &'a Btf,
    /// The first structure or union of a name.
    records: HashMap<&'a str, TypeId>,
    enums: HashMap<&'a str, TypeId>,
}

impl<'a> Types<'a> {
    /// Names everything.
    pub fn new(btf: &'a Btf) -> Self {
        let (mut records, mut enums) = (HashMap::new(), HashMap::new());
        for (id, of) in btf.types() {
            let name = btf.type_name(of);
            match of.kind {
                Kind::Struct { .. } | Kind::Union { .. } if !name.is_empty() => _ = records.entry(name).or_insert(id),
                Kind::Enum { .. } if !name.is_empty() => _ = enums.entry(name).or_insert(id),
                _ => {}
            }
        }
        Self { btf, records, enums }
    }

    /// The structure or union of a name.
    pub fn record(&self, name: &str) -> Option<TypeId> {
        self.records.get(name).copied()
    }

    /// The name in the format of a structure, union or enumeration: its own if it is the first that has it.
    pub fn name(&self, id: TypeId, of: &Type) -> String {
        let name = self.btf.type_name(of);
        let first = if matches!(of.kind, Kind::Enum { .. }) { self.enums.get(name) } else { self.records.get(name) };
        match (name, first) {
            ("", _) => format!("unnamed_{id:x}"),
            (_, Some(first)) if *first != id => format!("{name}__{id:x}"),
            _ => name.to_owned(),
        }
    }

    /// A type where it is used.
    pub fn describe(&self, id: TypeId) -> Descriptor {
        self.describe_at(id, 0)
    }

    fn describe_at(&self, id: TypeId, depth: usize) -> Descriptor {
        let Some((id, of)) = self.btf.resolve(id).filter(|_| depth < NESTING_MAX) else { return Descriptor::void() };
        match &of.kind {
            Kind::Int { .. } | Kind::Float { .. } => Descriptor::base(self.btf.type_name(of)),
            Kind::Pointer(to) => self.describe_at(*to, depth.saturating_add(1)).pointer(),
            Kind::Array { of, count } => self.describe_at(*of, depth.saturating_add(1)).array(*count),
            Kind::Struct { .. } => Descriptor::Struct { name: self.name(id, of) },
            Kind::Union { .. } => Descriptor::Union { name: self.name(id, of) },
            Kind::Enum { .. } => Descriptor::Enum { name: self.name(id, of) },
            Kind::Forward { union: false } => Descriptor::Struct { name: self.btf.type_name(of).to_owned() },
            Kind::Forward { union: true } => Descriptor::Union { name: self.btf.type_name(of).to_owned() },
            Kind::Function => Descriptor::Function,
            Kind::Alias(_) | Kind::Variable(_) | Kind::Other => Descriptor::void(),
        }
    }

    /// The members of a structure or union by name.
    pub fn fields<'b>(&'b self, members: &'b [Member]) -> impl Iterator<Item = (String, Field)> + 'b {
        members.iter().enumerate().map(|(n, member)| {
            let name = self.btf.member_name(member);
            if name.is_empty() {
                // Its members are found as those of the structure itself. Several may lie at one offset (in a union all do), so
                // its place in the list is its name.
                let offset = member.bit_offset / 8;
                return (format!("unnamed_field_{n}"), Field { of: self.describe(member.of), offset, anonymous: true });
            }
            (name.to_owned(), if member.bit_size > 0 { self.bit_field(member) } else { self.field(member) })
        })
    }

    fn field(&self, member: &Member) -> Field {
        Field { of: self.describe(member.of), offset: member.bit_offset / 8, anonymous: false }
    }

    /// Bits of the number in which compilers put them, or of eight bytes where they lie across two of its places.
    fn bit_field(&self, member: &Member) -> Field {
        let bytes = self.btf.size(member.of).filter(|s| matches!(s, 1 | 2 | 4 | 8)).unwrap_or(4) as u32;
        let (unit, place) = (member.bit_offset / (bytes * 8), member.bit_offset % (bytes * 8));
        let across = place.saturating_add(member.bit_size) > bytes * 8;
        let (offset, bit_position) = if across { (member.bit_offset / 8, member.bit_offset % 8) } else { (unit * bytes, place) };
        let of = match self.describe(member.of) {
            _ if across => Descriptor::base("long unsigned int"),
            of @ (Descriptor::Base { .. } | Descriptor::Enum { .. }) => of,
            _ => Descriptor::base("unsigned int"),
        };
        Field { of: Descriptor::Bitfield { bit_position, bit_length: member.bit_size, of: Box::new(of) }, offset, anonymous: false }
    }

    /// All numbers, with those that the format itself needs.
    pub fn bases(&self) -> BTreeMap<&'a str, Base> {
        let mut found = BTreeMap::from([("void", base(0, false, "void")), ("pointer", base(8, false, "int"))]);
        for (_, of) in self.btf.types() {
            let name = self.btf.type_name(of);
            let number = match of.kind {
                Kind::Int { size, encoding } if encoding & 4 != 0 => base(size, false, "bool"),
                Kind::Int { size, encoding } => {
                    // BTF seldom says that a byte is a character; its name does.
                    let character = encoding & 2 != 0 || (size == 1 && name.ends_with("char"));
                    base(size, encoding & 1 != 0, if character { "char" } else { "int" })
                }
                Kind::Float { size } => base(size, true, "float"),
                _ => continue,
            };
            found.entry(name).or_insert(number);
        }
        found.entry("char").or_insert_with(|| base(1, true, "char"));
        for (size, signed) in [1, 2, 4, 8].into_iter().flat_map(|size| [(size, false), (size, true)]) {
            found.entry(number_of(size, signed)).or_insert_with(|| base(size, signed, if size == 1 { "char" } else { "int" }));
        }
        found
    }

    /// Structures and unions that are named and defined nowhere: something must have the name.
    pub fn undefined(&self) -> BTreeSet<&'a str> {
        let forward = self.btf.types().filter(|(_, t)| matches!(t.kind, Kind::Forward { .. }));
        forward.map(|(_, t)| self.btf.type_name(t)).filter(|name| !self.records.contains_key(name)).collect()
    }
}

/// The number of a size.
pub const fn number_of(size: u32, signed: bool) -> &'static str {
    match (size, signed) {
        (1, false) => "unsigned char",
        (1, true) => "signed char",
        (2, false) => "short unsigned int",
        (2, true) => "short int",
        (8, false) => "long unsigned int",
        (8, true) => "long int",
        (_, false) => "unsigned int",
        (_, true) => "int",
    }
}
