//! Placement constraints: `node.role==manager`, `node.labels.zone != east`, …

use ipnet::IpNet;
use skein_model::{Node, NodeRole};
use std::net::IpAddr;

/// One expression, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// As written: the names of labels keep their case.
    key: String,
    /// The same in lower case.
    known: String,
    equal: bool,
    value: String,
}

/// Why an expression is none, in Swarm's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConstraintError {
    #[error("constraint expected one operator from ==, !=")]
    Operator,
    #[error("key '{0}' is invalid")]
    Key(String),
    #[error("value '{0}' is invalid")]
    Value(String),
}

impl Constraint {
    /// Whether the node satisfies all of them.
    pub fn all_match(constraints: &[Self], node: &Node) -> bool {
        constraints
            .iter()
            .all(|constraint| constraint.matches(node))
    }

    /// Parses all expressions of a placement.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse_all(expressions: &[String]) -> Result<Vec<Self>, ConstraintError> {
        expressions.iter().map(|text| text.parse()).collect()
    }

    /// Whether the node is one that the constraint asks for. Values are compared as a whole and
    /// regardless of case. A key that means nothing matches no node.
    fn matches(&self, node: &Node) -> bool {
        let compare = |actual: &str| self.equal == actual.eq_ignore_ascii_case(&self.value);
        match self.known.as_str() {
            "node.id" => compare(&node.id),
            "node.hostname" => compare(&node.description.hostname),
            "node.ip" => self.matches_ip(&node.status.addr),
            "node.role" => compare(match node.role {
                NodeRole::Worker => "worker",
                NodeRole::Manager => "manager",
            }),
            "node.platform.os" => compare(&node.description.platform.os),
            "node.platform.arch" => compare(&node.description.platform.architecture),
            _ => match self.label(node) {
                Some(actual) => compare(actual),
                None => false,
            },
        }
    }

    /// The label that the key names, "" where the node lacks it; `None` for other keys. The name of
    /// the label keeps its case.
    fn label<'a>(&self, node: &'a Node) -> Option<&'a str> {
        let (labels, prefix) = if self.known.starts_with("node.labels.") {
            (&node.spec.labels, "node.labels.")
        } else if self.known.starts_with("engine.labels.") {
            (&node.description.engine.labels, "engine.labels.")
        } else {
            return None;
        };
        let name = &self.key[prefix.len()..];
        Some(labels.get(name).map_or("", String::as_str))
    }

    fn matches_ip(&self, actual: &str) -> bool {
        let Ok(actual) = actual.parse::<IpAddr>() else {
            return false;
        };
        let inside = if let Ok(address) = self.value.parse::<IpAddr>() {
            address == actual
        } else if let Ok(subnet) = self.value.parse::<IpNet>() {
            subnet.contains(&actual)
        } else {
            return false;
        };
        inside == self.equal
    }
}

impl std::str::FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (equal, (key, value)) = text
            .split_once("==")
            .map(|parts| (true, parts))
            .or_else(|| text.split_once("!=").map(|parts| (false, parts)))
            .ok_or(ConstraintError::Operator)?;
        let (key, value) = (key.trim(), value.trim());
        if !is_key(key) {
            return Err(ConstraintError::Key(key.into()));
        }
        if value.is_empty() || !value.chars().all(is_value_char) {
            return Err(ConstraintError::Value(value.into()));
        }
        Ok(Self {
            key: key.into(),
            known: key.to_ascii_lowercase(),
            equal,
            value: value.into(),
        })
    }
}

/// `[a-z_][a-z0-9\-_.]+`, in any case
fn is_key(key: &str) -> bool {
    let mut chars = key.chars();
    let first = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = chars.as_str();
    let in_key = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    first && !rest.is_empty() && rest.chars().all(in_key)
}

/// `[a-z0-9:\-_\s\.\*\(\)\?\+\[\]\\\^\$\|\/]`, in any case
fn is_value_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || ":-_.*()?+[]\\^$|/".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let mut node = Node {
            id: "node1".into(),
            role: NodeRole::Manager,
            ..Node::default()
        };
        node.description.hostname = "alpha".into();
        node.description.platform.os = "linux".into();
        node.description.platform.architecture = "x86_64".into();
        node.status.addr = "198.18.0.7".into();
        node.spec.labels.insert("Zone".into(), "east".into());
        let engine = &mut node.description.engine.labels;
        engine.insert("disk".into(), "SSD".into());
        node
    }

    #[test]
    fn expressions_match_as_swarm_matches_them() {
        for (text, expected) in [
            ("node.id==NODE1", true),
            ("node.id != node1", false),
            ("Node.Hostname == alpha", true),
            ("node.hostname==alph*", false),
            ("node.role==manager", true),
            ("node.role!=worker", true),
            ("node.platform.os==Linux", true),
            ("node.platform.arch==amd64", false),
            ("node.ip==198.18.0.7", true),
            ("node.ip==198.18.0.0/24", true),
            ("node.ip!=198.18.0.0/24", false),
            ("node.ip!=198.18.0.0/99", false),
            ("node.labels.Zone==EAST", true),
            ("node.labels.zone==east", false),
            ("node.labels.zone!=east", true),
            ("engine.labels.disk==ssd", true),
            ("engine.labels.none!=ssd", true),
            ("node.colour==red", false),
            ("node.colour!=red", false),
        ] {
            let constraint: Constraint = text.parse().unwrap();
            assert_eq!(constraint.matches(&node()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_in_swarms_words() {
        for (text, error) in [
            (
                "node.role=manager",
                "constraint expected one operator from ==, !=",
            ),
            ("", "constraint expected one operator from ==, !="),
            ("n==1", "key 'n' is invalid"),
            ("1node==1", "key '1node' is invalid"),
            ("no de==1", "key 'no de' is invalid"),
            ("node.id==", "value '' is invalid"),
            ("node.id==a,b", "value 'a,b' is invalid"),
            ("node.id==a==b", "value 'a==b' is invalid"),
        ] {
            let parsed: Result<Constraint, _> = text.parse();
            assert_eq!(parsed.unwrap_err().to_string(), error, "{text}");
        }
    }
}
