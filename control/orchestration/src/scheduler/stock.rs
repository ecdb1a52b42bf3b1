//! What a node has of CPU, memory and generic resources, and what tasks take of it.

use skein_model::{DiscreteResource, GenericResource, NamedResource, Node, Reservations, Task};
use std::collections::{BTreeMap, BTreeSet};

/// What is left of a node's resources. Amounts fall below zero where more was given than there is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stock {
    nano_cpus: i64,
    memory_bytes: i64,
    generic: BTreeMap<String, Generic>,
}

/// What is left of one kind of generic resource.
#[derive(Clone, Debug, PartialEq)]
enum Generic {
    Count(i64),
    Names(BTreeSet<String>),
}

impl Generic {
    fn count(&self) -> i64 {
        match self {
            Self::Count(count) => *count,
            Self::Names(names) => names.len() as i64,
        }
    }
}

/// What a task wants for itself; `None` where it reserves nothing.
pub(super) fn reserved(task: &Task) -> Option<&Reservations> {
    let resources = task.spec.resources.as_ref();
    resources.and_then(|resources| resources.reservations.as_ref())
}

impl Stock {
    /// All that the node has.
    pub(crate) fn of(node: &Node) -> Self {
        let resources = &node.description.resources;
        let mut generic = BTreeMap::new();
        for resource in &resources.generic_resources {
            if let Some(discrete) = &resource.discrete_resource_spec {
                generic.insert(discrete.kind.clone(), Generic::Count(discrete.value));
            }
            if let Some(named) = &resource.named_resource_spec {
                let names = generic
                    .entry(named.kind.clone())
                    .or_insert_with(|| Generic::Names(BTreeSet::new()));
                if let Generic::Names(names) = names {
                    names.insert(named.value.clone());
                }
            }
        }
        Self {
            nano_cpus: resources.nano_cpus,
            memory_bytes: resources.memory_bytes,
            generic,
        }
    }

    /// Whether what a task reserves is there. Named resources cannot be asked for by name, and of none can
    /// fewer than none be had: Swarm takes such a service, and its tasks wait.
    pub(super) fn has(&self, wanted: Option<&Reservations>) -> bool {
        let Some(wanted) = wanted else { return true };
        wanted.nano_cpus <= self.nano_cpus.max(0)
            && wanted.memory_bytes <= self.memory_bytes.max(0)
            && self.has_generic(&wanted.generic_resources)
    }

    fn has_generic(&self, wanted: &[GenericResource]) -> bool {
        // One kind may be asked for more than once.
        let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
        for resource in wanted {
            if resource.named_resource_spec.is_some() {
                return false;
            }
            let Some(wanted) = &resource.discrete_resource_spec else {
                continue;
            };
            let sum = sums.entry(&wanted.kind).or_default();
            *sum = sum.saturating_add(wanted.value);
            let left = self.generic.get(&wanted.kind).map_or(0, Generic::count);
            if wanted.value < 0 || *sum > left.max(0) {
                return false;
            }
        }
        true
    }

    /// Whether the node still has what a task was given of it.
    pub(crate) fn holds(&self, task: &Task) -> bool {
        let amounts = reserved(task).is_none_or(|given| {
            given.nano_cpus <= self.nano_cpus.max(0)
                && given.memory_bytes <= self.memory_bytes.max(0)
        });
        amounts
            && task.generic_resources.iter().all(|given| {
                let discrete = given.discrete_resource_spec.as_ref();
                let named = given.named_resource_spec.as_ref();
                discrete.is_none_or(|d| {
                    let left = self.generic.get(&d.kind).map_or(0, Generic::count);
                    d.value <= left.max(0)
                }) && named.is_none_or(|n| {
                    matches!(self.generic.get(&n.kind),
                        Some(Generic::Names(names)) if names.contains(&n.value))
                })
            })
    }

    /// Which of the generic resources a task is to get: of named ones, the first that are free.
    pub(super) fn choose(&self, wanted: Option<&Reservations>) -> Vec<GenericResource> {
        let wanted = wanted.into_iter().flat_map(|w| &w.generic_resources);
        let discrete = wanted.filter_map(|resource| resource.discrete_resource_spec.as_ref());
        let mut chosen = Vec::new();
        let mut given: BTreeMap<&str, usize> = BTreeMap::new();
        for DiscreteResource { kind, value } in discrete {
            match self.generic.get(kind) {
                Some(Generic::Names(names)) => {
                    let count = usize::try_from(*value).unwrap_or(0);
                    let before = given.entry(kind).or_default();
                    let free = names.iter().skip(*before).take(count);
                    *before += count;
                    chosen.extend(free.map(|name| GenericResource {
                        named_resource_spec: Some(NamedResource {
                            kind: kind.clone(),
                            value: name.clone(),
                        }),
                        ..GenericResource::default()
                    }));
                }
                _ => chosen.push(GenericResource {
                    discrete_resource_spec: Some(DiscreteResource {
                        kind: kind.clone(),
                        value: *value,
                    }),
                    ..GenericResource::default()
                }),
            }
        }
        chosen
    }

    /// Takes away what a task reserves, and what it was given of the generic resources.
    pub(crate) fn take(&mut self, task: &Task) {
        if let Some(wanted) = reserved(task) {
            self.nano_cpus -= wanted.nano_cpus;
            self.memory_bytes -= wanted.memory_bytes;
        }
        for resource in &task.generic_resources {
            if let Some(discrete) = &resource.discrete_resource_spec
                && let Some(Generic::Count(count)) = self.generic.get_mut(&discrete.kind)
            {
                *count -= discrete.value;
            }
            if let Some(named) = &resource.named_resource_spec
                && let Some(Generic::Names(names)) = self.generic.get_mut(&named.kind)
            {
                names.remove(&named.value);
            }
        }
    }
}
