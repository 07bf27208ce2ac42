//! What `/ready` asks of each dependency, and the words for what is wrong.

use std::time::Duration;

use exhibit_evidence::stream::SEGMENT_BYTES_MAX;
use tokio::time::timeout;

use super::Check;
use crate::parts::Parts;
use crate::serve::clocks_apart;
use crate::store::{Refusal, can_write};

/// A dependency that does not answer within this is away.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// A catalog that is silent for so long is looked at in another way as well, to learn why, while it is waited for.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// A store that had no room is tried with a small write when nobody wrote for so long.
const TRY_AFTER: Duration = Duration::from_secs(2);
/// The same while uploads are paused, which try it themselves, each after 15 seconds at most: a small write may find room where a segment
/// finds none.
const TRY_BESIDE_UPLOADS: Duration = Duration::from_secs(20);

/// Every dependency, asked at once.
pub(super) async fn all(parts: &Parts) -> Vec<Check> {
    let (catalog, store, clock, peers) = tokio::join!(catalog(parts), store(parts), clock(parts), peers(parts));
    let answers = catalog.is_ok();
    vec![
        Check::new("catalog", catalog.err()),
        Check::new("store", store.err()),
        Check::new("clock", by_catalog(clock, answers).err()),
        Check::new("peers", by_catalog(peers, answers).err()),
    ]
}

async fn catalog(parts: &Parts) -> Result<(), String> {
    let mut healthy = parts.catalog.healthy();
    if let Ok(done) = timeout(SILENT_AFTER, &mut healthy).await {
        return done.map_err(|e| e.to_string());
    }
    let rest = CHECK_TIMEOUT.saturating_sub(SILENT_AFTER);
    match tokio::join!(timeout(rest, healthy), timeout(rest, parts.catalog.silence())) {
        (Ok(done), _) => done.map_err(|e| e.to_string()),
        (Err(_), Ok(why)) => Err(why.to_string()),
        (Err(_), Err(_)) => Err(late("the catalog")),
    }
}

/// One small listing: to a question for one object a bucket that is gone answers like one that lacks it. Then what is known of writes.
async fn store(parts: &Parts) -> Result<(), String> {
    let works = async {
        parts.store.list("probe", None).await.map_err(|e| e.to_string())?;
        writes(parts).await
    };
    let silent = || format!("{} (see to the store and the way to it: no error came back either)", late(&parts.store.describe()));
    timeout(CHECK_TIMEOUT, works).await.unwrap_or_else(|_| Err(silent()))
}

/// Whether the last write was refused for a reason that lasts, and whether there is room. One that was only late, uploads say when they
/// pause. Where there was no room it is found out here that there is some again, because nobody may be writing.
async fn writes(parts: &Parts) -> Result<(), String> {
    let refusal = parts.store.refuses_writes();
    let too_large = refusal.as_ref().and_then(|refusal| refusal.full);
    if let Some(refusal) = refusal.as_ref().filter(|refusal| refusal.full.is_none()) {
        return Err(refused(refusal));
    }
    let free = parts.store.free_bytes().await.map_err(|e| e.to_string())?;
    let (min, paused) = (parts.uploads.free_bytes_min(), parts.progress.paused_count() > 0);
    let need = needed(min, too_large, paused);
    if let Some(free) = free.filter(|free| *free < need) {
        let lacks = format!("{free} bytes free, {need} are needed (limits.free_bytes_min is {min})");
        return Err(match &refusal {
            Some(refusal) => format!("{}; {lacks}", refused(refusal)),
            None => format!("{}: {lacks}; uploads wait: free space on its disk, or move the store to a larger one", parts.store.describe()),
        });
    }
    let Some(refusal) = refusal else { return Ok(()) };
    let try_after = if paused { TRY_BESIDE_UPLOADS } else { TRY_AFTER };
    if refusal.at.elapsed() < try_after {
        return Err(refused(&refusal));
    }
    can_write(&*parts.store).await.map_err(|e| format!("writes are refused: {e}"))
}

fn refused(refusal: &Refusal) -> String {
    format!("writes are refused: {}", refusal.why)
}

/// Bytes that must be free: the reserve, and beside it what was refused, or a segment where uploads wait, perhaps for just that.
fn needed(min: u64, too_large: Option<u64>, paused: bool) -> u64 {
    let segment = if paused { SEGMENT_BYTES_MAX as u64 } else { 0 };
    min.saturating_add(too_large.unwrap_or(0).max(segment))
}

/// Among several coordinators: whether the others see this one, without which it has no rights. As [`by_catalog`] takes it.
async fn peers(parts: &Parts) -> Result<Option<String>, String> {
    let Some(peers) = parts.leases.peers() else { return Ok(None) };
    let seen = timeout(CHECK_TIMEOUT, peers.is_seen()).await.map_err(|_| late("PostgreSQL"))?.map_err(|e| e.to_string())?;
    Ok((!seen).then(|| "the connection to PostgreSQL by which others see this coordinator is being made".to_owned()))
}

/// As [`by_catalog`] takes it.
async fn clock(parts: &Parts) -> Result<Option<String>, String> {
    let apart = timeout(CHECK_TIMEOUT, clocks_apart(&parts.leases)).await.map_err(|_| late("PostgreSQL"))?.map_err(|e| e.to_string())?;
    Ok(apart.map(|apart| format!("{apart}; nobody is served until they agree, then it goes on by itself")))
}

/// What only the catalog can tell: what is wrong, if anything, or why it is not known. One cause is told once, by the catalog's own check:
/// no clock is wrong because a database is away.
fn by_catalog(said: Result<Option<String>, String>, catalog_answers: bool) -> Result<(), String> {
    match said {
        Ok(None) => Ok(()),
        Ok(Some(wrong)) => Err(wrong),
        Err(_) if !catalog_answers => Err("not known: the catalog does not answer".to_owned()),
        Err(why) => Err(format!("not known: {why}")),
    }
}

fn late(who: &str) -> String {
    format!("{who}: no answer within {} s", CHECK_TIMEOUT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_catalog_alone_can_tell_is_not_known_without_it_and_no_cause_of_its_own() {
        let late = || Err(late("PostgreSQL"));
        assert_eq!(by_catalog(Ok(None), false), Ok(()), "there is nobody to ask for");
        assert_eq!(by_catalog(Ok(Some("6 s ahead".to_owned())), false), Err("6 s ahead".to_owned()), "it was seen");
        assert_eq!(by_catalog(late(), false), Err("not known: the catalog does not answer".to_owned()));
        assert_eq!(by_catalog(late(), true), Err("not known: PostgreSQL: no answer within 3 s".to_owned()));
    }

    #[test]
    fn the_reserve_is_needed_and_beside_it_what_found_no_room() {
        assert_eq!(needed(100, None, false), 100);
        assert_eq!(needed(100, Some(7), false), 107);
        assert_eq!(needed(100, Some(7), true), 100 + SEGMENT_BYTES_MAX as u64, "an upload waits for the reserve and its segment");
    }
}
