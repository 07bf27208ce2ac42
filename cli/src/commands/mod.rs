//! One file a command; here they are found.

mod agents;
pub mod anchor;
mod approve;
mod asker;
mod cases;
mod collect;
mod confirm;
mod dispose;
mod entitled;
pub mod get;
mod holder;
pub mod items;
mod keeping;
mod log;
mod opening;
mod person;
pub mod profiles;
pub mod read;
pub mod readable;
pub mod symbols;
mod waiting;
mod watch;
mod witness;

use clap::CommandFactory as _;

use crate::args::{Args, Command, TokenCommand};
use crate::connection::Connection;
use crate::exit::{Code, Result};
use crate::output::Output;

/// Runs the command.
pub async fn run(args: Args, out: &Output) -> Result<Code> {
    let home = args.home.as_deref();
    match args.command {
        Command::Profiles(which) => profiles::run(which, out),
        Command::Witness(command) => witness::run(home, command, out).await,
        Command::Person(command) => person::run(home, command, out).await,
        Command::Anchor(command) => anchor::run(home, command, out),
        Command::Symbols(command) => symbols::run(home, command, out).await,
        Command::Completions { shell } => {
            // Into memory first: the library panics where the reader of a pipe is gone.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "exhibit", &mut script);
            let script = String::from_utf8_lossy(&script);
            if out.is_json() {
                out.object(&serde_json::json!({"shell": shell.to_string(), "script": script}))?;
            } else {
                out.line(script.trim_end_matches('\n'))?;
            }
            Ok(Code::Ok)
        }
        command => {
            let mut connection = Connection::open(home).await?;
            connection.set_watched(out.is_watched());
            match command {
                Command::Case(command) => cases::run(&mut connection, command, out).await,
                Command::Agents(command) => agents::run(&mut connection, command, out).await,
                Command::Token(TokenCommand::Create { ttl, uses, labels }) => agents::token(&mut connection, ttl, uses, &labels, out).await,
                Command::Collect(command) => collect::run(&mut connection, *command, out).await,
                Command::Approve(command) => approve::run(&mut connection, command, out).await,
                Command::Watch(command) => watch::run(&mut connection, command, out).await,
                Command::Collections(which) => watch::list(&mut connection, which, out).await,
                Command::Items(command) => items::run(&mut connection, command, out).await,
                Command::Cat(command) => read::cat(&mut connection, command).await,
                Command::Get(command) => get::run(&mut connection, command, out).await,
                Command::Cancel(command) => watch::cancel(&mut connection, command, out).await,
                Command::Transfer(command) => keeping::transfer(&mut connection, command, out).await,
                Command::Dispose(command) => dispose::run(&mut connection, command, out).await,
                Command::Log(command) => log::run(&mut connection, command, out).await,
                Command::Export(command) => crate::handoff::export(&mut connection, command, out).await,
                Command::Whoami => agents::whoami(&connection, out),
                Command::Anchor(_)
                | Command::Profiles(_)
                | Command::Witness(_)
                | Command::Person(_)
                | Command::Symbols(_)
                | Command::Completions { .. } => Ok(Code::Ok),
            }
        }
    }
}
