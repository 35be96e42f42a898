//! `skep`: a multi-tenant container cloud in one binary.
//!
//! **Job.** Subcommands, configuration, logging; putting the roles together. **State.** None of its own.
//! **Tasks.** Those of the role that it runs. **Must not know.** How a role does its work.

mod agent;
mod apiserver;
mod audit;
mod control_plane;
mod controllers;
mod health;
mod host;
mod image;
mod registry;
mod scheduler;
mod shim;
mod signals;
mod sim;
mod tenant;
mod up;

use clap::{Parser, Subcommand};

// Many small values of a few sizes, freed by other threads than they were made on: measured against the
// system's allocator in SPECIFICATION.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A multi-tenant container cloud: one Kubernetes-compatible control plane for everybody.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// What is logged, as a filter such as `info` or `skep_store=debug,info`.
    #[arg(long, global = true, env = "SKEP_LOG", default_value = "info,skep::access=warn")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the node agent.
    Agent(agent::Options),
    /// Runs the API server with the embedded store.
    Apiserver(apiserver::Options),
    /// Runs the API server and the roles that work for all tenants in one process: controllers and scheduler.
    ControlPlane(apiserver::Options),
    /// Runs the controllers of a cluster whose API server is elsewhere; of several such processes one works.
    Controllers(controllers::Options),
    /// Looks whether this computer can run everything, and says how to mend what is missing.
    Doctor(up::DoctorOptions),
    /// Stops everything that `skep up` started.
    Down(up::DownOptions),
    /// Runs the host daemon: makes machines of tenants on this computer.
    Host(host::Options),
    /// Shows what runs.
    Status(up::StatusOptions),
    /// Makes, lists and deletes tenants.
    Tenant(tenant::Options),
    /// Loads and lists the images of this machine.
    Image(image::Options),
    /// Runs the image registry by itself; `skep up` has one already.
    Registry(registry::Options),
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

fn main() -> std::process::ExitCode {
    if let Some(code) = shim::if_asked().or_else(host::if_asked) {
        return code;
    }
    let cli = Cli::parse();
    let filter = match tracing_subscriber::EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("skep: --log {:?} is not a filter: {error}", cli.log);
            return std::process::ExitCode::from(2);
        }
    };
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let result = match cli.command {
        Command::Agent(options) => agent::run(options),
        Command::Apiserver(options) => apiserver::run(options),
        Command::ControlPlane(options) => control_plane::run(options),
        Command::Controllers(options) => controllers::run(options),
        Command::Doctor(options) => up::doctor(options),
        Command::Down(options) => up::down(options),
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
            eprintln!("skep: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
