//! Several coordinators on one PostgreSQL: rights in a table, life by an advisory lock, notices by LISTEN and NOTIFY.
//!
//! Each coordinator keeps one connection on which it listens and holds an advisory lock of its own number. When the process
//! dies, the server sees the connection end and drops the lock: others then take over its rights at once. When it falls
//! silent otherwise, its rights end with their time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use exhibit_evidence::id::AgentId;
use sqlx::postgres::{PgListener, PgPool};
use sqlx::{PgConnection, Row as _};
use tokio::sync::broadcast;

use super::dialect::patient;
use super::error::map;
use super::{APPLICATION_ID, connected};
use crate::catalog::peers::{Grant, Heard, NOTICE_BYTES_MAX, Peers, Whereabouts};
use crate::catalog::{Answer, CatalogError};
use crate::clock;

/// The advisory locks of living coordinators; beside the one of the schema's making.
pub(super) const LIFE_SPACE: i32 = APPLICATION_ID as i32 ^ 1;
const CHANNEL: &str = "exhibit";
/// Notices that a slow listener may be behind; then it looks at everything.
const BEHIND_MAX: usize = 4_096;
/// Pause before a lost connection is made anew.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the connection may be silent before it is asked whether it is there, and how long it may take to say so.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// An answer about the time that took longer says too little.
const CLOCK_ASK_MAX_NS: i64 = 2_000_000_000;

/// True for a coordinator whose number is put in place of `{}`: its connection is there.
macro_rules! alive {
    ($holder:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM pg_locks k JOIN pg_database d ON d.oid = k.database
               WHERE d.datname = current_database() AND k.locktype = 'advisory' AND k.objsubid = 2 AND k.granted
                 AND k.classid::bigint = $1 AND k.objid::bigint = ",
            $holder,
            ")"
        )
    };
}
pub(super) use alive;

/// This coordinator among the others.
#[derive(Debug)]
pub struct PostgresPeers {
    pool: PgPool,
    me: i32,
    heard: broadcast::Sender<Heard>,
    epoch: Arc<AtomicU64>,
    listener: tokio::task::JoinHandle<()>,
}

impl PostgresPeers {
    /// Begins to live and to listen.
    pub(super) fn begin(pool: &PgPool) -> Self {
        let me = (i32::from_be_bytes(clock::random()) & i32::MAX).max(1);
        let heard = broadcast::Sender::new(BEHIND_MAX);
        let epoch = Arc::new(AtomicU64::new(0));
        let listener = tokio::spawn(listen(pool.clone(), me, heard.clone(), Arc::clone(&epoch)));
        Self { pool: pool.clone(), me, heard, epoch, listener }
    }
}

