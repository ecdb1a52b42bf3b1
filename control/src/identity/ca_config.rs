//! What a new `CAConfig` asks for. Pure: what external CAs have to say to it comes from outside.

use super::{
    AuthorityError, certificate_count, create_root,
    external::{has_key, urls_for},
    import_root, is_ca, normal_pem, tls_info, validity,
};
use skein_model::{CaConfig, Cluster, RootCa, RootRotation, Timestamp};
use std::time::Duration;

/// A root that users bring must be good for at least this long.
const ROOT_VALIDITY_MIN: Duration = Duration::from_secs(365 * 86_400);

/// What is to be done, before external CAs were asked.
#[derive(Debug)]
pub struct Plan {
    /// Without certificate and key, which are not kept in the spec.
    next: CaConfig,
    needed: Vec<Needed>,
    change: Change,
}

/// External CAs of which one must be there.
#[derive(Debug)]
pub(super) struct Needed {
    /// Which root they are to be of, in Swarm's word.
    which: &'static str,
    /// That root's certificate, PEM.
    pub root_pem: String,
    /// In order; there may be none.
    pub urls: Vec<String>,
    /// Whether it is about to have certificates to sign, and is to show that it does.
    pub must_sign: bool,
}

impl Needed {
    /// What is said if none is there; `reason` is "" where none is configured.
    pub fn error(&self, reason: &str) -> String {
        let which = self.which;
        let words = format!(
            "there must be at least one valid, reachable external CA corresponding to the {which} CA \
             certificate"
        );
        match reason {
            "" => words,
            reason => format!("{words}: {reason}"),
        }
    }
}

#[derive(Debug)]
enum Change {
    Nothing,
    /// Back to where it began, with this key; "" if external CAs have it.
    CurrentKey(String),
    /// The next root stays, with this key.
    NextKey(String),
    /// This root is to become the cluster's.
    Begin(RootCa),
}

/// Who links the next root to the current one.
#[derive(Debug, PartialEq)]
pub(super) enum Linker<'a> {
    /// The managers, with the current root's key.
    Own,
    /// The external CAs of the current root.
    External(Vec<&'a str>),
}

impl Plan {
    /// Looks at what `next` asks for.
    ///
    /// # Errors
    /// In Swarm's words.
    pub fn of(cluster: &Cluster, mut next: CaConfig, now: Timestamp) -> Result<Self, String> {
        let failed = |error: AuthorityError| error.to_string();
        let (cert, key) = (
            std::mem::take(&mut next.signing_ca_cert),
            std::mem::take(&mut next.signing_ca_key),
        );
        if cert.is_empty() && !key.is_empty() {
            return Err(
                "if a signing CA key is provided, the signing CA cert must also be provided".into(),
            );
        }
        let current = &cluster.root_ca;
        let of_root = |which, root_pem: &str, must_sign| Needed {
            which,
            root_pem: root_pem.to_owned(),
            urls: owned(&urls_for(&next, root_pem, &current.cert_pem)),
            must_sign,
        };
        let mut needed = Vec::new();
        if !has_key(current) {
            needed.push(of_root("current", &current.cert_pem, false));
        }
        let rotation = cluster.root_rotation.as_ref();
        let change = if cert.is_empty() {
            if cluster.spec.ca_config.force_rotate == next.force_rotate {
                if let Some(rotation) = rotation.filter(|rotation| !has_key(&rotation.root)) {
                    needed.push(of_root("next", &rotation.root.cert_pem, false));
                }
                Change::Nothing
            } else {
                Change::Begin(create_root(now).map_err(failed)?)
            }
        } else {
            let wanted = wanted_root(&cert, &key, now)?;
            if !has_key(&wanted) {
                needed.push(of_root("desired", &wanted.cert_pem, true));
            }
            if normal_pem(&current.cert_pem).map_err(failed)? == wanted.cert_pem {
                Change::CurrentKey(wanted.key_pem)
            } else if rotation.is_some_and(|next| next.root.cert_pem == wanted.cert_pem) {
                Change::NextKey(wanted.key_pem)
            } else {
                Change::Begin(wanted)
            }
        };
        if let Change::Begin(root) = &change {
            check_new(root, current)?;
        }
        Ok(Self {
            next,
            needed,
            change,
        })
    }

    /// External CAs that must be there, in the order in which they are to be asked.
    pub(super) fn needed(&self) -> &[Needed] {
        &self.needed
    }

    /// The root that is to become the cluster's, if any, and who is to link it to the current one.
    pub(super) fn begins(&self, cluster: &Cluster) -> Option<(&RootCa, Linker<'_>)> {
        let Change::Begin(root) = &self.change else {
            return None;
        };
        let current = &cluster.root_ca;
        let linker = if has_key(current) {
            Linker::Own
        } else {
            let urls = urls_for(&self.next, &current.cert_pem, &current.cert_pem);
            Linker::External(urls)
        };
        Some((root, linker))
    }

