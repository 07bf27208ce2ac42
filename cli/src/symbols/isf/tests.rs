use super::*;
use crate::symbols::btf::tests::Writer;
use proptest::prelude::*;
use serde_json::Value as Json;

fn written(btf: &Btf, symbols: &[(&str, u64)]) -> Json {
    let mut all = Symbols::default();
    for (name, address) in symbols {
        all.add(name, *address);
    }
    let contents = Contents { btf, symbols: &all, banner: b"Linux version 6.1\n", digests: (Digest::of(b"s"), Digest::of(b"t")) };
    let mut out = Vec::new();
    let counts = write(&contents, &mut out).expect("written");
    assert_eq!((counts.symbols, counts.types), (all.addresses.len(), btf.len()));
    serde_json::from_slice(&out).expect("JSON")
}

#[test]
fn structures_numbers_and_enumerations() {
    let mut w = Writer::default();
    let int = w.int("int", 4, 1);
    let ch = w.int("char", 1, 1);
    let truth = w.int("_Bool", 1, 4);
    let name = w.array(ch, 16);
    let forward = w.add("hidden", 7, false, 0, 0, &[]);
    let to_hidden = w.pointer(forward);
    let inner = w.structure("", 8, false, &[("low", int, 0), ("high", int, 32)]);
    let state = w.enumeration("state", &[("IDLE", -1)]);
    let members = [("pid", int, 0), ("comm", name, 32), ("", inner, 160), ("ok", truth, 224), ("next", to_hidden, 256), ("st", state, 320)];
    w.structure("task_struct", 48, false, &members);
    w.structure("bits", 8, true, &[("a", int, 0x0300_0000), ("b", int, 0x0400_0005), ("c", int, 0x0400_001e)]);
    let again = w.structure("bits", 4, false, &[("other", int, 0)]);
    let value = written(&Btf::parse(&w.finish()).expect("good"), &[("init_task", 0xffff_ffff_8100_0000)]);
    let task = &value["user_types"]["task_struct"];
    assert_eq!((task["kind"].as_str(), task["size"].as_u64()), (Some("struct"), Some(48)));
    assert_eq!(
        task["fields"]["comm"],
        json!({"offset": 4, "type": {"kind": "array", "count": 16, "subtype": {"kind": "base", "name": "char"}}})
    );
    let unnamed = format!("unnamed_{inner:x}");
    assert_eq!(task["fields"]["unnamed_field_2"], json!({"offset": 20, "anonymous": true, "type": {"kind": "struct", "name": unnamed}}));
    assert_eq!(value["user_types"][&unnamed]["fields"]["high"]["offset"], 4);
    assert_eq!(task["fields"]["next"]["type"], json!({"kind": "pointer", "subtype": {"kind": "struct", "name": "hidden"}}));
    assert_eq!(value["user_types"]["hidden"], json!({"size": 0, "kind": "struct", "fields": {}}));
    assert_eq!(value["enums"]["state"], json!({"size": 4, "base": "int", "constants": {"IDLE": -1}}));
    let bits = &value["user_types"]["bits"]["fields"];
    let bit =
        |name: &str| (bits[name]["offset"].clone(), bits[name]["type"]["bit_position"].clone(), bits[name]["type"]["type"]["name"].clone());
    assert_eq!(bit("a"), (json!(0), json!(0), json!("int")));
    assert_eq!(bit("b"), (json!(0), json!(5), json!("int")));
    assert_eq!(bit("c"), (json!(3), json!(6), json!("long unsigned int")), "across two numbers");
    assert_eq!(value["user_types"][format!("bits__{again:x}")]["fields"]["other"]["offset"], 0, "a second of the name is kept");
    assert_eq!(value["base_types"]["_Bool"], json!({"size": 1, "signed": false, "kind": "bool", "endian": "little"}));
    assert_eq!(value["base_types"]["char"]["kind"], "char");
    assert_eq!(value["base_types"]["pointer"]["size"], 8);
    assert_eq!(value["symbols"]["init_task"]["type"], json!({"kind": "struct", "name": "task_struct"}));
}

