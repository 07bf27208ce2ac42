//! BTF, the kernel's own description of its types (Linux `Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`): a header, a list of
//! types that name each other by number, and their names. Types may lie in circles and numbers may point anywhere, so every walk over
//! them is counted.

use std::ops::Range;

use crate::memory::{Malformed, u32_at};

/// The number of a type; 0 is `void`.
pub type TypeId = u32;

/// The largest BTF that is read; that of a kernel has 4 to 10 MiB.
pub const BYTES_MAX: usize = 64 << 20;
/// The longest name, as in the kernel (`KSYM_NAME_LEN`).
const NAME_BYTES_MAX: usize = 512;
/// The longest chain of names and qualifiers of one type, or nesting of arrays; real ones have less than ten.
const CHAIN_MAX: usize = 48;
const WHAT: &str = "BTF";

/// What a type is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A number; `encoding`: 1 signed, 2 character, 4 truth value.
    Int { size: u32, encoding: u8 },
    /// A pointer.
    Pointer(TypeId),
    /// An array.
    Array { of: TypeId, count: u32 },
    /// A structure; its members are a range of [`Btf::members`].
    Struct { size: u32, members: Range<usize> },
    /// A union, like a structure.
    Union { size: u32, members: Range<usize> },
    /// An enumeration; its values are a range of [`Btf::values`].
    Enum { size: u32, signed: bool, values: Range<usize> },
    /// A structure or union that is defined elsewhere.
    Forward { union: bool },
    /// Another name, or a qualifier, of a type.
    Alias(TypeId),
    /// A function, or the type of one.
    Function,
    /// A variable of the kernel; those for each processor stand here.
    Variable(TypeId),
    /// A floating-point number.
    Float { size: u32 },
    /// Sections and tags: nothing that has a size.
    Other,
}

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    name: u32,
    /// What it is.
    pub kind: Kind,
}

/// A member of a structure or union.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    name: u32,
    /// Its type.
    pub of: TypeId,
    /// Where it begins, in bits from the beginning of the structure.
    pub bit_offset: u32,
    /// Its bits if it is a bit field, else 0.
    pub bit_size: u32,
}

/// A value of an enumeration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    name: u32,
    /// The number, as 64 bits.
    pub value: i64,
}

/// The types of a kernel, and of its modules.
#[derive(Debug)]
pub struct Btf {
    types: Vec<Type>,
    members: Vec<Member>,
    values: Vec<Value>,
    names: Vec<u8>,
    /// How many types and bytes of names are the kernel's: those of a module count on from there.
    base: (u32, u32),
}

/// How numbers in the description of a module become ours.
#[derive(Clone, Copy)]
struct Shift {
    base: (u32, u32),
    by: (u32, u32),
}

impl Shift {
    const fn id(self, id: TypeId) -> TypeId {
        if id < self.base.0 { id } else { id.saturating_add(self.by.0) }
    }

    const fn name(self, name: u32) -> u32 {
        if name < self.base.1 { name } else { name.saturating_add(self.by.1) }
    }
}

