//! The commands. `serve`, `demo` and `check` work on a settings file; all the others are clients of a running gateway's
//! admin API and know nothing that it does not tell them. The store can be opened by one process at a time: only what is done
//! to a stopped gateway's (`store …`, `journal archive`) opens it, by way of the app.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 gateway not reachable.

mod check;
mod client;
mod confirm;
mod explain;
mod failure;
mod health;
mod journal;
mod key;
mod locate;
mod machine;
mod manpage;
mod named;
mod operator;
mod output;
mod private;
mod request;
mod stopped;
mod store;
mod when;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::app::{self, StartError, demo};
use failure::{Failure, Outcome};

/// A reverse proxy that lets in only requests with a valid API key.
#[derive(Debug, Parser)]
#[command(name = "octroi", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 gateway not reachable.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C
    Serve(SettingsFile),
    /// Run a sample API with the gateway in front of it, and show what to try
    Demo(Demo),
    /// Read the settings and say what is wrong with them, or what they mean
    Check(SettingsFile),
    /// Ask a running gateway whether it is ready
    Health(health::Health),
    /// Manage machines: the programs that call
    #[command(subcommand)]
    Machine(machine::Command),
    /// Manage keys: what machines call with
    #[command(subcommand)]
    Key(key::Command),
    /// Tell, step by step, why a request would be let in or turned away; nothing is spent by asking
    Explain(explain::Explain),
    /// Manage operators: who may use the admin API over the network
    #[command(subcommand)]
    Operator(operator::Command),
    /// Read and verify who changed what, when and why
    #[command(subcommand)]
    Journal(journal::Command),
    /// Look after what the gateway keeps: verify, rebuild, backup, restore
    #[command(subcommand)]
    Store(store::Command),
    /// Print the description of the admin API: OpenAPI 3.1, in JSON
    Openapi,
    /// Print a completion script for a shell
    Completion {
        /// The shell that shall complete
        shell: Shell,
    },
    /// Write a man page for each command into a folder
    Manpage {
        /// Where to; it is made if it is missing
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
struct SettingsFile {
    /// The settings file
    #[arg(long, value_name = "FILE", env = "OCTROI_CONFIG", hide_env_values = true)]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Demo {
    /// Where machines, keys and usage are kept
    #[arg(long, value_name = "FOLDER", default_value = "octroi-demo")]
    dir: PathBuf,
    /// Where the gateway listens for clients
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    public: SocketAddr,
    /// Where probes and metrics are; a loopback address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = loopback)]
    admin: SocketAddr,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "write an IP address and a port: 127.0.0.1:8090".to_owned())?;
    if address.ip().is_loopback() { Ok(address) } else { Err("not a loopback address; write 127.0.0.1 and a port".to_owned()) }
}

/// Does what the command line says: `args` begins with the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(args) {
        Ok(cli) => obey(cli.command),
        Err(error) => {
            // Nothing is left to do for somebody who closed the terminal.
            let _ = error.print();
            u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

fn obey(command: Command) -> ExitCode {
    let outcome = match command {
        Command::Serve(settings) => app::serve(&settings.config).map_err(not_started),
        Command::Demo(Demo { dir, public, admin }) => demo::run(&demo::Options { dir, public, admin }).map_err(not_started),
        Command::Check(settings) => check::run(&settings.config),
        Command::Health(health) => health.run(),
        Command::Machine(command) => command.run(),
        Command::Key(command) => command.run(),
        Command::Explain(explain) => explain.run(),
        Command::Operator(command) => command.run(),
        Command::Journal(command) => command.run(),
        Command::Store(command) => command.run(),
        Command::Openapi => output::print(app::openapi()),
        Command::Completion { shell } => complete(shell),
        Command::Manpage { dir } => manpage::write(Cli::command(), &dir),
    };
    outcome.map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}

/// The findings of a settings file say where they are; everything else says that it is about starting.
fn not_started(error: StartError) -> Failure {
    match error {
        StartError::Settings(findings) => Failure::Usage(findings.to_string()),
        error => Failure::Refused(format!("cannot start: {error}")),
    }
}

fn complete(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "octroi", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests;
