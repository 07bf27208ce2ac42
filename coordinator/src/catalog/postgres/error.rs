//! What the driver and the server said, as what to do about it.

use exhibit_evidence::text::escape_bounded;

use crate::catalog::CatalogError;

/// Longest text of the server in one of our errors.
const TEXT_MAX: usize = 500;

/// An error of an operation. Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub fn map(e: sqlx::Error) -> CatalogError {
    let text = escape_bounded(&e.to_string(), TEXT_MAX);
    match &e {
        sqlx::Error::Database(db) => by_code(&db.code().unwrap_or_default(), escape_bounded(db.message(), TEXT_MAX)),
        sqlx::Error::PoolTimedOut => CatalogError::Busy("no connection to PostgreSQL within 5 s".to_owned()),
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => CatalogError::Busy(format!("the connection to PostgreSQL was lost: {text}")),
        // What a server says that dies in the middle of a message.
        sqlx::Error::Protocol(_) => CatalogError::Busy(format!("the connection to PostgreSQL broke: {text}")),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => CatalogError::Damaged(text),
        _ => CatalogError::Failed(text),
    }
}

fn by_code(code: &str, text: String) -> CatalogError {
    match code {
        // Serialization failure, deadlock, lock or statement timeout, cancelled, too many connections; the server is ending,
        // crashed, or starting; no connection.
        "40001" | "40P01" | "55P03" | "57014" | "53300" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => CatalogError::Busy(text),
        _ if code.starts_with("08") => CatalogError::Busy(text),
        // A character that PostgreSQL cannot hold (NUL): nothing that this program writes, so it is another row.
        "22021" => CatalogError::Conflict(text),
        _ if code.starts_with("23") => CatalogError::Conflict(text),
        "53100" => CatalogError::Failed(format!("{text} (the disk of the PostgreSQL server is full: free space on it)")),
        "25006" => CatalogError::Failed(format!("{text} (the server is a standby or read-only: point catalog.postgres to the primary)")),
        "42501" => CatalogError::Failed(format!("{text} (the role lacks a right: see docs/operations/catalog.md)")),
        // A table or column that is not there, and what the server itself calls corrupt.
        "42P01" | "42703" | "XX001" | "XX002" => CatalogError::Damaged(text),
        _ => CatalogError::Failed(format!("{text} (PostgreSQL, SQLSTATE {code})")),
    }
}

/// `cannot_connect_now`: the server is starting, recovering or ending.
const STARTING: &str = "57P03";

/// True when the server is there and says that it takes no connections yet.
pub fn is_starting(e: &sqlx::Error) -> bool {
    e.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == STARTING)
}

/// Why the first connection failed: setting, reason and what to do.
pub fn unreachable(place: &str, e: &sqlx::Error) -> CatalogError {
    const TLS: &str = "check sslmode and sslrootcert in catalog.postgres, and that the server has TLS on with a certificate for that name";
    let code = e.as_database_error().and_then(|db| db.code().map(std::borrow::Cow::into_owned)).unwrap_or_default();
    let said = e.as_database_error().map_or_else(|| e.to_string(), |db| db.message().to_owned());
    let said = escape_bounded(&said, TEXT_MAX);
    let remedy = match (e, code.as_str()) {
        (_, "28P01" | "28000") => {
            "check the user in catalog.postgres, the password in the file of catalog.password_file, and the server's pg_hba.conf"
        }
        (_, STARTING) => {
            "it still takes no connections: wait until pg_isready says that it does, and look at the server's log for what keeps it"
        }
        (_, "3D000") => "make the database first: docs/operations/catalog.md has the commands",
        (_, "53300") => "the server has no connection left: raise its max_connections or end other clients",
        (sqlx::Error::Tls(_), _) => TLS,
        // So the TLS library tells that it did not like what came.
        (sqlx::Error::Io(e), _) if e.kind() == std::io::ErrorKind::InvalidData => TLS,
        (sqlx::Error::Io(_), _) => "is the server running, and the address right? try: pg_isready -h HOST -p PORT",
        _ => "try the same with psql from this machine",
    };
    CatalogError::Failed(format!("catalog.postgres: cannot use {place}: {said}; {remedy}"))
}
