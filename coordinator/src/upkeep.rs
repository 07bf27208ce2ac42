//! `exhibit-coordinator catalog`: the schema brought up to date, all rows out, all rows in.

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

/// Does it.
///
/// # Errors
/// One sentence that says what helps.
pub async fn run(place: &CatalogPlace, command: &Command) -> Result<Done, String> {
    let (did, rows, made) = match command {
        Command::Migrate => {
            let (catalog, made) = place.open_or_create().await.map_err(|e| e.to_string())?;
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
async fn export(place: &CatalogPlace, file: &Path) -> Result<Moved, String> {
    let catalog = place.open().await.map_err(|e| e.to_string())?;
    let exported = if file == Path::new("-") {
        catalog.export(&mut BufWriter::new(std::io::stdout())).await.map_err(|e| e.to_string())
    } else {
        let cannot = |e: std::io::Error| format!("cannot write {}: {e}", shown(file));
        let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(cannot)?;
        let mut out = BufWriter::new(out);
        let exported = catalog.export(&mut out).await.map_err(|e| e.to_string());
        let exported = exported.and_then(|moved| out.flush().and_then(|()| out.get_ref().sync_all()).map(|()| moved).map_err(cannot));
        if exported.is_err() {
            let _ = std::fs::remove_file(file);
        }
        exported
    };
    catalog.close().await;
    exported
}

async fn import(place: &CatalogPlace, file: &Path) -> Result<(Moved, bool), String> {
    let input = File::open(file).map_err(|e| format!("cannot read {}: {e}", shown(file)))?;
    let imported = import_from(place, &mut BufReader::new(input)).await;
    imported.map_err(|e| match e {
        TransferError::Catalog(e) => format!("nothing was imported: {e}"),
        e => format!("nothing was imported: {}: {e}", shown(file)),
    })
}

/// Where there is no catalog, one appears with all rows in it or not at all: an empty one that nobody asked for would be taken
/// for the catalog at the next start.
async fn import_from(place: &CatalogPlace, input: &mut BufReader<File>) -> Result<(Moved, bool), TransferError> {
    if let CatalogPlace::Postgres(settings) = place
        && !PostgresCatalog::is_there(settings).await?
    {
        let mut alone = Alone::take(settings).await?;
        let fresh = alone.fresh().await?;
        let imported = fresh.import(input).await;
        fresh.close().await;
        let moved = imported?;
        alone.exchange().await?;
        return Ok((moved, true));
    }
    let (catalog, made) = place.open_or_create().await?;
    let imported = catalog.import(input).await;
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