    /// Does it. `link` is the certificate that links the root which [`begins`](Self::begins) to the current
    /// one; "" if none does.
    pub(super) fn carry_out(self, cluster: &mut Cluster, link: String) {
        match self.change {
            Change::Nothing => {}
            Change::CurrentKey(key) => {
                cluster.root_ca.key_pem = key;
                cluster.root_rotation = None;
            }
            Change::NextKey(key) => {
                if let Some(rotation) = &mut cluster.root_rotation {
                    rotation.root.key_pem = key;
                }
            }
            Change::Begin(root) => {
                cluster.root_rotation = Some(RootRotation {
                    root,
                    cross_signed_pem: link,
                });
            }
        }
        cluster.spec.ca_config = self.next;
    }
}

fn owned(urls: &[&str]) -> Vec<String> {
    urls.iter().map(|url| (*url).to_owned()).collect()
}

/// The root that a user brings, without a key where external CAs have it.
fn wanted_root(cert: &str, key: &str, now: Timestamp) -> Result<RootCa, String> {
    let failed = |error: AuthorityError| error.to_string();
    match certificate_count(cert) {
        0 => return Err("could not parse the desired CA certificate".into()),
        1 => {}
        _ => return Err("the desired CA certificate cannot contain multiple certificates".into()),
    }
    let (_, until) = validity(cert).map_err(failed)?;
    if until < now + ROOT_VALIDITY_MIN {
        return Err("CA certificate expires too soon".into());
    }
    if !key.is_empty() {
        return import_root(cert, key).map_err(failed);
    }
    if !is_ca(cert).map_err(failed)? {
        return Err("the desired CA certificate is not a CA's".into());
    }
    Ok(RootCa {
        cert_pem: normal_pem(cert).map_err(failed)?,
        key_pem: String::new(),
    })
}

fn check_new(root: &RootCa, current: &RootCa) -> Result<(), String> {
    let key_of = |pem: &str| {
        let shown = tls_info(pem).map_err(|error| error.to_string())?;
        Ok::<_, String>(shown.cert_issuer_public_key)
    };
    if key_of(&root.cert_pem)? == key_of(&current.cert_pem)? {
        return Err("Cannot update to a cert with an identical key".into());
    }
    // The old one's authority links what it has a request for, which only the new one's key can make.
    if !has_key(root) && !has_key(current) {
        return Err(
            "rotating from one external CA to a different external CA is not supported".into(),
        );
    }
    Ok(())
}

