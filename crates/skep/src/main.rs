//! `skep`: a multi-tenant container cloud in one binary.
//!
//! **Job.** Subcommands, configuration, logging; putting the roles together. **State.** None of its own.
//! **Tasks.** Those of the role that it runs. **Must not know.** How a role does its work.

mod agent;
mod apiserver;
mod audit;
mod control_plane;
mod controllers;
mod demo;
mod health;
mod host;
mod image;
mod registry;
mod sample;
mod scheduler;
mod shim;
mod signals;
mod sim;
mod tenant;
mod up;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

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
    /// Prints what makes a shell complete this program's commands and options.
    ///
    /// Example: skep completion bash > /etc/bash_completion.d/skep
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Deploys a sample into two tenants, and proves that they are apart.
    Demo(demo::Options),
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

fn main() -> std::process::ExitCode {
    if let Some(code) = shim::if_asked().or_else(host::if_asked) {
        return code;
    }
    let mut command = Cli::command();
    if is_plugin() {
        // As it is typed: `kubectl skep …`.
        command = command.bin_name("kubectl skep");
    }
    let cli = match Cli::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
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
        Command::Completion { shell } => {
            let name = if is_plugin() { PLUGIN } else { "skep" };
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), name, &mut text);
            match std::io::Write::write_all(&mut std::io::stdout(), &text) {
                // A reader that has seen enough.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                result => result.map_err(anyhow::Error::from),
            }
        }
        Command::Demo(options) => demo::run(options),
        Command::Sample(options) => sample::run(options),
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
