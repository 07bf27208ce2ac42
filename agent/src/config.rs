//! `agent.toml` in the state folder: written by `enroll`, read at every start. Every key may be changed by hand.

use std::path::{Path, PathBuf};

use exhibit_proto::transport::client::Address;
use serde::Deserialize;

use crate::pipeline::Memory;

/// The file's name.
pub const FILE: &str = "agent.toml";

/// The agent's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where coordinators are, tried in turn.
    pub coordinators: Vec<Address>,
    /// The policy file.
    pub policy: PathBuf,
    /// Memory of a collection.
    pub memory: Memory,
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("configuration {path}: {problem}")]
pub struct BadConfig {
    path: String,
    problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    coordinators: Vec<String>,
    policy: Option<PathBuf>,
    segments_in_flight: Option<usize>,
    workers: Option<usize>,
}

const FILE_BYTES_MAX: usize = 1 << 20;
const COORDINATORS_MAX: usize = 16;

/// The text that `enroll` writes.
#[must_use]
pub fn text(coordinator: &Address) -> String {
    format!(
        "# Settings of exhibit-agent. Changes take effect at the next start.\n\n\
         # Where coordinators are, HOST:PORT, tried in turn.\n\
         coordinators = [\"{coordinator}\"]\n\n\
         # What this host allows. A relative path is below this folder; `exhibit-agent check-policy --print` shows every key.\n\
         # policy = \"policy.toml\"\n\n\
         # Memory while collecting (exhibit-agent --explain-memory): complete segments that wait to be acknowledged, and\n\
         # threads that compress, the reading one included. Not set: 4, and the number of processors up to 2.\n\
         # segments_in_flight = 4\n\
         # workers = 2\n"
    )
}

impl Config {
    /// Reads the file; one that does not exist means the defaults.
    ///
    /// # Errors
    /// [`BadConfig`] names file, line and key.
    pub fn load(dir: &Path) -> Result<Self, BadConfig> {
        let path = dir.join(FILE);
        let bad = |problem: String| BadConfig { path: path.display().to_string(), problem };
        let text = match crate::capture::read_pseudo(path.as_os_str().as_encoded_bytes(), FILE_BYTES_MAX) {
            Ok(file) if file.cut => return Err(bad(format!("larger than {FILE_BYTES_MAX} bytes"))),
            Ok(file) => String::from_utf8(file.bytes).map_err(|_| bad("not UTF-8 text".to_owned()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(bad(format!("cannot be read: {e}"))),
        };
        Self::parse(&text, dir).map_err(bad)
    }

    fn parse(text: &str, dir: &Path) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        if file.coordinators.len() > COORDINATORS_MAX {
            return Err(format!("coordinators: {} entries, at most {COORDINATORS_MAX} are allowed", file.coordinators.len()));
        }
        let coordinators =
            file.coordinators.iter().map(|c| c.parse().map_err(|e| format!("coordinators: {e}"))).collect::<Result<_, _>>()?;
        let default = Memory::for_processors(std::thread::available_parallelism().map_or(1, usize::from));
        let within = |key: &str, value: Option<usize>, default: usize, max: usize| match value.unwrap_or(default) {
            n if (1..=max).contains(&n) => Ok(n),
            n => Err(format!("{key} = {n}: 1 to {max} are allowed")),
        };
        let memory = Memory {
            segments_in_flight: within("segments_in_flight", file.segments_in_flight, default.segments_in_flight, 64)?,
            workers: within("workers", file.workers, default.workers, 64)?,
        };
        let policy = dir.join(file.policy.unwrap_or_else(|| PathBuf::from(crate::order::policy::FILE)));
        Ok(Self { coordinators, policy, memory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_enrol_writes_is_read_and_mistakes_are_named() {
        let dir = Path::new("/state");
        let address: Address = "[::1]:7443".parse().expect("address");
        let config = Config::parse(&text(&address), dir).expect("own text");
        assert_eq!((config.coordinators, config.policy), (vec![address], PathBuf::from("/state/policy.toml")));
        let set = Config::parse("policy = \"/etc/p.toml\"\nworkers = 3\nsegments_in_flight = 2", dir).expect("parses");
        assert_eq!((set.policy, set.memory), (PathBuf::from("/etc/p.toml"), Memory { segments_in_flight: 2, workers: 3 }));
        for (text, needle) in [
            ("coordinator = \"x:1\"", "coordinator"),
            ("\ncoordinators = [\"x\"]", "'x'"),
            ("workers = 0", "workers"),
            ("\n\nworkers = \"two\"", "line 3"),
        ] {
            let error = Config::parse(text, dir).expect_err(text);
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
