//! `exhibit`: the responder's and counsel's hands. This file only wires: arguments in, one command, an exit code out.
#![forbid(unsafe_code)]

mod args;
mod clock;
mod commands;
mod connection;
mod convert;
mod document;
mod exit;
mod handoff;
mod interrupt;
mod memory;
mod order;
mod output;
mod restore;
mod symbols;
mod units;
mod witness;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let e = bounded(e);
            // Help and version are not errors; clap's own code for wrong usage is 2, ours is EX_USAGE.
            if e.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
                return output::Output::new(true).failure(&usage(&e));
            }
            let _ = e.print();
            return if e.use_stderr() { exit::Code::Usage.into() } else { std::process::ExitCode::SUCCESS };
        }
    };
    let out = output::Output::new(args.json);
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(e) => return out.failure(&exit::Failure::new(exit::Code::Failure, format!("cannot start: {e}"))),
    };
    match runtime.block_on(commands::run(args, &out)) {
        Ok(code) => code.into(),
        Err(failure) => out.failure(&failure),
    }
}

/// The command runs on the first thread, and connections live on one of their own: the coordinator asks now and then whether they do, and a
/// command that computes meanwhile (a format is made, a large file is hashed) would not answer and lose its connection.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

/// Characters of a wrong value that are shown.
const VALUE_SHOWN_MAX: usize = 80;

/// A value that is wrong because it is long is not repeated whole.
fn bounded(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(value)) = error.get(kind)
            && value.chars().count() > VALUE_SHOWN_MAX
        {
            let shown = exhibit_evidence::text::one_line(value, VALUE_SHOWN_MAX);
            error.insert(kind, ContextValue::String(shown));
        }
    }
    error
}

/// Wrong usage, for a script.
fn usage(error: &clap::Error) -> exit::Failure {
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or(&text).trim_start_matches("error: ");
    let words: Vec<&str> = said.split_whitespace().collect();
    exit::Failure::new(exit::Code::Usage, words.join(" ")).hint("--help shows the options")
}

#[cfg(test)]
mod tests {
    #[test]
    fn connections_live_while_a_command_computes() {
        let answered = super::runtime().expect("runtime").block_on(async {
            let (tell, told) = std::sync::mpsc::channel();
            let task = tokio::spawn(async move { tell.send(()).is_ok() });
            // Holds this thread as a long computation does.
            let answered = told.recv_timeout(std::time::Duration::from_secs(30)).is_ok();
            task.await.is_ok() && answered
        });
        assert!(answered);
    }
}
