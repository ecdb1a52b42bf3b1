//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;

/// Shows what Skein does on this node, and in its swarm.
///
/// Services, nodes and networks are driven by the docker command; this one shows what it has no word for.
/// It changes nothing.
#[derive(Parser)]
#[command(name = "skein", version)]
pub struct Args {
    /// Socket of skein-dataplane for this command.
    #[arg(
        long,
        global = true,
        env = "SKEIN_INSPECT",
        default_value = "/run/skein/inspect.sock",
        value_name = "PATH"
    )]
    pub inspect: PathBuf,
    /// Socket of skein-control.
    #[arg(
        long,
        global = true,
        env = "SKEIN_API",
        default_value = "/run/skein/docker.sock",
        value_name = "PATH"
    )]
    pub api: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Shows what the kernel of this node has, and, on a manager, how far all nodes are.
    ///
    /// Of this node: the version of the network state that it was sent, and that its kernel has; the other
    /// nodes, and which of them do not answer; the kernel programs, by device and hook; how full the
    /// kernel's maps are; services, as they are programmed; what could not be. Of all nodes: the version
    /// that each one's kernel has, and who is behind.
    ///
    /// Fails if one of the daemons does not answer, and still shows what the other one says.
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Tells what would become of a packet on this node, decision by decision.
    ///
    /// Whose port or VIP it is, which node and task are picked, what it is translated to, or why it is dropped:
    /// decided over what the kernel has now. Then the kernel's programs are run on the packet, unless its tuple is
    /// that of a flow that is known, and say whether they agree. Nothing is sent; the programs count it.
    Trace {
        /// Who sends it: the address of a client; or the ID (its beginning will do) or a name of a task on
        /// this node.
        source: String,
        /// To whom: SERVICE:PORT or ADDRESS:PORT.
        destination: String,
        /// UDP, instead of TCP.
        #[arg(long)]
        udp: bool,
        /// The sender's port: others may be sent elsewhere.
        #[arg(long, value_name = "PORT")]
        source_port: Option<u16>,
        /// A packet in the middle of a connection, instead of the one that opens it.
        #[arg(long, conflicts_with = "udp")]
        mid_stream: bool,
        /// The node that the client called, and that sent the packet on to this one.
        #[arg(long, value_name = "NODE")]
        forwarded_by: Option<String>,
        /// How to print it.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Prints a script that completes this command in a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Writes the manual pages of this command into a folder.
    Man {
        /// The folder; made if it is not there.
        dir: PathBuf,
    },
}

/// How to print something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: fields keep their names and meaning.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
    }
}
