//! `exhibit`: the responder's and counsel's hands. This file only wires: arguments in, one command, an exit code out.
#![forbid(unsafe_code)]

mod args;
mod clock;
mod commands;
mod connection;
mod exit;
mod order;
mod output;
mod restore;
mod units;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            // Help and version are not errors; clap's own code for wrong usage is 2, ours is EX_USAGE.
            return if e.use_stderr() { exit::Code::Usage.into() } else { std::process::ExitCode::SUCCESS };
        }
    };
    let out = output::Output::new(args.json);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return out.failure(&exit::Failure::new(exit::Code::Failure, format!("cannot start: {e}"))),
    };
    match runtime.block_on(commands::run(args, &out)) {
        Ok(code) => code.into(),
        Err(failure) => out.failure(&failure),
    }
}
