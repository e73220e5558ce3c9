//! The sockwatch program: parse, dispatch, exit code.
#![deny(unsafe_code)]

mod cli;
mod command;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};

/// Exit code for errors; clap uses the same for a wrong command line.
const ERROR: u8 = 2;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Trace(args) => command::trace::run(&args),
        Command::Diagnose(args) => command::diagnose::run(&args),
        Command::Serve(args) => command::serve::run(&args),
        Command::Record(args) => command::record::run(&args),
        Command::Replay(args) => command::replay::run(&args),
        Command::Info(args) => command::info::run(&args),
        Command::Report(args) => command::report::run(&args),
        Command::Export(args) => command::export::run(&args),
        Command::Audit(args) => command::audit::run(&args),
        Command::List(args) => command::list::run(&args),
        Command::Top(args) => command::top::run(&args),
        Command::Lab(args) => command::lab::run(&args),
        Command::LabActor(args) => command::lab::actor::play(&args),
        Command::Doctor(args) => command::doctor::run(&args),
        Command::Explain(args) => command::explain::run(&args),
        Command::Schema => command::schema::print::<sockwatch::sink::json::Line>(),
        Command::ListSchema => command::schema::print::<command::list::Line>(),
        Command::DiagnoseSchema => command::schema::print::<command::diagnose::Printed>(),
        Command::InfoSchema => command::schema::print::<command::info::Info>(),
        Command::RecordingFormat => command::info::format(),
        Command::ExportFormat => command::export::format(),
        Command::Openapi => command::serve::api::print(),
        Command::MetricsFormat => command::serve::metrics(),
        Command::OtlpFormat => command::serve::otlp(),
        Command::Privileges => command::packages::privileges(),
        Command::ManPages { directory } => command::packages::man_pages(&directory),
        Command::Completions { shell } => command::packages::completions(shell),
        Command::Probes => command::probes::run(),
        Command::ExplainIndex => command::explain::index(),
    };
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            command::tell(format_args!("sockwatch: error: {error:#}"));
            ExitCode::from(ERROR)
        }
    }
}

/// The reader has gone (`| head -1`): a normal end.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
