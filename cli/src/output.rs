//! What people and scripts see: text and tables, or JSON; results on stdout, everything else on stderr.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use exhibit_evidence::text::escape;

use crate::exit::{Failure, Result};

/// A call that takes longer is told of: a record is in its log within a second where the store answers.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Where results go.
#[derive(Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Text, or JSON when asked.
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// True when a script listens.
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// True when a person watches stderr: progress bars make sense.
    pub fn is_watched(&self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// Writes one JSON object as one line.
    pub fn object(&self, value: &serde_json::Value) -> Result<()> {
        self.line(&value.to_string())
    }

    /// Writes one line of text; the caller has escaped what is not ours.
    pub fn line(&self, text: &str) -> Result<()> {
        writeln!(std::io::stdout().lock(), "{text}").map_err(|e| cannot_write(&e))
    }

    /// Writes rows: JSON objects with `--json`, else a table of the given columns.
    pub fn rows(&self, columns: &[(&str, &str)], rows: &[serde_json::Value]) -> Result<()> {
        if self.json {
            return rows.iter().try_for_each(|row| self.object(row));
        }
        if rows.is_empty() {
            self.note("nothing found");
            return Ok(());
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(columns.iter().map(|(title, _)| title.to_uppercase()));
        for row in rows {
            table.add_row(columns.iter().map(|(_, key)| if *key == "reason" { sentence(&row[*key]) } else { cell(&row[*key]) }));
        }
        self.line(&table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n"))
    }

    /// Tells a person something on stderr; scripts do not hear it.
    pub fn note(&self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// Waits for the answer to a call that changes something, and tells a person when it is long in coming.
    pub async fn patiently<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = std::pin::pin!(call);
        if let Ok(done) = tokio::time::timeout(ANSWERED_WITHIN, &mut call).await {
            return done;
        }
        let seconds = ANSWERED_WITHIN.as_secs();
        self.note(&format!(
            "the coordinator has not answered for {seconds} s; waiting: its store or its catalog may be away (its /ready says so)"
        ));
        call.await
    }

    /// Reports a failure and gives the exit code.
    pub fn failure(&self, failure: &Failure) -> std::process::ExitCode {
        let mut err = std::io::stderr().lock();
        if failure.message.is_empty() {
            return failure.code.into();
        }
        if self.json {
            let value = serde_json::json!({"error": failure.message, "hint": failure.hint, "exit_code": failure.code as u8});
            let _ = writeln!(err, "{value}");
        } else {
            let _ = writeln!(err, "exhibit: {}", failure.message);
            if let Some(hint) = &failure.hint {
                let _ = writeln!(err, "  try: {hint}");
            }
        }
        failure.code.into()
    }
}

/// A failure to write to stdout. A broken pipe is how `| head` ends a program: no message, and no failure.
pub fn cannot_write(e: &std::io::Error) -> Failure {
    if e.kind() == std::io::ErrorKind::BrokenPipe {
        return Failure::new(crate::exit::Code::Ok, "");
    }
    Failure::new(crate::exit::Code::CannotCreate, format!("cannot write to standard output: {e}"))
}

/// A reason was escaped by whoever wrote it.
fn sentence(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| cell(value), |text| exhibit_evidence::text::one_line(text, 2_000))
}

/// A value in words: what a table's cell and a field show.
pub fn cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => escape(text),
        serde_json::Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{}={}", escape(k), cell(v))).collect();
            if pairs.is_empty() { "-".to_owned() } else { pairs.join(",") }
        }
        serde_json::Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
