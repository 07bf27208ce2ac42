//! `exhibit-coordinator catalog`: the schema brought up to date, all rows out, all rows in.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use exhibit_evidence::text::escape_bounded;

use crate::catalog::CatalogPlace;
use crate::catalog::postgres::{Alone, PostgresCatalog};
use crate::catalog::transfer::{Moved, TransferError};

/// What to do with a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Bring the schema up to date; make an empty catalog where there is none.
    Migrate,
    /// Write all rows to a new file, `-` for standard output.
    Export(PathBuf),
    /// Fill an empty catalog from such a file.
    Import(PathBuf),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    /// `migrate`, `export` or `import`.
    pub did: &'static str,
    /// Where the catalog is.
    pub catalog: String,
    /// Rows that were moved.
    pub rows: u64,
    /// Whether the catalog was made.
    pub made: bool,
}

/// Why it was not done: one sentence that says what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpkeepError {
    message: String,
    exit: u8,
}

impl UpkeepError {
    fn failed(e: impl fmt::Display) -> Self {
        Self { message: e.to_string(), exit: 1 }
    }

    /// The export's file could not be written, or is there already.
    const fn not_written(message: String) -> Self {
        Self { message, exit: 73 }
    }

    /// The program's exit code for it: 73 when the export could not be written or its file is there already, 1 otherwise.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        self.exit
    }
}

impl fmt::Display for UpkeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UpkeepError {}

/// Does it.
///
/// # Errors
/// [`UpkeepError`]
pub async fn run(place: &CatalogPlace, command: &Command) -> Result<Done, UpkeepError> {
    let (did, rows, made) = match command {
        Command::Migrate => {
            let (catalog, made) = place.open_or_create().await.map_err(UpkeepError::failed)?;
            catalog.close().await;
            ("migrate", 0, made)
        }
        Command::Export(file) => ("export", export(place, file).await?.rows, false),
        Command::Import(file) => {
            let (moved, made) = import(place, file).await?;
            ("import", moved.rows, made)
        }
    };
    Ok(Done { did, catalog: place.describe(), rows, made })
}

impl Done {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        match (self.did, self.made) {
            ("export", _) => format!("{} rows were written from {}.", self.rows, self.catalog),
            ("import", _) => format!("{} rows were imported into {}.", self.rows, self.catalog),
            (_, true) => format!(
                "A new, EMPTY catalog was made: {}. Before a coordinator runs on it, fill it: 'exhibit-coordinator catalog import FILE' or 'exhibit-coordinator reindex --replace'.",
                self.catalog
            ),
            (_, false) => format!("The schema is up to date: {}.", self.catalog),
        }
    }
}

/// Order: a new file (mode 0600: it holds what the catalog holds), all rows, the line that ends it, fsync. What failed
/// half-way is removed.
async fn export(place: &CatalogPlace, file: &Path) -> Result<Moved, UpkeepError> {
    let catalog = place.open().await.map_err(UpkeepError::failed)?;
    let not_out = |e: TransferError| match e {
        TransferError::File(why) => UpkeepError::not_written(why),
        e @ (TransferError::Line { .. } | TransferError::Catalog(_)) => UpkeepError::failed(e),
    };
    let exported = if file == Path::new("-") {
        catalog.export(&mut BufWriter::new(std::io::stdout())).await.map_err(not_out)
    } else {
        let cannot = |e: std::io::Error| UpkeepError::not_written(cannot_write(file, &e));
        let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(cannot)?;
        let mut out = BufWriter::new(out);
        let exported = catalog.export(&mut out).await.map_err(not_out);
        let exported = exported.and_then(|moved| out.flush().and_then(|()| out.get_ref().sync_all()).map(|()| moved).map_err(cannot));
        if exported.is_err() {
            let _ = std::fs::remove_file(file);
        }
        exported
    };
    catalog.close().await;
    exported
}

fn cannot_write(file: &Path, e: &std::io::Error) -> String {
    let remedy = match e.kind() {
        std::io::ErrorKind::AlreadyExists => "; it is left as it is: name a new file",
        std::io::ErrorKind::NotFound => "; name a file in a folder that is there",
        _ => "",
    };
    format!("cannot write {}: {e}{remedy}", shown(file))
}

async fn import(place: &CatalogPlace, file: &Path) -> Result<(Moved, bool), UpkeepError> {
    let input = File::open(file).map_err(|e| UpkeepError::failed(format!("cannot read {}: {e}", shown(file))))?;
    let imported = import_from(place, &mut BufReader::new(input)).await;
    imported.map_err(|e| match e {
        TransferError::Catalog(e) => UpkeepError::failed(format!("nothing was imported: {e}")),
        e => UpkeepError::failed(format!("nothing was imported: {}: {e}", shown(file))),
    })
}

/// An export of a catalog without rows would make one that no coordinator of a deployment in use starts on.
fn with_rows(moved: Moved) -> Result<Moved, TransferError> {
    if moved.rows > 0 {
        return Ok(moved);
    }
    let why = "it has no rows: the catalog that it was written from was empty, was it the right one? Export again from the one that the \
               coordinator used; an empty catalog for a new deployment is made by 'exhibit-coordinator catalog migrate'";
    Err(TransferError::File(why.to_owned()))
}

/// Where there is no catalog, one appears with all rows in it or not at all: an empty one that nobody asked for would be taken
/// for the catalog at the next start.
async fn import_from(place: &CatalogPlace, input: &mut BufReader<File>) -> Result<(Moved, bool), TransferError> {
    if let CatalogPlace::Postgres(settings) = place
        && !PostgresCatalog::is_there(settings).await?
    {
        let mut alone = Alone::take(settings).await?;
        let fresh = alone.fresh().await?;
        let imported = fresh.import(input).await.and_then(with_rows);
        fresh.close().await;
        let moved = imported?;
        alone.exchange().await?;
        return Ok((moved, true));
    }
    let (catalog, made) = place.open_or_create().await?;
    let imported = catalog.import(input).await.and_then(with_rows);
    catalog.close().await;
    drop(catalog);
    if let (Err(_), true, CatalogPlace::File(path)) = (&imported, made, place) {
        let _ = std::fs::remove_file(path);
    }
    Ok((imported?, made))
}

fn shown(path: &Path) -> String {
    escape_bounded(&path.to_string_lossy(), 200)
}
