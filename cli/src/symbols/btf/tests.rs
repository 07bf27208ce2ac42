use super::*;
use proptest::prelude::*;

/// Writes BTF for tests, so that they read as the types that they mean.
#[derive(Debug)]
pub struct Writer {
    types: Vec<u8>,
    names: Vec<u8>,
    next: TypeId,
    names_before: u32,
}

impl Default for Writer {
    fn default() -> Self {
        Self { types: Vec::new(), names: vec![0], next: 1, names_before: 0 }
    }
}

impl Writer {
    /// For a module on top of a kernel with so many types and bytes of names.
    pub fn module(types: u32, names: u32) -> Self {
        Self { next: types, names_before: names, ..Self::default() }
    }

    pub fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.names_before + self.names.len() as u32;
        self.names.extend_from_slice(name.as_bytes());
        self.names.push(0);
        at
    }

    /// A type: kind, flag, size or type, and what follows.
    pub fn add(&mut self, name: &str, kind: u32, flag: bool, count: usize, third: u32, more: &[u32]) -> TypeId {
        let name = self.name(name);
        let info = (u32::from(flag) << 31) | (kind << 24) | count as u32;
        for word in [name, info, third].iter().chain(more) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.next += 1;
        self.next - 1
    }

    pub fn int(&mut self, name: &str, size: u32, encoding: u32) -> TypeId {
        self.add(name, 1, false, 0, size, &[(encoding << 24) | (size * 8)])
    }

    pub fn pointer(&mut self, to: TypeId) -> TypeId {
        self.add("", 2, false, 0, to, &[])
    }

    pub fn array(&mut self, of: TypeId, count: u32) -> TypeId {
        self.add("", 3, false, 0, 0, &[of, of, count])
    }

    /// A structure of members: name, type, place in bits.
    pub fn structure(&mut self, name: &str, size: u32, bit_fields: bool, members: &[(&str, TypeId, u32)]) -> TypeId {
        let mut more = Vec::new();
        for (name, of, place) in members {
            more.extend([self.name(name), *of, *place]);
        }
        self.add(name, 4, bit_fields, members.len(), size, &more)
    }

    pub fn enumeration(&mut self, name: &str, values: &[(&str, i32)]) -> TypeId {
        let mut more = Vec::new();
        for (name, value) in values {
            more.extend([self.name(name), *value as u32]);
        }
        self.add(name, 6, values.iter().any(|v| v.1 < 0), values.len(), 4, &more)
    }

    pub fn finish(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let words = [0x0001_eb9f, 24, 0, self.types.len() as u32, self.types.len() as u32, self.names.len() as u32];
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.names);
        out
    }
}

#[test]
fn types_members_and_values_come_back() {
    let mut w = Writer::default();
    let int = w.int("int", 4, 1);
    let alias = w.add("pid_t", 8, false, 0, int, &[]);
    let constant = w.add("", 10, false, 0, alias, &[]);
    let three = w.array(constant, 3);
    let state = w.enumeration("state", &[("IDLE", -1), ("BUSY", 7)]);
    let task = w.structure("task", 24, true, &[("pid", constant, 0), ("flag", int, 32 | (3 << 24)), ("many", three, 64)]);
    let wide = w.name("WIDE");
    let wide = w.add("wide", 19, false, 1, 8, &[wide, 1, 2]);
    let btf = Btf::parse(&w.finish()).expect("good");
    assert_eq!(btf.len(), 8);
    assert_eq!(btf.resolve(constant).map(|r| r.0), Some(int));
    assert_eq!((btf.size(three), btf.size(task), btf.size(0)), (Some(12), Some(24), None));
    let Kind::Struct { members, .. } = &btf.get(task).expect("there").kind else { panic!("a structure") };
    let members: Vec<_> = btf.members(members).iter().map(|m| (btf.member_name(m), m.of, m.bit_offset, m.bit_size)).collect();
    assert_eq!(members, [("pid", constant, 0, 0), ("flag", int, 32, 3), ("many", three, 64, 0)]);
    let values = |id| match &btf.get(id).expect("there").kind {
        Kind::Enum { values, .. } => btf.values(values).iter().map(|v| (btf.value_name(v), v.value)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!((values(state), values(wide)), (vec![("IDLE", -1), ("BUSY", 7)], vec![("WIDE", 0x2_0000_0001)]));
}

#[test]
fn modules_go_on_from_the_kernel() {
    let mut w = Writer::default();
    let int = w.int("int", 4, 1);
    let mut btf = Btf::parse(&w.finish()).expect("good");
    let names = w.names.len() as u32;
    for module in ["one", "two"] {
        let mut m = Writer::module(2, names);
        let inner = m.structure(module, 4, false, &[("a", int, 0)]);
        let outer = m.structure(&format!("{module}_outer"), 4, false, &[("inner", inner, 0)]);
        assert_eq!((inner, outer), (2, 3));
        btf.add_module(&m.finish()).expect("good");
        assert!(btf.add_module(&m.finish()[..40]).is_err(), "cut: nothing is added");
    }
    assert_eq!(btf.len(), 6);
    let found: Vec<_> = btf.types().skip(1).map(|(_, t)| (btf.type_name(t), t.kind.clone())).collect();
    assert_eq!(found[2].0, "two");
    let Kind::Struct { members, .. } = &found[3].1 else { panic!("a structure") };
    let inner = btf.members(members)[0].of;
    assert_eq!(btf.type_name(btf.get(inner).expect("there")), "two", "a module's own types are its own");
}

#[test]
fn circles_and_numbers_that_lead_nowhere_end() {
    let mut w = Writer::default();
    w.add("a", 8, false, 0, 2, &[]);
    w.add("b", 8, false, 0, 1, &[]);
    w.array(3, u32::MAX);
    w.array(99, u32::MAX);
    let btf = Btf::parse(&w.finish()).expect("good");
    for id in 0..10 {
        assert_eq!(btf.size(id), None);
    }
    assert!(btf.resolve(1).is_none());
}

#[test]
fn this_kernels_types_can_be_read() {
    // Not every machine that runs tests has them.
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
    let btf = Btf::parse(&bytes).expect("the kernel's own");
    let task = btf
        .types()
        .find(|(_, t)| matches!(t.kind, Kind::Struct { .. }) && btf.type_name(t) == "task_struct")
        .expect("every kernel has one");
    let Kind::Struct { size, members } = &task.1.kind else { panic!("a structure") };
    assert!(*size > 1_000 && btf.members(members).len() > 50);
}

proptest! {
    #[test]
    fn no_bytes_are_too_much(at in 0_usize..120, value: u8, cut in 0_usize..200, words in proptest::collection::vec(0_u32..64, 0..60)) {
        let mut w = Writer::default();
        let int = w.int("int", 4, 1);
        let p = w.pointer(int);
        w.structure("s", 8, false, &[("a", p, 0), ("b", int, 32)]);
        w.array(3, 9);
        let mut bytes = w.finish();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(cut.max(24));
        for bytes in [bytes, {
            let mut out = Writer::default();
            for chunk in words.chunks_exact(3) {
                out.add("x", chunk[0] & 31, chunk[1] & 1 == 1, chunk[1] as usize, chunk[2], &[]);
            }
            out.finish()
        }] {
            if let Ok(btf) = Btf::parse(&bytes) {
                prop_assert!(btf.len() <= bytes.len() / 12 + 1);
                for (id, of) in btf.types() {
                    let _ = (btf.size(id), btf.resolve(id), btf.type_name(of));
                }
            }
        }
    }
}
