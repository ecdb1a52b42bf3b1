//! What was found and decided, for people. Pure.

use super::{Place, Tried, frame, pinned::Finding};
use crate::kernel::{Fate, Look, Ran};
use skein_abi::{
    Addr,
    flow::{DIRECT, Route, Tuple},
    from_addr,
    ingress::{PUBLISHED_TAKEN, Published, PublishedKey, return_mode_name},
    overlay::OverlayKey,
    protocol_name,
    verdict::Counter,
};
use skein_packet::{Action, Verdict, Work};
use skein_proto::{
    inspect::{ProgramRun, TraceReply},
    network::Node,
};
use std::net::SocketAddrV4;

/// The whole of a trace.
pub fn reply(
    look: &Look,
    place: &Place,
    work: &Work,
    findings: &[Finding],
    tried: &Tried,
) -> TraceReply {
    let names = Names(look);
    let (runs, not_run): (&[Ran], _) = match tried {
        Tried::Ran(runs) => (runs, ""),
        Tried::Not(reason) => (&[], *reason),
    };
    let settings = look.desired.settings.as_ref();
    let vxlan_port = settings.and_then(|settings| u16::try_from(settings.vxlan_port).ok());
    let run = |ran: &Ran| ProgramRun {
        program: ran.program.to_owned(),
        result: result(ran.fate).to_owned(),
        packet: frame::shown(&ran.frame, vxlan_port.unwrap_or_default()),
    };
    let verdict = &work.verdict;
    let from = &work.packet.tuple;
    let reason = drop_reason(verdict);
    let is_changed = verdict.to != *from && verdict.reset == 0;
    TraceReply {
        packet: shown(from),
        seen_at: names.place(place),
        decisions: findings
            .iter()
            .map(|finding| names.finding(finding))
            .collect(),
        service: findings
            .iter()
            .find_map(|finding| names.service_of(finding))
            .unwrap_or_default(),
        node: match verdict.action {
            Action::Tunnel | Action::Segment => names.node(verdict.node),
            _ => String::new(),
        },
        task: match verdict.action {
            Action::Endpoint => names.task_of(verdict.endpoint),
            _ => String::new(),
        },
        rewritten: if is_changed {
            shown(&verdict.to)
        } else {
            String::new()
        },
        drop_reason: reason
            .and_then(Counter::drop_reason)
            .unwrap_or_default()
            .to_owned(),
        advice: reason.map_or("", Counter::advice).to_owned(),
        outcome: names.outcome(place, verdict),
        runs: runs.iter().map(run).collect(),
        not_run: not_run.to_owned(),
        disagreement: disagreement(verdict, runs).unwrap_or_default(),
    }
}

fn result(fate: Fate) -> &'static str {
    match fate {
        Fate::Passed => "passed it on",
        Fate::Dropped => "dropped it",
        Fate::Sent => "sent it on",
    }
}

/// Of the programs with the decision: the last one has the last word.
fn disagreement(verdict: &Verdict, runs: &[Ran]) -> Option<String> {
    let decided = match verdict.action {
        Action::Pass => Fate::Passed,
        Action::Drop => Fate::Dropped,
        _ => Fate::Sent,
    };
    let last = runs.last().filter(|ran| ran.fate != decided)?;
    Some(match (decided, last.fate) {
        (Fate::Sent, Fate::Dropped) => format!(
            "{} dropped it: there is no route, or it is too long for it; `skein status` counts why",
            last.program
        ),
        _ => format!(
            "{} {}: the maps changed meanwhile, or it is of another version than skein-dataplane",
            last.program,
            result(last.fate)
        ),
    })
}

/// "tcp 203.0.113.9:32768 -> 198.18.0.1:8080"
fn shown(tuple: &Tuple) -> String {
    let end = |address, port| SocketAddrV4::new(from_addr(address), u16::from_be(port));
    let (from, to) = (end(tuple.src, tuple.sport), end(tuple.dst, tuple.dport));
    format!("{} {from} -> {to}", protocol_name(tuple.proto))
}

