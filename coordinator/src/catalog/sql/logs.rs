//! How long logs are known to be.

use super::{Connection, blob, decode, int, map};
use crate::catalog::{CatalogError, Published};

type Result<T> = std::result::Result<T, CatalogError>;

pub async fn published(c: &mut Connection, log: String) -> Result<Option<Published>> {
    let row = sqlx::query("SELECT size, root FROM published WHERE log = $1").bind(log).fetch_optional(c).await.map_err(map)?;
    row.as_ref().map(decode::published).transpose()
}

pub async fn set_published(c: &mut Connection, log: String, head: Published) -> Result<()> {
    sqlx::query(
        "INSERT INTO published (log, size, root) VALUES ($1, $2, $3)
         ON CONFLICT (log) DO UPDATE SET size = excluded.size, root = excluded.root WHERE published.size < excluded.size",
    )
    .bind(log)
    .bind(int(head.size)?)
    .bind(blob(head.root))
    .execute(c)
    .await
    .map_err(map)?;
    Ok(())
}
