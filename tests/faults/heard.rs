//! What agents of this process sent and which acknowledgements they heard, by their own account in the log. An
//! acknowledgement is a promise to the agent, so the agent is the one who keeps it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// One collection's account.
#[derive(Debug, Default, Clone)]
pub struct Heard {
    /// (stream, segment) to the digest of what was sent.
    pub sent: BTreeMap<(u64, u64), String>,
    /// Segments that were sent with another digest than before.
    pub altered: Vec<(u64, u64)>,
    /// (stream, segment) up to and including which everything was acknowledged.
    pub acknowledged: BTreeSet<(u64, u64)>,
}

static HEARD: LazyLock<Mutex<HashMap<String, Heard>>> = LazyLock::new(Mutex::default);

fn heard() -> MutexGuard<'static, HashMap<String, Heard>> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a collection's account.
pub fn take(collection: &str) -> Heard {
    heard().remove(collection).unwrap_or_default()
}

/// Begins to listen, once per process. With `loud` the programs' own log goes to standard error as well.
pub fn listen(loud: bool) {
    let listener = Listener.with_filter(tracing_subscriber::filter::Targets::new().with_target("exhibit_agent::upload", Level::DEBUG));
    let said = loud.then(|| {
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(tracing_subscriber::EnvFilter::new(
            "debug,h2=info,hyper=info,hyper_util=info,tower=info,sqlx=info,rustls=info,tonic=info",
        ))
    });
    // A second test of the same process finds it done.
    let _ = tracing_subscriber::registry().with(listener).with(said).try_init();
}

struct Listener;

#[derive(Default)]
struct Fields {
    message: String,
    collection: String,
    sha256: String,
    stream: u64,
    segment: u64,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "stream" => self.stream = value,
            "segment" => self.segment = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = match field.name() {
            "message" => &mut self.message,
            "collection" => &mut self.collection,
            "sha256" => &mut self.sha256,
            _ => return,
        };
        *text = format!("{value:?}");
    }
}

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message, collection, sha256, stream, segment } = fields;
        match message.as_str() {
            "sending" => {
                let mut all = heard();
                let account = all.entry(collection).or_default();
                if account.sent.insert((stream, segment), sha256.clone()).is_some_and(|before| before != sha256) {
                    account.altered.push((stream, segment));
                }
            }
            "acknowledged" => {
                heard().entry(collection).or_default().acknowledged.insert((stream, segment));
            }
            _ => {}
        }
    }
}
