use super::*;
use crate::memory::image::Pages;
use crate::symbols::btf::tests::Writer;

const BANNER: &[u8] = b"Linux version 6.1.0 (x) #1\n";
const SLIDE: u64 = 0x20_0000;

fn types() -> Vec<u8> {
    let mut types = Writer::default();
    let int = types.int("int", 4, 1);
    types.structure("task_struct", 4, false, &[("pid", int, 0)]);
    types.finish()
}

fn kallsyms(start: u64) -> Vec<u8> {
    let names = ["_text", "_stext", "init_task", "init_mm", "init_files", "linux_banner", "__start_BTF"];
    let line = |(i, name): (usize, &&str)| format!("{:016x} D {name}\n", start + 0x1000 * (i as u64 / 2));
    let stop = format!("{:016x} D __stop_BTF\n", start + 0x3000 + types().len() as u64);
    [names.iter().enumerate().map(line).collect::<Vec<_>>().concat(), stop].concat().into_bytes()
}

fn sources() -> Sources {
    let start = KERNEL_MAP + 0x100_0000 + SLIDE;
    let info = format!("OSRELEASE=6.1.0\nSYMBOL(_stext)={start:x}\nSYMBOL(kallsyms_names)={:x}\nKERNELOFFSET={SLIDE:x}\n", start + 0x9000);
    Sources {
        btf: Some(types()),
        kallsyms: Some(kallsyms(start)),
        vmcoreinfo: Some(info.into_bytes()),
        version: Some(BANNER.to_vec()),
        ..Sources::default()
    }
}

fn refused(sources: Sources) -> String {
    match sources.read() {
        Ok(_) => panic!("it was taken"),
        Err(failure) => {
            assert_eq!(failure.code, Code::Input);
            failure.message
        }
    }
}

#[test]
fn parts_of_one_kernel_are_put_together() {
    let kernel = sources().read().expect("good");
    assert_eq!((kernel.slide, kernel.from), (SLIDE, (Origin::File, Origin::File, Origin::Vmcoreinfo)));
    assert_eq!(kernel.symbols.get("init_task"), Some(KERNEL_MAP + 0x100_1000));
    assert_eq!(kernel.symbols.get("kallsyms_names"), Some(KERNEL_MAP + 0x100_9000), "what only VMCOREINFO names");
    assert_eq!((kernel.banner.as_slice(), kernel.notes.len(), kernel.five_levels), (BANNER, 0, false));
    // Without VMCOREINFO the slide follows from where kernels are linked, and that is said.
    let kernel = Sources { vmcoreinfo: None, ..sources() }.read().expect("good");
    assert_eq!((kernel.slide, kernel.from.2, kernel.notes.len()), (SLIDE, Origin::Assumed, 1));
    // A module that cannot be read is left out, and that is said.
    let kernel = Sources { modules: vec![("bad".to_owned(), vec![1, 2, 3])], ..sources() }.read().expect("good");
    assert_eq!((kernel.modules, kernel.notes.len()), (0, 1));
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let other_boot = kallsyms(KERNEL_MAP + 0x140_0000);
    assert!(refused(Sources { kallsyms: Some(other_boot), ..sources() }).contains("same boot"));
    assert!(refused(Sources { version: Some(b"#!/bin/sh".to_vec()), ..sources() }).contains("something else"));
    assert!(refused(Sources { vmcoreinfo: Some(b"x".to_vec()), ..sources() }).contains("something else"));
    // Types: no BTF; another kernel's; a module's.
    assert!(refused(Sources { btf: Some(vec![0; types().len()]), ..sources() }).contains("BTF"));
    let (mut other, mut module) = (Writer::default(), Writer::default());
    let int = other.int("int", 4, 1);
    other.structure("task_struct", 8, false, &[("pid", int, 0), ("tgid", int, 32)]);
    assert!(refused(Sources { btf: Some(other.finish()), ..sources() }).contains("of another kernel"));
    module.int("int", 4, 1);
    let unknown = String::from_utf8(kallsyms(KERNEL_MAP + 0x100_0000 + SLIDE)).expect("text").replace("_BTF", "_other").into_bytes();
    assert!(refused(Sources { btf: Some(module.finish()), kallsyms: Some(unknown), ..sources() }).contains("task_struct"));
    assert!(refused(Sources { btf: None, ..sources() }).contains("no types"));
    let functions_only = b"ffffffff81200000 T _text\nffffffff81200000 T _stext\n".to_vec();
    assert!(refused(Sources { kallsyms: Some(functions_only), ..sources() }).contains("CONFIG_KALLSYMS_ALL"));
    let hidden = || Some(b"0000000000000000 T _text\n".to_vec());
    assert!(Sources { kallsyms: hidden(), ..sources() }.needs_image() && !sources().needs_image());
    assert!(refused(Sources { kallsyms: hidden(), ..sources() }).contains("no image"));
    let empty = || -> Option<Box<dyn Physical>> { Some(Box::new(Pages::new(0..1))) };
    assert!(refused(Sources { kallsyms: hidden(), memory: empty(), ..sources() }).contains("since 6.0"));
    // What is shown comes from a host that may be hostile.
    let red = b"OSRELEASE=6.1.0\x1b[31m\nKERNELOFFSET=0\n".to_vec();
    let said = refused(Sources { kallsyms: hidden(), memory: Some(Box::new(Pages::new(0..1))), vmcoreinfo: Some(red), ..sources() });
    assert!(!said.contains('\u{1b}') && said.contains("6.1.0"), "{said:?}");
}

