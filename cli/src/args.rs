//! The command line.

use clap::{
    Args as ClapArgs, Parser, Subcommand, ValueEnum, ValueHint, builder::PossibleValuesParser,
};
use clap_complete::Shell;
use skein_abi::verdict::Counter;
use skein_proto::inspect::FlowFilter;
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
        value_name = "PATH",
        value_hint = ValueHint::FilePath
    )]
    pub inspect: PathBuf,
    /// Socket of skein-control.
    #[arg(
        long,
        global = true,
        env = "SKEIN_API",
        default_value = "/run/skein/docker.sock",
        value_name = "PATH",
        value_hint = ValueHint::FilePath
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
    /// that of a flow that is known, and say whether they agree. Nothing is sent; the programs count it, and `skein flows`
    /// shows it.
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
    /// Shows the flows of this node as they begin and end, and the packets that it drops, with the reason.
    ///
    /// The kernel's programs tell of each flow that they had not known, of the end of each connection, and of each
    /// packet that they drop or refuse; not of what goes on in between. So a request is told of by the node that its
    /// client has called, and by that of the task. Without an option, the last 20 are shown. Of what begins, ends or is
    /// dropped too fast, more than about 1,000 a second on a CPU, only the number is told.
    Flows {
        #[command(flatten)]
        filter: Filter,
        /// Goes on with what comes, until it is interrupted.
        #[arg(short, long)]
        follow: bool,
        /// So many of the last ones; 20, or with --follow none. The node keeps 4,096.
        #[arg(short = 'n', long, value_name = "N")]
        last: Option<u32>,
        /// How to print it: in JSON, one object a line.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Captures packets of this node as its kernel programs see them, also those that XDP forwards, which tcpdump
    /// does not see.
    ///
    /// In the form of pcapng, for tcpdump and Wireshark, with what became of each packet as its comment. Packets stand
    /// there without the outer headers of VXLAN: as they came in; where XDP sends them on, as they leave. What is none
    /// of Skein's is not captured, nor is ARP. It costs something only while it runs.
    Capture {
        #[command(flatten)]
        filter: Filter,
        /// Where to write to; "-": standard output.
        #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        write: PathBuf,
        /// Bytes of each packet at most.
        #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
        snap_length: Option<u32>,
        /// Ends after so many packets.
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Prints a script that completes this command in a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Writes the manual pages of this command into a folder.
    Man {
        /// The folder; made if it is not there.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// Which flows or packets. An option may be given several times: any one is enough. All that are given must be met.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct Filter {
    /// Whose published port or VIP it is: name or ID.
    #[arg(long, value_name = "SERVICE")]
    service: Vec<String>,
    /// A task at either end: ID, the beginning of it, or a name.
    #[arg(long, value_name = "TASK")]
    task: Vec<String>,
    /// The node that it is sent to: hostname, ID or address.
    #[arg(long, value_name = "NODE", value_hint = ValueHint::Hostname)]
    node: Vec<String>,
    /// An address at either end, or the network that it is in.
    #[arg(long, value_name = "CIDR")]
    client: Vec<String>,
    /// A port at either end.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// The protocol.
    #[arg(long, value_parser = ["tcp", "udp", "sctp", "icmp"])]
    protocol: Vec<String>,
    /// What becomes of it.
    #[arg(long, value_enum)]
    verdict: Vec<Verdict>,
    /// Why it is dropped or refused.
    #[arg(long, value_parser = PossibleValuesParser::new(reasons()), hide_possible_values = true)]
    reason: Vec<String>,
}

fn reasons() -> Vec<&'static str> {
    Counter::drops().filter_map(Counter::drop_reason).collect()
}

impl From<&Filter> for FlowFilter {
    fn from(filter: &Filter) -> Self {
        let verdicts = filter
            .verdict
            .iter()
            .map(|verdict| verdict.name().to_owned());
        Self {
            services: filter.service.clone(),
            tasks: filter.task.clone(),
            nodes: filter.node.clone(),
            clients: filter.client.clone(),
            ports: filter.port.iter().copied().map(u32::from).collect(),
            protocols: filter.protocol.clone(),
            verdicts: verdicts.collect(),
            reasons: filter.reason.clone(),
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verdict {
    /// Sent to another node.
    Forwarded,
    /// Given to a task of this node.
    Delivered,
    /// Sent out, to a client or to the world outside.
    Sent,
    /// Given to a program of this node.
    Host,
    /// Answered in place.
    Answered,
    /// Answered by a reset, or by an ICMP error.
    Refused,
    /// Gone.
    Dropped,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Delivered => "delivered",
            Self::Sent => "sent",
            Self::Host => "host",
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
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

    #[test]
    fn words_of_filters_are_those_of_the_daemon() {
        for verdict in Verdict::value_variants() {
            let word = verdict.to_possible_value().unwrap();
            assert_eq!(word.get_name(), verdict.name());
        }
        let words = "skein flows --service a --service b --client 10.0.0.0/8 --port 80 --verdict dropped --reason no_task -n 3";
        let args = Args::try_parse_from(words.split(' ')).unwrap();
        let Command::Flows { filter, last, .. } = &args.command else {
            panic!("flows");
        };
        let asked = FlowFilter::from(filter);
        assert_eq!(*last, Some(3));
        assert_eq!((asked.services.len(), &asked.ports[..]), (2, &[80][..]));
        assert_eq!(
            (asked.verdicts, asked.reasons),
            (vec!["dropped".into()], vec!["no_task".into()])
        );
        for (words, said) in [
            ("skein flows --reason bad", "no_task"),
            ("skein flows --port 0", "0"),
            ("skein flows --verdict lost", "forwarded"),
            ("skein capture", "--write"),
        ] {
            let error = Args::try_parse_from(words.split(' ')).err().unwrap();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