impl Drop for PostgresPeers {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Keeps the connection that is this coordinator's life, and passes on what comes.
async fn listen(pool: PgPool, me: i32, heard: broadcast::Sender<Heard>, epoch: Arc<AtomicU64>) {
    let mut first = true;
    loop {
        let ended = listen_once(&pool, me, &heard, first).await;
        first = false;
        // To the others this process is dead until it is connected again.
        epoch.fetch_add(1, Ordering::AcqRel);
        match ended {
            Ok(()) => tracing::warn!("the connection to PostgreSQL that notices come by was lost; making a new one"),
            Err(error) => tracing::warn!(error = %map(error), "notices of other coordinators cannot be listened to; next try soon"),
        }
        if pool.is_closed() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Order: the others see that this process has agents to enter again, then that it lives, then it enters them (`replica::follow`).
async fn listen_once(pool: &PgPool, me: i32, heard: &broadcast::Sender<Heard>, first: bool) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    // Whoever comes first after a loss says when it was.
    sqlx::query("INSERT INTO entered (replica) VALUES (0) ON CONFLICT (replica) DO NOTHING").execute(&mut listener).await?;
    // A process that begins has none.
    let say = if first {
        "INSERT INTO entered (replica) VALUES ($1) ON CONFLICT (replica) DO NOTHING"
    } else {
        "DELETE FROM entered WHERE replica = $1"
    };
    sqlx::query(say).bind(me).execute(&mut listener).await?;
    sqlx::query("SELECT pg_advisory_lock($1, $2)").bind(LIFE_SPACE).bind(me).execute(&mut listener).await?;
    listener.listen(CHANNEL).await?;
    // Nobody may be listening here.
    let _ = heard.send(Heard::Gap);
    loop {
        match tokio::time::timeout(LOOK_EVERY, listener.try_recv()).await {
            Ok(Ok(Some(notice))) if notice.payload().len() <= NOTICE_BYTES_MAX => {
                let _ = heard.send(Heard::Notice(notice.payload().to_owned()));
            }
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(e)) => return Err(e),
            // Silence. A connection that a network dropped without a word looks just so.
            Err(_) => {
                let asked = sqlx::query("SELECT 1").execute(&mut listener);
                let Ok(answer) = tokio::time::timeout(ANSWER_WITHIN, asked).await else { return Ok(()) };
                answer?;
            }
        }
    }
}

pub(super) fn seconds(life: Duration) -> f64 {
    life.as_secs_f64()
}

fn number(mark: Option<u64>) -> Result<Option<i64>, CatalogError> {
    mark.map(|m| i64::try_from(m).map_err(|_| CatalogError::Failed(format!("{m} is too large for the catalog")))).transpose()
}

async fn is_seen(c: &mut PgConnection, me: i32) -> Result<bool, CatalogError> {
    let seen = sqlx::query_scalar::<_, bool>(concat!("SELECT ", alive!("$2"))).bind(i64::from(LIFE_SPACE)).bind(i64::from(me));
    seen.fetch_one(c).await.map_err(map)
}

async fn take(c: &mut PgConnection, me: i32, name: &str, life: Duration) -> Result<Option<Grant>, CatalogError> {
    // Whoever does not see this coordinator live would take the right over at once.
    if !is_seen(c, me).await? {
        return Err(CatalogError::Busy("this coordinator's own connection to PostgreSQL is being made".to_owned()));
    }
    let token = i64::from_be_bytes(clock::random());
    let made = sqlx::query(
        "INSERT INTO rights (name, holder, token, until) VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))
         ON CONFLICT (name) DO NOTHING",
    );
    let made = made.bind(name).bind(me).bind(token).bind(seconds(life)).execute(&mut *c).await.map_err(map)?;
    if made.rows_affected() == 1 {
        return Ok(Some(Grant { token, mark: None }));
    }
    let there = sqlx::query(concat!(
        "SELECT holder, mark, until < clock_timestamp() AS over, ",
        alive!("holder"),
        " AS alive FROM rights WHERE name = $2 FOR UPDATE OF rights"
    ));
    let there = there.bind(i64::from(LIFE_SPACE)).bind(name).fetch_optional(&mut *c).await.map_err(map)?;
    // Given back and gone in this moment: the next try makes it.
    let Some(there) = there else { return Ok(None) };
    let holder: Option<i32> = there.try_get("holder").map_err(map)?;
    let (over, alive): (bool, bool) = (there.try_get("over").map_err(map)?, there.try_get("alive").map_err(map)?);
    // Our own lock may be away for a moment after the connection was lost: that is no reason to take what another task of ours has.
    let taken = holder.is_some_and(|holder| !over && (alive || holder == me));
    if taken {
        return Ok(None);
    }
    let mark: Option<i64> = there.try_get("mark").map_err(map)?;
    let changed = sqlx::query(
        "UPDATE rights SET holder = $2, token = $3, mark = NULL, until = clock_timestamp() + make_interval(secs => $4) WHERE name = $1",
    );
    changed.bind(name).bind(me).bind(token).bind(seconds(life)).execute(&mut *c).await.map_err(map)?;
    // What somebody left who did not give it back is old.
    let mark = mark.filter(|_| holder.is_none()).and_then(|m| u64::try_from(m).ok());
    Ok(Some(Grant { token, mark }))
}

impl Peers for PostgresPeers {
    fn me(&self) -> i32 {
        self.me
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn is_seen(&self) -> Answer<'_, bool> {
        Box::pin(patient(async move {
            let mut connection = self.pool.acquire().await.map_err(map)?;
            is_seen(&mut connection, self.me).await
        }))
    }

    fn take(&self, name: String, life: Duration) -> Answer<'_, Option<Grant>> {
        Box::pin(patient(async move {
            let mut tx = self.pool.begin().await.map_err(map)?;
            let granted = take(&mut tx, self.me, &name, life).await?;
            tx.commit().await.map_err(map)?;
            Ok(granted)
        }))
    }

