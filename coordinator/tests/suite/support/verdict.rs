//! The public verifier's verdict on a case folder.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use exhibit_evidence::verify::{CaseFiles, Entry, EntryKind, Options, Report, Verdict, verify};

use super::world::World;

struct Folder(PathBuf);

fn walk(dir: &Path, each: &mut dyn FnMut(&Path, u64)) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { walk(&entry.path(), each)? } else { each(&entry.path(), entry.metadata()?.len()) }
    }
    Ok(())
}

impl CaseFiles for Folder {
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<()> {
        walk(&self.0, &mut |path, size| {
            let name = path.strip_prefix(&self.0).expect("below").to_string_lossy().into_owned();
            each(Entry { name: name.as_bytes(), size, kind: EntryKind::File });
        })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(std::fs::File::open(self.0.join(name))?))
    }
}

pub fn report(world: &World, case: &str, complete: bool) -> Report {
    report_of(world, &world.store_dir().join("cases").join(case), complete)
}

/// Of a copy of the case elsewhere.
pub fn report_of(world: &World, folder: &Path, complete: bool) -> Report {
    let folder = Folder(folder.to_owned());
    verify(&folder, &world.anchor(), &Options { complete, ..Options::default() }, &mut |_| {}).expect("listed")
}

/// The case is sound and every target of its orders has its seal.
pub fn sound(world: &World, case: &str) {
    let report = report(world, case, true);
    assert_eq!(report.verdict, Verdict::Sound, "{:#?}", report.findings);
}
