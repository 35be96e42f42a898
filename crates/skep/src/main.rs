//! `skep`: a multi-tenant container cloud in one binary.
//!
//! **Job.** Subcommands, configuration, logging; putting the roles together. **State.** None of its own.
//! **Tasks.** Those of the role that it runs. **Must not know.** How a role does its work.

mod agent;
mod apiserver;
mod audit;
mod bench;
mod config;
mod contexts;
mod control_plane;
mod controllers;
mod copies;
mod demo;
mod examples;
mod exit;
mod files;
mod health;
mod host;
mod image;
mod lean;
mod operator;
mod output;
mod progress;
mod registry;
mod sample;
mod scheduler;
mod shim;
mod signals;
mod sim;
mod tenant;
mod up;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

// A control plane has many small values of a few sizes, freed by other threads than they were made on: measured against the
// system's allocator in SPECIFICATION.md. What mostly waits has that.
#[global_allocator]
static ALLOCATOR: skep_runtime::lean::Allocator = skep_runtime::lean::Allocator;

/// A multi-tenant container cloud: one Kubernetes-compatible control plane for everybody.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// What is logged, as a filter such as `info` or `skep_store=debug,info`.
    #[arg(long, global = true, env = "SKEP_LOG", default_value = "info,skep::access=warn")]
    log: String,
    /// The configuration file; without it what SKEP_CONFIG names, or ~/.config/skep/config.toml (not for root), or /etc/skep/config.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the node agent.
    Agent(agent::Options),
    /// Runs the API server with the embedded store.
    Apiserver(apiserver::Options),
    /// Puts load on a server, and prints how fast it answered.
    Bench(bench::Options),
    /// Runs the API server and the roles that work for all tenants in one process: controllers and scheduler.
    ControlPlane(control_plane::Options),
    /// Runs the controllers of a cluster whose API server is elsewhere; of several such processes one works.
    Controllers(controllers::Options),
    /// Prints what makes a shell complete this program's commands and options.
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Shows what is configured and why, and what can be.
    Config(config::Options),
    /// Deploys a sample into two tenants, and proves that they are apart.
    Demo(demo::Options),
    /// Looks whether this computer can run everything, and says how to mend what is missing.
    Doctor(up::DoctorOptions),
    /// Stops everything that `skep up` started.
    Down(up::DownOptions),
    /// Prints what makes a shell's later commands mean this cloud.
    Env(operator::EnvOptions),
    /// Runs the host daemon: makes machines of tenants on this computer.
    Host(host::Options),
    /// Shows what runs.
    Status(up::StatusOptions),
    /// Makes, lists and deletes tenants.
    Tenant(tenant::Options),
    /// Loads, lists and pushes images.
    Image(image::Options),
    /// Runs the image registry by itself; `skep up` has one already.
    Registry(registry::Options),
    /// The parts of the sample that `skep demo` runs.
    #[command(hide = true)]
    Sample(sample::Options),
    /// Holds one pod; the node agent starts it.
    #[command(hide = true)]
    Shim(shim::Options),
    /// Starts the whole cloud on this computer.
    Up(up::Options),
    /// Runs the scheduler of a cluster whose API server is elsewhere; of several such processes one works.
    Scheduler(scheduler::Options),
    /// Simulates nodes, for tests and measurements.
    Sim(sim::Options),
}

/// The name under which kubectl finds this program as a plugin: a link to it.
const PLUGIN: &str = "kubectl-skep";

fn is_plugin() -> bool {
    let name = std::env::args_os().next().map(std::path::PathBuf::from);
    name.as_deref().and_then(|n| n.file_name()).is_some_and(|n| n == PLUGIN)
}

/// The whole command line, before a configuration file has its say.
fn command_line() -> clap::Command {
    examples::attach(config::prepare(Cli::command()))
}

fn main() -> std::process::ExitCode {
    if let Some(code) = shim::if_asked().or_else(host::if_asked) {
        return code;
    }
    copies::settle();
    // These run on every node and mostly wait, or hold what thousands of tenants have: much smaller things than huge pages.
    const LEAN: [&str; 6] = ["agent", "host", "apiserver", "control-plane", "controllers", "scheduler"];
    if std::env::args_os().nth(1).is_some_and(|role| LEAN.iter().any(|lean| role == *lean)) {
        skep_runtime::lean::without_huge_pages();
    }
    files::as_many_as_allowed();
    let prepared = command_line();
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    let file = match config::File::find(&prepared, &args) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("skep: {error}");
            return exit::Code::Usage.into();
        }
    };
    config::remember(&file);
    let mut command = file.apply(prepared.clone());
    if is_plugin() {
        // As it is typed: `kubectl skep …`.
        command = command.bin_name("kubectl skep");
    }
    let cli = match Cli::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    // All commands and options with their help are 300 KB, which a role would hold for as long as it runs.
    let described = matches!(cli.command, Command::Config(_)).then_some((prepared, file));
    let filter = match tracing_subscriber::EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("skep: --log {:?} is not a filter: {error}", cli.log);
            return exit::Code::Usage.into();
        }
    };
    let ansi = output::colours_on_stderr();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let result = match cli.command {
        Command::Agent(options) => agent::run(options),
        Command::Apiserver(options) => apiserver::run(options),
        Command::Bench(options) => bench::run(options),
        Command::ControlPlane(options) => control_plane::run(options),
        Command::Controllers(options) => controllers::run(options),
        Command::Completion { shell } => {
            let name = if is_plugin() { PLUGIN } else { "skep" };
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command_line(), name, &mut text);
            output::print(&String::from_utf8_lossy(&text))
        }
        Command::Config(options) => {
            described.map_or(Ok(()), |(prepared, file)| config::run(options, &prepared, &file))
        }
        Command::Demo(options) => demo::run(options),
        Command::Sample(options) => sample::run(options),
        Command::Doctor(options) => up::doctor(options),
        Command::Down(options) => up::down(options),
        Command::Env(options) => operator::env(&options),
        Command::Host(options) => host::run(options),
        Command::Status(options) => up::status(options),
        Command::Tenant(options) => tenant::run(options),
        Command::Image(options) => image::run(options),
        Command::Registry(options) => registry::run(options),
        Command::Shim(options) => return shim::run(options),
        Command::Up(options) => up::run(options),
        Command::Scheduler(options) => scheduler::run(options),
        Command::Sim(options) => sim::run(options),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep: {}", exit::story(&error));
            if let Some(remedy) = exit::remedy(&error) {
                eprintln!("      {remedy}");
            }
            exit::code(&error).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
        super::command_line().debug_assert();
    }
}