/// Of a packet that is dropped, or answered by a reset, which nobody else is.
fn drop_reason(verdict: &Verdict) -> Option<Counter> {
    if verdict.reset != 0 {
        return Some(Counter::DropNoTask);
    }
    let mut all = Counter::ALL.iter().copied();
    all.find(|counter| verdict.action == Action::Drop && *counter as u32 == verdict.reason)
}

/// What things are called that decisions know by number.
struct Names<'a>(&'a Look);

impl Names<'_> {
    fn node(&self, address: Addr) -> String {
        let address = from_addr(address).to_string();
        let mut nodes = self.0.desired.nodes.values();
        // In the tunnels it has another.
        let is_secure = |node: &Node| {
            let end = node.tunnel.as_ref();
            end.is_some_and(|end| end.address == address)
        };
        match nodes.find(|node| node.address == address || is_secure(node)) {
            Some(node) => format!("{} ({address})", node.hostname),
            None => address,
        }
    }

    /// By the number that the kernel's maps have for it.
    fn service(&self, number: u32) -> String {
        let mut published = self.0.services.published.iter();
        let is_it = |ports: &crate::kernel::PublishedService| {
            ports.ports.values().any(|port| port.service == number)
        };
        let id = published.find_map(|(id, service)| is_it(service).then_some(id));
        let service = id.and_then(|id| self.0.desired.services.get(id));
        service.map_or_else(
            || format!("number {number}"),
            |service| service.name.clone(),
        )
    }

    fn service_of_vip(&self, key: &OverlayKey) -> Option<String> {
        let desired = &self.0.desired;
        let address = from_addr(key.addr).to_string();
        let mut services = desired.services.values();
        let has = |network: &String, vip: &String| {
            let network = desired.networks.get(network);
            *vip == address && network.is_some_and(|network| network.vni == key.vni)
        };
        let found = services.find(|service| {
            let mut networks = service.networks.iter();
            networks.any(|on| has(&on.network_id, &on.vip))
        });
        found.map(|service| service.name.clone())
    }

    fn service_of(&self, finding: &Finding) -> Option<String> {
        match finding {
            Finding::Published(_, published) => Some(self.service(published.service)),
            Finding::Vip(key, _) => self.service_of_vip(key),
            _ => None,
        }
    }

    /// "abc (10.0.0.5)", by the index of a local endpoint.
    fn task_of(&self, endpoint: u32) -> String {
        let Some((network, address)) = self.0.endpoints.get(&endpoint) else {
            return format!("endpoint {endpoint}");
        };
        let address = address.to_string();
        let mut endpoints = self.0.desired.endpoints.values();
        let found =
            endpoints.find(|found| found.network_id == *network && found.address == address);
        match found {
            Some(found) => format!("{} ({address})", found.task_id),
            None => address,
        }
    }

    fn place(&self, place: &Place) -> String {
        match place {
            Place::Uplink => "an uplink, coming from outside".to_owned(),
            Place::Host => "the local pair, coming from a program of this node".to_owned(),
            Place::Veth(endpoint) => format!("the veth pair of task {}", self.task_of(*endpoint)),
            Place::Tunnel(node) => {
                format!("the vxlan device, sent on by {}", self.node(*node))
            }
        }
    }

    fn finding(&self, finding: &Finding) -> String {
        match finding {
            Finding::Published(key, published) => self.published(key, published),
            Finding::Bound(true) => "the port is bound to the address called".to_owned(),
            Finding::Bound(false) => {
                "the port is bound to other addresses than the one called: by this one it is the node's own"
                    .to_owned()
            }
            Finding::Taken(true) => "the service takes clients from there".to_owned(),
            Finding::Taken(false) => "the service takes no clients from there".to_owned(),
            Finding::Node {
                service,
                slot,
                node,
                previous,
            } => format!(
                "slot {slot} of {}'s {}table names {}",
                self.service(*service),
                if *previous { "previous " } else { "" },
                self.node(*node)
            ),
            Finding::Local {
                endpoint, draining, ..
            } => format!(
                "task {} of this node {}",
                self.task_of(*endpoint),
                match draining {
                    true => "drains, and keeps the flows it has",
                    false => "is ready",
                }
            ),
            Finding::NoLocal { service } => {
                format!(
                    "no task of {} on this node takes it",
                    self.service(*service)
                )
            }
            Finding::Vip(key, vip) => format!(
                "{} is the VIP of {}, with {} backends",
                from_addr(key.addr),
                self.service_of_vip(key).as_deref().unwrap_or("no service"),
                vip.len
            ),
            Finding::Backend(address) => format!("the backend is {}", from_addr(*address)),
            Finding::Location(key, location) => {
                let address = from_addr(key.addr);
                match location.node {
                    0 => format!(
                        "{address} is task {}, here",
                        self.task_of(location.endpoint)
                    ),
                    node => format!("{address} is on {}", self.node(node)),
                }
            }
            Finding::Affinity(affinity) => {
                format!(
                    "a flow with this tuple was sent to {} before",
                    self.node(affinity.node)
                )
            }
            Finding::Flow(_, ct) => format!(
                "a flow with this tuple is known here: it becomes {}{}",
                shown(&ct.to),
                match ct.route {
                    Route::Endpoint => format!(", for task {}", self.task_of(ct.endpoint)),
                    Route::Overlay => ", in its overlay".to_owned(),
                    Route::Reply if ct.marks & DIRECT != 0 =>
                        ", an answer to a client, by dsr".to_owned(),
                    Route::Reply => ", an answer to a client".to_owned(),
                }
            ),
            Finding::Translated(to) => format!("its source is translated already: {}", shown(to)),
            Finding::Socket => "a program of this node has the connection".to_owned(),
        }
    }

    fn published(&self, key: &PublishedKey, published: &Published) -> String {
        let port = u16::from_be(key.port);
        let (service, target) = (
            self.service(published.service),
            u16::from_be(published.target),
        );
        let taken = match published.flags & PUBLISHED_TAKEN {
            0 => "",
            _ => "; but a program of this node listens on it, and gets what comes here",
        };
        let (protocol, mode) = (protocol_name(key.proto), return_mode_name(published.flags));
        format!(
            "{protocol} port {port} is {service}'s, whose tasks listen on {target}; answers go back by {mode}{taken}"
        )
    }

    fn outcome(&self, place: &Place, verdict: &Verdict) -> String {
        let to = match verdict.action {
            Action::Pass => {
                "it is none of Skein's: this node's own network stack gets it".to_owned()
            }
            Action::Endpoint => format!("task {} gets it", self.task_of(verdict.endpoint)),
            Action::Tunnel => format!("it is sent to {}, by VXLAN", self.node(verdict.node)),
            Action::Segment => format!("it is sent to {}, by l2", self.node(verdict.node)),
            Action::Out => "it leaves this node by the routing table".to_owned(),
            Action::Host => "this node's own programs get it, as if from a device".to_owned(),
            Action::Echo => "it is answered in place".to_owned(),
            _ => String::new(),
        };
        let reason = drop_reason(verdict).map(Counter::explanation);
        match (verdict.action, reason) {
            (Action::Drop, reason) => format!("it is dropped: {}", reason.unwrap_or_default()),
            (_, Some(reason)) => format!("it is answered by a TCP reset: {reason}"),
            (Action::Tunnel | Action::Segment, None) if *place == Place::Uplink => {
                format!("{to}, where `skein trace --forwarded-by` of this node goes on")
            }
            (_, None) => to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::status::tests::{BACKEND, look};
    use skein_abi::{TCP, addr, overlay::Location};
    use skein_packet::Packet;

    fn work(verdict: impl Fn(&Tuple) -> Verdict) -> Work {
        let tuple = Tuple {
            src: addr([203, 0, 113, 9].into()),
            dst: addr([198, 18, 0, 2].into()),
            sport: skein_abi::port(40_000),
            dport: skein_abi::port(8080),
            proto: TCP,
            pad: [0; 3],
        };
        let mut work = Work::new(Packet {
            tuple,
            ..Packet::nothing()
        });
        work.verdict = verdict(&tuple);
        work
    }

    #[test]
    fn numbers_have_the_names_that_people_know() {
        let look = look();
        let node = addr([198, 18, 0, 1].into());
        let (key, service) = look.services.published["web-id"]
            .ports
            .iter()
            .next()
            .unwrap();
        let findings = [
            Finding::Node {
                service: service.service,
                slot: 3,
                node,
                previous: false,
            },
            Finding::Vip(
                OverlayKey {
                    vni: 4_096,
                    addr: addr([10, 0, 1, 2].into()),
                },
                skein_abi::overlay::Vip::default(),
            ),
            Finding::Location(
                OverlayKey {
                    vni: 4_096,
                    addr: addr(BACKEND.into()),
                },
                Location {
                    node: 0,
                    endpoint: 7,
                },
            ),
            Finding::Published(*key, *service),
        ];
        let sent = work(|tuple| Verdict::tunnel(tuple, node, 1, 0));
        let reply = reply(&look, &Place::Uplink, &sent, &findings, &Tried::Not("no"));
        assert_eq!(reply.packet, "tcp 203.0.113.9:40000 -> 198.18.0.2:8080");
        assert_eq!(
            reply.decisions[0],
            "slot 3 of web's table names host-a (198.18.0.1)"
        );
        assert_eq!(
            reply.decisions[1],
            "10.0.1.2 is the VIP of web, with 0 backends"
        );
        assert_eq!(reply.decisions[2], "10.0.1.5 is task t (10.0.1.5), here");
        assert_eq!(
            reply.decisions[3],
            "tcp port 8080 is web's, whose tasks listen on 80; answers go back by dsr; but a program of this node listens on it, and gets what comes here"
        );
        assert_eq!(
            (reply.service.as_str(), reply.node.as_str()),
            ("web", "host-a (198.18.0.1)")
        );
        assert!(reply.rewritten.is_empty() && reply.drop_reason.is_empty());
    }

    #[test]
    fn what_programs_make_of_it_is_compared_with_the_decision() {
        let ran = |fate| {
            let frame = Vec::new();
            let program = skein_abi::names::PROG_UPLINK;
            Tried::Ran(vec![Ran {
                program,
                fate,
                frame,
            }])
        };
        let out = work(Verdict::out);
        let said = |fate| reply(&look(), &Place::Uplink, &out, &[], &ran(fate));
        let agrees = said(Fate::Sent);
        assert_eq!(agrees.runs[0].result, "sent it on");
        assert!(agrees.disagreement.is_empty() && agrees.not_run.is_empty());
        let dropped = said(Fate::Dropped).disagreement;
        assert!(dropped.contains("no route"), "{dropped}");
        let passed = said(Fate::Passed).disagreement;
        assert!(passed.contains("skein_uplink passed it on"), "{passed}");
    }

    #[test]
    fn a_drop_says_why() {
        let dropped = work(|tuple| Verdict::drop(tuple, Counter::DropNoTask));
        let dropped = reply(&look(), &Place::Uplink, &dropped, &[], &Tried::Not("no"));
        assert_eq!(dropped.drop_reason, "no_task");
        assert!(dropped.outcome.contains(Counter::DropNoTask.explanation()));
        let reset = work(|tuple| Verdict {
            reset: 1,
            ..Verdict::out(tuple)
        });
        let reset = reply(&look(), &Place::Uplink, &reset, &[], &Tried::Not("no"));
        assert!(reset.outcome.contains("TCP reset"), "{}", reset.outcome);
    }
}