impl Btf {
    /// Reads the description of a kernel.
    ///
    /// # Errors
    /// Another format or version, a part that is not whole, a kind of type that is not known.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let void = Type { name: 0, kind: Kind::Other };
        let mut btf = Self { types: vec![void], members: Vec::new(), values: Vec::new(), names: Vec::new(), base: (0, 0) };
        btf.read(bytes)?;
        btf.base = (btf.types.len() as u32, btf.names.len() as u32);
        Ok(btf)
    }

    /// Adds the description of a module, which goes on from the kernel's.
    ///
    /// # Errors
    /// Those of [`Btf::parse`]; nothing is added then.
    pub fn add_module(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let before = (self.types.len(), self.members.len(), self.values.len(), self.names.len());
        self.read(bytes).inspect_err(|_| {
            self.types.truncate(before.0);
            self.members.truncate(before.1);
            self.values.truncate(before.2);
            self.names.truncate(before.3);
        })
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let bad = |at: usize, problem| Malformed::new(WHAT, at as u64, problem);
        if bytes.len() > BYTES_MAX || self.names.len() > BYTES_MAX || self.types.len() > BYTES_MAX / 12 {
            return Err(bad(0, "larger than any kernel's"));
        }
        let field = |at| u32_at(bytes, at).ok_or_else(|| bad(at, "ends within its header"));
        match field(0)? {
            // Magic 0xeb9f and version 1; flags have no meaning yet.
            head if head & 0x00ff_ffff == 0x0001_eb9f => {}
            head if head & 0xffff == 0x9feb => return Err(bad(0, "of a big-endian machine")),
            _ => return Err(bad(0, "no BTF of version 1")),
        }
        let header = field(4)? as usize;
        let part = |offset: usize, len: usize| {
            let start = header.saturating_add(field(offset)? as usize);
            bytes.get(start..start.saturating_add(field(len)? as usize)).ok_or_else(|| bad(offset, "a part reaches beyond the end"))
        };
        let (types, names) = (part(8, 12)?, part(16, 20)?);
        let first = if self.base.0 == 0 { 0 } else { self.types.len().saturating_sub(self.base.0 as usize) };
        let by_name = self.names.len().saturating_sub(self.base.1 as usize);
        let shift = Shift { base: self.base, by: (first as u32, by_name as u32) };
        self.names.extend_from_slice(names);
        let mut rest = types;
        while !rest.is_empty() {
            let at = types.len().saturating_sub(rest.len());
            let read = self.one(&mut rest, shift).ok_or_else(|| bad(at, "a type that is not whole"))?;
            if !read {
                return Err(bad(at, "a kind of type that is not known"));
            }
        }
        Ok(())
    }

    /// Reads one type off the front; false when its kind is not known, none when it is not whole.
    fn one(&mut self, rest: &mut &[u8], shift: Shift) -> Option<bool> {
        let (name, info, third) = (word(rest)?, word(rest)?, word(rest)?);
        let (count, flag) = ((info & 0xffff) as usize, info >> 31 == 1);
        let of = shift.id(third);
        let kind = match (info >> 24) & 0x1f {
            1 => Kind::Int { size: third, encoding: ((word(rest)? >> 24) & 15) as u8 },
            2 => Kind::Pointer(of),
            3 => {
                let (of, _, count) = (shift.id(word(rest)?), word(rest)?, word(rest)?);
                Kind::Array { of, count }
            }
            4 => Kind::Struct { size: third, members: self.take_members(rest, count, flag, shift)? },
            5 => Kind::Union { size: third, members: self.take_members(rest, count, flag, shift)? },
            6 => Kind::Enum { size: third, signed: flag, values: self.take_values(rest, count, false, flag, shift)? },
            7 => Kind::Forward { union: flag },
            8..=11 | 18 => Kind::Alias(of),
            12 => Kind::Function,
            13 => skip(rest, count.checked_mul(8)?, Kind::Function)?,
            14 => skip(rest, 4, Kind::Variable(of))?,
            15 => skip(rest, count.checked_mul(12)?, Kind::Other)?,
            16 => Kind::Float { size: third },
            17 => skip(rest, 4, Kind::Other)?,
            19 => Kind::Enum { size: third, signed: flag, values: self.take_values(rest, count, true, flag, shift)? },
            _ => return Some(false),
        };
        self.types.push(Type { name: shift.name(name), kind });
        Some(true)
    }

    fn take_members(&mut self, rest: &mut &[u8], count: usize, bit_fields: bool, shift: Shift) -> Option<Range<usize>> {
        let start = self.members.len();
        for _ in 0..count {
            let (name, of, place) = (shift.name(word(rest)?), shift.id(word(rest)?), word(rest)?);
            let (bit_offset, bit_size) = if bit_fields { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
            self.members.push(Member { name, of, bit_offset, bit_size });
        }
        Some(start..self.members.len())
    }

    fn take_values(&mut self, rest: &mut &[u8], count: usize, wide: bool, signed: bool, shift: Shift) -> Option<Range<usize>> {
        let start = self.values.len();
        for _ in 0..count {
            let (name, low) = (shift.name(word(rest)?), word(rest)?);
            let value = match (wide, signed) {
                (true, _) => (u64::from(low) | u64::from(word(rest)?) << 32) as i64,
                (false, true) => i64::from(low as i32),
                (false, false) => i64::from(low),
            };
            self.values.push(Value { name, value });
        }
        Some(start..self.values.len())
    }

    /// How many types there are, `void` included.
    pub const fn len(&self) -> usize {
        self.types.len()
    }

    /// All types with their numbers, `void` left out.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        self.types.iter().enumerate().skip(1).map(|(i, t)| (i as TypeId, t))
    }

    /// A type.
    pub fn get(&self, id: TypeId) -> Option<&Type> {
        self.types.get(id as usize)
    }

    /// The members of a structure or union.
    pub fn members(&self, range: &Range<usize>) -> &[Member] {
        self.members.get(range.clone()).unwrap_or_default()
    }

    /// The values of an enumeration.
    pub fn values(&self, range: &Range<usize>) -> &[Value] {
        self.values.get(range.clone()).unwrap_or_default()
    }

    /// The name of a type; empty when it has none, or one that no kernel has.
    pub fn type_name(&self, of: &Type) -> &str {
        self.name(of.name)
    }

    /// The name of a member.
    pub fn member_name(&self, of: &Member) -> &str {
        self.name(of.name)
    }

    /// The name of a value.
    pub fn value_name(&self, of: &Value) -> &str {
        self.name(of.name)
    }

    fn name(&self, at: u32) -> &str {
        let from = self.names.get(at as usize..).unwrap_or_default();
        let from = from.get(..NAME_BYTES_MAX).unwrap_or(from);
        let end = from.iter().position(|b| *b == 0).unwrap_or(0);
        from.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// The type behind names and qualifiers; none when they lead nowhere or in a circle.
    pub fn resolve(&self, mut id: TypeId) -> Option<(TypeId, &Type)> {
        for _ in 0..CHAIN_MAX {
            let found = self.get(id)?;
            match found.kind {
                Kind::Alias(of) => id = of,
                _ => return Some((id, found)),
            }
        }
        None
    }

    /// Bytes that a value of a type takes; none for what has no size.
    pub fn size(&self, id: TypeId) -> Option<u64> {
        let (mut id, mut times) = (id, 1_u64);
        for _ in 0..CHAIN_MAX {
            let size = match self.resolve(id)?.1.kind {
                Kind::Array { of, count } => {
                    times = times.checked_mul(count.into())?;
                    id = of;
                    continue;
                }
                Kind::Int { size, .. }
                | Kind::Float { size }
                | Kind::Struct { size, .. }
                | Kind::Union { size, .. }
                | Kind::Enum { size, .. } => size,
                Kind::Pointer(_) => 8,
                _ => return None,
            };
            return times.checked_mul(size.into());
        }
        None
    }
}

fn word(rest: &mut &[u8]) -> Option<u32> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*first))
}

fn skip(rest: &mut &[u8], bytes: usize, kind: Kind) -> Option<Kind> {
    *rest = rest.get(bytes..)?;
    Some(kind)
}

#[cfg(test)]
pub mod tests;