/// Does what the managers can do without external CAs.
#[cfg(test)]
pub(crate) fn apply_alone(
    cluster: &mut Cluster,
    next: CaConfig,
    now: Timestamp,
) -> Result<(), String> {
    let plan = Plan::of(cluster, next, now)?;
    assert!(plan.needed.is_empty(), "{plan:?}");
    let link = match plan.begins(cluster) {
        Some((root, _)) => super::cross_sign(&cluster.root_ca, root, now).unwrap(),
        None => String::new(),
    };
    plan.carry_out(cluster, link);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::ExternalCa;

    fn now() -> Timestamp {
        Timestamp::from_unix_nanos(1_800_000_000_000_000_000)
    }

    fn cluster() -> Cluster {
        Cluster {
            root_ca: create_root(now()).unwrap(),
            ..Cluster::default()
        }
    }

    fn asked(root: &RootCa) -> CaConfig {
        CaConfig {
            signing_ca_cert: root.cert_pem.clone(),
            signing_ca_key: root.key_pem.clone(),
            ..CaConfig::default()
        }
    }

    fn keyless(root: &RootCa) -> RootCa {
        RootCa {
            key_pem: String::new(),
            ..root.clone()
        }
    }

    fn external(url: &str, root: Option<&RootCa>) -> ExternalCa {
        ExternalCa {
            protocol: "cfssl".into(),
            url: url.into(),
            ca_cert: root.map(|root| root.cert_pem.clone()).unwrap_or_default(),
            ..ExternalCa::default()
        }
    }

    /// Who must be there: of which root, where, and whether it must sign.
    fn needed(plan: &Plan) -> Vec<(&str, Vec<&str>, bool)> {
        let needed = plan.needed.iter();
        needed
            .map(|needed| {
                let urls = needed.urls.iter().map(String::as_str).collect();
                (needed.which, urls, needed.must_sign)
            })
            .collect()
    }

    #[test]
    fn a_root_of_the_users_own_replaces_or_aborts() {
        let mut cluster = cluster();
        let (old, new) = (cluster.root_ca.clone(), create_root(now()).unwrap());
        apply_alone(&mut cluster, asked(&new), now()).unwrap();
        assert_eq!(
            cluster.root_rotation.as_ref().unwrap().root.cert_pem,
            new.cert_pem
        );
        assert_eq!(cluster.spec.ca_config, CaConfig::default());
        let again = cluster.clone();
        apply_alone(&mut cluster, asked(&new), now()).unwrap();
        assert_eq!(
            again.root_rotation.unwrap().cross_signed_pem,
            cluster.root_rotation.as_ref().unwrap().cross_signed_pem
        );
        apply_alone(&mut cluster, asked(&old), now()).unwrap();
        assert_eq!(
            (&cluster.root_rotation, &cluster.root_ca.cert_pem),
            (&None, &old.cert_pem)
        );
    }

    #[test]
    fn what_cannot_be_a_root_is_refused_in_swarms_words() {
        let old = Timestamp::from_unix_nanos(0) + Duration::from_secs(600_000_000);
        let (root, aged) = (create_root(now()).unwrap(), create_root(old).unwrap());
        let refused = |config: CaConfig, now| Plan::of(&cluster(), config, now).unwrap_err();
        let mut config = asked(&root);
        config.signing_ca_cert.clear();
        assert_eq!(
            refused(config, now()),
            "if a signing CA key is provided, the signing CA cert must also be provided"
        );
        let mut config = asked(&root);
        config.signing_ca_cert.push_str(&aged.cert_pem);
        assert_eq!(
            refused(config, now()),
            "the desired CA certificate cannot contain multiple certificates"
        );
        let late = old + Duration::from_secs(630_720_000 - 86_400);
        assert_eq!(
            refused(asked(&aged), late),
            "CA certificate expires too soon"
        );
        let mut config = asked(&root);
        config.signing_ca_key = aged.key_pem;
        assert_eq!(refused(config, now()), "certificate key mismatch");
        let cluster = cluster();
        let same = Plan::of(&cluster, asked(&cluster.root_ca), now()).unwrap();
        assert!(matches!(same.change, Change::CurrentKey(_)));
    }

    #[test]
    fn external_cas_must_be_there_for_the_roots_whose_key_is_not() {
        let (own, other) = (cluster(), create_root(now()).unwrap());
        let lacks = "there must be at least one valid, reachable external CA corresponding to the \
                     desired CA certificate";
        // With a key here, they are only noted.
        let mut config = CaConfig {
            external_cas: vec![external("a", None)],
            ..CaConfig::default()
        };
        let plan = Plan::of(&own, config.clone(), now()).unwrap();
        assert_eq!(needed(&plan), []);
        // A root without a key: one of those that are of that root.
        config.signing_ca_cert.clone_from(&other.cert_pem);
        let plan = Plan::of(&own, config.clone(), now()).unwrap();
        assert_eq!(needed(&plan), [("desired", vec![], true)]);
        assert_eq!(plan.needed[0].error(""), lacks);
        assert_eq!(plan.needed[0].error("x"), format!("{lacks}: x"));
        config.external_cas.push(external("b", Some(&other)));
        let plan = Plan::of(&own, config.clone(), now()).unwrap();
        assert_eq!(needed(&plan), [("desired", vec!["b"], true)]);
        let mut changing = own.clone();
        let (root, linker) = plan.begins(&own).unwrap();
        assert_eq!((root, linker), (&keyless(&other), Linker::Own));
        plan.carry_out(&mut changing, "link".into());
        let rotation = changing.root_rotation.clone().unwrap();
        assert_eq!(
            (rotation.root, &*rotation.cross_signed_pem),
            (keyless(&other), "link")
        );
        assert_eq!(changing.spec.ca_config.external_cas.len(), 2);

        // While it changes, both count.
        config.signing_ca_cert.clear();
        let plan = Plan::of(&changing, config.clone(), now()).unwrap();
        assert_eq!(needed(&plan), [("next", vec!["b"], false)]);
        let mut external_now = own.clone();
        external_now.root_ca = keyless(&other);
        let plan = Plan::of(&external_now, config.clone(), now()).unwrap();
        assert_eq!(needed(&plan), [("current", vec!["a", "b"], false)]);
    }

    #[test]
    fn an_external_root_gives_way_to_one_whose_key_is_here() {
        let (first, second) = (create_root(now()).unwrap(), create_root(now()).unwrap());
        let cluster = Cluster {
            root_ca: keyless(&first),
            ..Cluster::default()
        };
        let mut config = CaConfig {
            external_cas: vec![external("a", Some(&first)), external("b", Some(&second))],
            ..asked(&second)
        };
        let plan = Plan::of(&cluster, config.clone(), now()).unwrap();
        assert_eq!(needed(&plan), [("current", vec!["a"], false)]);
        let (_, linker) = plan.begins(&cluster).unwrap();
        assert_eq!(linker, Linker::External(vec!["a"]));
        // Or to its own key, which the user has.
        let mut same = cluster.clone();
        let with_key = CaConfig {
            external_cas: config.external_cas.clone(),
            ..asked(&first)
        };
        let plan = Plan::of(&same, with_key, now()).unwrap();
        assert!(plan.begins(&same).is_none());
        plan.carry_out(&mut same, String::new());
        assert!(same.root_ca.cert_pem == first.cert_pem && has_key(&same.root_ca));
        // But to no other external one.
        config.signing_ca_key.clear();
        assert_eq!(
            Plan::of(&cluster, config, now()).unwrap_err(),
            "rotating from one external CA to a different external CA is not supported"
        );
    }
}