/// `struct page` is like this: what would be lost has the names that readers ask for.
#[test]
fn several_members_without_a_name_at_one_offset_are_all_there() {
    let mut w = Writer::default();
    let int = w.int("int", 4, 1);
    let first = w.structure("", 8, false, &[("mapping", int, 0), ("index", int, 32)]);
    let second = w.structure("", 4, false, &[("private", int, 0)]);
    w.structure("page", 12, false, &[("flags", int, 0), ("", first, 32), ("", second, 32)]);
    let value = written(&Btf::parse(&w.finish()).expect("good"), &[]);
    let fields = value["user_types"]["page"]["fields"].as_object().expect("fields");
    let inner: Vec<&str> = fields.values().filter(|f| f["anonymous"] == true).filter_map(|f| f["type"]["name"].as_str()).collect();
    assert_eq!(inner, [format!("unnamed_{first:x}"), format!("unnamed_{second:x}")]);
    assert!(fields.values().filter(|f| f["anonymous"] == true).all(|f| f["offset"] == 4));
}

#[test]
fn variables_have_their_types() {
    let mut w = Writer::default();
    let ch = w.int("char", 1, 1);
    w.structure("taint_flag", 3, false, &[("c_true", ch, 0)]);
    let keeper = w.structure("timekeeper", 8, false, &[]);
    let core = w.structure("", 16, false, &[("seq", ch, 0), ("timekeeper", keeper, 64)]);
    w.add("cpu_number", 14, false, 0, ch, &[1]);
    let btf = Btf::parse(&w.finish()).expect("good");
    let value = written(
        &btf,
        &[
            ("taint_flags", 0x1000),
            ("sys_call_table", 0x1040),
            ("taint_flags", 0x1080),
            ("tk_core", 0x1100),
            ("cpu_number", 0x40),
            ("modules", 0x2000),
            ("linux_banner", 0x3000),
        ],
    );
    let of = |name: &str| value["symbols"][name]["type"].clone();
    assert_eq!(of("taint_flags"), json!({"kind": "array", "count": 19, "subtype": {"kind": "struct", "name": "taint_flag"}}));
    assert_eq!(of("sys_call_table")["count"], 8, "up to a symbol whose name came before");
    assert_eq!(release(b"Linux version 6.15.3 (x)"), Some((6, 15)));
    assert_eq!(of("tk_core"), json!({"kind": "struct", "name": format!("unnamed_{core:x}")}));
    assert_eq!(of("cpu_number"), json!({"kind": "base", "name": "char"}));
    assert_eq!(of("modules"), json!({"kind": "base", "name": "void"}), "this kernel has no list_head");
    // "Linux version 6.1\n\0" in base64, by hand (base64(1)).
    assert_eq!(value["symbols"]["linux_banner"]["constant_data"], "TGludXggdmVyc2lvbiA2LjEKAA==");
    assert_eq!(of("linux_banner")["count"], 19);
}

proptest! {
    /// Any list of types ends as a file whose size is bounded by its own.
    #[test]
    fn types_without_sense_end(words in proptest::collection::vec((1_u32..20, 0_usize..4, 0_u32..30), 0..30)) {
        let mut w = Writer::default();
        for (kind, count, third) in words {
            let more = vec![third; match kind { 1 | 14 | 17 => 1, 3 => 3, 4 | 5 | 15 | 19 => 3 * count, 6 | 13 => 2 * count, _ => 0 }];
            w.add("n", kind, count == 3, count, third, &more);
        }
        let btf = Btf::parse(&w.finish()).expect("well formed");
        let value = written(&btf, &[("init_task", 1)]);
        prop_assert!(value.to_string().len() < 200_000);
    }
}
