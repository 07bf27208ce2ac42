//! `exhibit symbols`: what memory analysts need beside an image.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use exhibit_evidence::Digest;
use exhibit_evidence::digest::Hasher;
use exhibit_evidence::text::{escape_bounded, escape_bytes};
use serde_json::json;

use super::readable;
use crate::args::symbols::{BuildArgs, SymbolsCommand};
use crate::connection::Connection;
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::restore::{Extras, Metadata, Restoring, Target};
use crate::symbols::isf::{self, Contents, Counts};
use crate::symbols::{Kernel, Origin, collection, folder};
use crate::units::show_bytes;

/// What volatility3 does not do yet, and what does.
pub const FIVE_LEVELS: &str = "the kernel ran with page tables of five levels (LA57): volatility3 lists nothing of such an image and says so nowhere; use drgn, \
                               with exhibit get --as elf";

/// Runs one of the commands.
pub async fn run(home: Option<&Path>, command: SymbolsCommand, out: &Output) -> Result<Code> {
    let SymbolsCommand::Build(args) = command;
    let packed = match args.out.to_string_lossy() {
        name if name.ends_with(".json") => false,
        name if name.ends_with(".json.gz") => true,
        _ => return Err(Failure::new(Code::Usage, "--out must end in .json or .json.gz: by that volatility3 knows symbol files")),
    };
    let sources = match (&args.collection, &args.from, &args.reason) {
        (Some(id), _, Some(reason)) => {
            let id: exhibit_evidence::CollectionId = crate::connection::parse_id(id)?;
            let mut connection = Connection::open(home).await?;
            let identities = args.identity.read()?;
            readable::must_open(&mut connection, None, &BTreeSet::from([id.clone()]), &identities).await?;
            connection.decrypt_with(identities);
            collection::sources(&mut connection, &id.to_string(), reason).await?
        }
        (_, Some(from), _) => folder::sources(&args, from)?,
        _ => return Err(Failure::new(Code::Usage, "give --collection with --reason, or --from")),
    };
    let kernel = sources.read()?;
    let written = write(&args, &kernel, packed)?;
    report(&kernel, &written, out)
}

/// What was written.
struct Written {
    file: String,
    counts: Counts,
    size: u64,
    sha256: Digest,
}

fn write(args: &BuildArgs, kernel: &Kernel, packed: bool) -> Result<Written> {
    use std::os::unix::ffi::OsStrExt as _;
    let parent = args.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = args.out.file_name().ok_or_else(|| Failure::new(Code::Usage, "--out must name a file"))?;
    let target = Target::open(parent, Extras::default())?;
    let mut sink = Sink { target: &target, file: target.file(name.as_bytes(), 0)?, hasher: Hasher::new(), failure: None };
    let contents = Contents { btf: &kernel.btf, symbols: &kernel.symbols, banner: &kernel.banner, digests: kernel.digests };
    let counts = {
        let buffered = std::io::BufWriter::with_capacity(1 << 20, &mut sink);
        if packed {
            let mut gz = flate2::write::GzEncoder::new(buffered, flate2::Compression::default());
            isf::write(&contents, &mut gz).and_then(|counts| gz.finish()?.flush().map(|()| counts))
        } else {
            isf::write(&contents, buffered)
        }
    };
    let counts = match (counts, sink.failure) {
        (_, Some(failure)) => return Err(failure),
        (Err(e), None) => return Err(Failure::new(Code::Input, format!("cannot make the symbols: {e}"))),
        (Ok(counts), None) => counts,
    };
    let size = sink.hasher.bytes();
    let file = target.finish(sink.file, &Metadata { mode: 0o644, ..Metadata::default() })?;
    target.sync()?;
    Ok(Written { file, counts, size, sha256: sink.hasher.finish() })
}

/// The file, its digest, and what went wrong in words that a person understands.
struct Sink<'a> {
    target: &'a Target,
    file: Restoring,
    hasher: Hasher,
    failure: Option<Failure>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Err(failure) = self.target.write(&self.file, self.hasher.bytes(), bytes) {
            self.failure = Some(failure);
            return Err(std::io::Error::other("it cannot be written"));
        }
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn report(kernel: &Kernel, written: &Written, out: &Output) -> Result<Code> {
    let banner = escape_bounded(&String::from_utf8_lossy(kernel.banner.strip_suffix(b"\n").unwrap_or(&kernel.banner)), 300);
    let mut notes = kernel.notes.clone();
    if kernel.five_levels {
        notes.push(FIVE_LEVELS.to_owned());
    }
    let (symbols_from, types_from, slide_from) = kernel.from;
    if out.is_json() {
        out.object(&json!({
            "file": written.file, "size": written.size, "sha256": written.sha256, "banner": banner,
            "symbols": written.counts.symbols, "typed_symbols": written.counts.typed, "types": written.counts.types,
            "modules": kernel.modules, "symbols_of_modules_left_out": kernel.symbols.of_modules, "repeated_names_left_out": kernel.symbols.repeated,
            "slide": kernel.slide, "symbols_from": symbols_from, "types_from": types_from, "slide_from": slide_from,
            "five_level_page_tables": kernel.five_levels, "notes": notes,
        }))?;
        return Ok(Code::Ok);
    }
    let place = |from| match from {
        Origin::File => "the host's file",
        Origin::Image => "the image",
        Origin::Vmcoreinfo => "VMCOREINFO",
        Origin::Assumed => "an assumption",
    };
    let counts = &written.counts;
    out.line(&format!("kernel   {banner}"))?;
    out.line(&format!("symbols  {} ({} with a type), from {}", counts.symbols, counts.typed, place(symbols_from)))?;
    out.line(&format!("types    {}, from {}; modules: {}", counts.types, place(types_from), kernel.modules))?;
    out.line(&format!("slide    {:#x}, from {}", kernel.slide, place(slide_from)))?;
    out.line(&format!("file     {}", escape_bytes(written.file.as_bytes())))?;
    out.line(&format!("size     {}", show_bytes(written.size)))?;
    out.line(&format!("sha256   {}", written.sha256))?;
    for note in &notes {
        out.note(&format!("note: {note}"));
    }
    Ok(Code::Ok)
}