#[test]
fn types_and_banner_come_from_the_image() {
    let full = sources();
    let btf = full.btf.clone().expect("made");
    let at = 0x100_0000 + SLIDE;
    let mut memory = vec![0; 0x6000];
    memory[0x2000..0x2000 + BANNER.len()].copy_from_slice(BANNER);
    memory[0x3000..0x3000 + btf.len()].copy_from_slice(&btf);
    let mut pages = Pages::new(at..at + 0x10_0000);
    pages.keep(at, &memory);
    let mut text = full.vmcoreinfo.clone().expect("made");
    text.extend_from_slice(b"NUMBER(phys_base)=0\n");
    // The symbols of the test stand two on a page; the end of the types is moved to where it is.
    let list = String::from_utf8(full.kallsyms.clone().expect("made")).expect("text");
    let end = format!("{:016x} D __stop_BTF", KERNEL_MAP + at + 0x3000 + btf.len() as u64);
    let list: Vec<String> = list.lines().map(|l| if l.ends_with("__stop_BTF") { end.clone() } else { l.to_owned() }).collect();
    let from_image = |version: Option<&[u8]>, pages| Sources {
        btf: None,
        version: version.map(<[u8]>::to_vec),
        kallsyms: Some(list.join("\n").into_bytes()),
        vmcoreinfo: Some(text.clone()),
        memory: Some(Box::new(pages)),
        ..Sources::default()
    };
    let again = |memory: &[u8]| {
        let mut pages = Pages::new(at..at + 0x10_0000);
        pages.keep(at, memory);
        pages
    };
    // Where both are at hand they are compared; where that cannot be done, it is said.
    let both = |version: &[u8]| Sources { btf: Some(btf.clone()), ..from_image(Some(version), again(&memory)) };
    assert_eq!(both(BANNER).read().expect("good").notes, Vec::<String>::new());
    assert!(refused(both(b"Linux version 5.10 (y)\n")).contains("another kernel"));
    let without = Sources { btf: Some(btf.clone()), ..from_image(Some(BANNER), again(&memory[..0x2000])) };
    assert!(without.read().expect("good").notes[0].contains("was not checked"));
    let kernel = from_image(None, pages).read().expect("good");
    assert_eq!((kernel.from.1, kernel.banner.as_slice(), kernel.btf.len()), (Origin::Image, BANNER, 3));
    assert!(refused(from_image(Some(b"Linux version 5.10 (y)\n"), again(&memory))).contains("another kernel"));
    assert!(refused(from_image(None, again(&memory[..0x3000]))).contains("no types"));
}