    fn renew(&self, name: String, token: i64, life: Duration) -> Answer<'_, bool> {
        Box::pin(patient(async move {
            let renewed = sqlx::query(
                "UPDATE rights SET until = clock_timestamp() + make_interval(secs => $4) WHERE name = $1 AND holder = $2 AND token = $3",
            );
            let done = renewed.bind(&name).bind(self.me).bind(token).bind(seconds(life)).execute(&self.pool).await.map_err(map)?;
            Ok(done.rows_affected() == 1)
        }))
    }

    fn give(&self, name: String, token: i64, mark: Option<u64>) -> Answer<'_, ()> {
        Box::pin(patient(async move {
            let mark = number(mark)?;
            // A right without a mark leaves nothing behind, so that the table does not grow with every collection.
            let given = if mark.is_some() {
                sqlx::query("UPDATE rights SET holder = NULL, mark = $4 WHERE name = $1 AND holder = $2 AND token = $3").bind(&name)
            } else {
                sqlx::query("DELETE FROM rights WHERE name = $1 AND holder = $2 AND token = $3 AND $4::bigint IS NULL").bind(&name)
            };
            given.bind(self.me).bind(token).bind(mark).execute(&self.pool).await.map_err(map)?;
            Ok(())
        }))
    }

    fn mark(&self, name: String) -> Answer<'_, Option<u64>> {
        Box::pin(patient(async move {
            let mark = sqlx::query_scalar::<_, Option<i64>>("SELECT mark FROM rights WHERE name = $1");
            let mark = mark.bind(&name).fetch_optional(&self.pool).await.map_err(map)?.flatten();
            Ok(mark.and_then(|m| u64::try_from(m).ok()))
        }))
    }

    fn first_mark(&self, name: String, mark: u64) -> Answer<'_, ()> {
        Box::pin(patient(async move {
            let mark = number(Some(mark))?;
            let left = sqlx::query(
                "INSERT INTO rights (name, token, until, mark) VALUES ($1, 0, clock_timestamp(), $2) ON CONFLICT (name) DO NOTHING",
            );
            left.bind(&name).bind(mark).execute(&self.pool).await.map_err(map)?;
            Ok(())
        }))
    }

    fn enter(&self, agent: AgentId, instance: [u8; 16], window: Duration) -> Answer<'_, bool> {
        Box::pin(patient(async move {
            let mut tx = self.pool.begin().await.map_err(map)?;
            let returned = connected::enter(&mut tx, self.me, &agent, &instance, window).await?;
            tx.commit().await.map_err(map)?;
            Ok(returned)
        }))
    }

    fn enter_again(&self, agents: Vec<(AgentId, [u8; 16], Duration)>) -> Answer<'_, ()> {
        Box::pin(patient(connected::enter_again(&self.pool, self.me, agents)))
    }

    fn entered(&self) -> Answer<'_, ()> {
        Box::pin(patient(connected::entered(&self.pool, self.me)))
    }

    fn win(&self, agent: AgentId, instance: [u8; 16], since: Duration) -> Answer<'_, bool> {
        Box::pin(patient(connected::win(&self.pool, self.me, agent, instance, since)))
    }

    fn is_settled(&self) -> Answer<'_, bool> {
        Box::pin(patient(connected::is_settled(&self.pool, self.me)))
    }

    fn leave(&self, agent: AgentId, instance: [u8; 16]) -> Answer<'_, ()> {
        Box::pin(patient(async move {
            let left = sqlx::query("UPDATE sessions SET replica = NULL WHERE agent = $1 AND replica = $2 AND instance = $3");
            left.bind(agent.to_string()).bind(self.me).bind(&instance[..]).execute(&self.pool).await.map_err(map)?;
            Ok(())
        }))
    }

    fn whereabouts(&self, agents: Vec<AgentId>) -> Answer<'_, BTreeMap<AgentId, Whereabouts>> {
        Box::pin(patient(async move {
            let names: Vec<String> = agents.iter().map(ToString::to_string).collect();
            let rows = sqlx::query(concat!(
                "SELECT agent, replica, instance FROM sessions WHERE agent = ANY($2) AND replica IS NOT NULL AND ",
                alive!("replica")
            ));
            let rows = rows.bind(i64::from(LIFE_SPACE)).bind(names).fetch_all(&self.pool).await.map_err(map)?;
            let mut there = BTreeMap::new();
            for row in rows {
                let agent: String = row.try_get("agent").map_err(map)?;
                let instance: Vec<u8> = row.try_get("instance").map_err(map)?;
                let replica: i32 = row.try_get("replica").map_err(map)?;
                let (Ok(agent), Ok(instance)) = (agent.parse(), <[u8; 16]>::try_from(instance)) else {
                    return Err(CatalogError::Damaged("sessions: a row is not one that a coordinator wrote".to_owned()));
                };
                there.insert(agent, Whereabouts { replica, instance });
            }
            Ok(there)
        }))
    }

    fn tell(&self, notices: Vec<String>) -> Answer<'_, ()> {
        Box::pin(patient(async move {
            let told = sqlx::query("SELECT pg_notify($1, notice) FROM unnest($2::text[]) AS notice");
            told.bind(CHANNEL).bind(notices).execute(&self.pool).await.map_err(map)?;
            Ok(())
        }))
    }

    fn hear(&self) -> broadcast::Receiver<Heard> {
        self.heard.subscribe()
    }

    fn clock_ahead_ns(&self) -> Answer<'_, i64> {
        Box::pin(patient(async move {
            let asked = clock::now().unix_ns();
            let there = sqlx::query_scalar::<_, i64>("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
            let there_us = there.fetch_one(&self.pool).await.map_err(map)?;
            let answered = clock::now().unix_ns();
            if answered.saturating_sub(asked) > CLOCK_ASK_MAX_NS {
                return Err(CatalogError::Busy("the database took too long to tell the time".to_owned()));
            }
            let here = asked.midpoint(answered);
            Ok(there_us.saturating_mul(1_000).saturating_sub(here))
        }))
    }
}
