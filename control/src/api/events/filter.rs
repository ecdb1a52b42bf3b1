//! Which of the swarm's events a client asked for: the engine's own rules, since it filters its own.

use crate::{
    api::{error::ApiError, filters::Filters, query::unix_nanos},
    manager::EventMessage,
};

/// A span of time and filters.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    filters: Filters,
    /// Nanoseconds since the Unix epoch. `None`: what was is not asked for.
    since: Option<i128>,
    until: Option<i128>,
}

impl Wanted {
    /// From the parameters of the request.
    ///
    /// # Errors
    /// 400: the filters are none, or a time is none.
    pub fn parse(filters: &str, since: &str, until: &str) -> Result<Self, ApiError> {
        Ok(Self {
            filters: Filters::parse_any(filters)?,
            since: time(since)?,
            until: time(until)?,
        })
    }

    /// Whether an event that was before the request is asked for.
    pub fn includes_past(&self, event: &EventMessage) -> bool {
        let at = event.at.unix_nanos();
        self.since.is_some_and(|since| at >= since) && self.includes(event)
    }

    /// Whether an event that happens now is.
    pub fn includes(&self, event: &EventMessage) -> bool {
        let (filters, actor) = (&self.filters, &event.actor);
        let attribute = |name: &str| actor.attributes.get(name).map_or("", String::as_str);
        // A filter by the name of something of another kind fits none of these.
        let is = |key: &str, kind: &str| {
            filters.any(key, |wanted| {
                kind == event.kind
                    && (actor.id.starts_with(wanted) || attribute("name").starts_with(wanted))
            })
        };
        let in_time = self
            .until
            .is_none_or(|until| event.at.unix_nanos() <= until);
        in_time
            && filters.any("event", |wanted| wanted == event.action)
            && filters.any("type", |wanted| wanted == event.kind)
            && filters.any("scope", |wanted| wanted == event.scope)
            && ["node", "service", "network", "secret", "config"]
                .iter()
                .all(|kind| is(kind, kind))
            && ["container", "volume", "plugin", "daemon", "image"]
                .iter()
                .all(|key| filters.values(key).is_empty())
            && filters.labels("label", &actor.attributes)
    }
}

fn time(text: &str) -> Result<Option<i128>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let moment = unix_nanos(text).ok_or_else(|| {
        ApiError::invalid(format!(
            "invalid time {text:?}: seconds[.nanoseconds] are wanted"
        ))
    })?;
    Ok(Some(moment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Event, NodeRole, Object, Service, ServiceSpec, Timestamp};
    use std::sync::Arc;

    fn created(at_seconds: i128) -> EventMessage {
        let service = Service {
            id: "s1xyz".into(),
            spec: ServiceSpec {
                name: "web".into(),
                ..ServiceSpec::default()
            },
            ..Service::default()
        };
        let change = Event {
            before: None,
            after: Some(Object::Service(Arc::new(service))),
        };
        let mut event = EventMessage::of_change(&change, Timestamp::default()).unwrap();
        event.at = Timestamp::from_unix_nanos(at_seconds * 1_000_000_000);
        event
    }

    #[test]
    fn filters_are_the_engines() {
        let passes = |filters: &str| {
            Wanted::parse(filters, "", "")
                .unwrap()
                .includes(&created(1))
        };
        for yes in [
            "",
            r#"{"type":["service"]}"#,
            r#"{"type":{"node":true,"service":true}}"#,
            r#"{"event":["create"],"scope":["swarm"]}"#,
            r#"{"service":["we"]}"#,
            r#"{"service":["s1"]}"#,
            r#"{"label":["name=web"]}"#,
        ] {
            assert!(passes(yes), "{yes}");
        }
        for no in [
            r#"{"type":["container"]}"#,
            r#"{"event":["update"]}"#,
            r#"{"scope":["local"]}"#,
            r#"{"service":["other"]}"#,
            r#"{"node":["web"]}"#,
            r#"{"container":["web"]}"#,
            r#"{"label":["a"]}"#,
        ] {
            assert!(!passes(no), "{no}");
        }
    }

    #[test]
    fn times_bound_what_was() {
        let past = |since, until| Wanted::parse("", since, until).unwrap();
        assert!(!past("", "").includes_past(&created(5)), "only what comes");
        assert!(past("5", "").includes_past(&created(5)));
        assert!(!past("5.000000001", "").includes_past(&created(5)));
        assert!(past("1.5", "5").includes_past(&created(5)));
        assert!(!past("1", "4").includes_past(&created(5)));
        for bad in ["x", "1.x", "1.1234567890", "."] {
            assert_eq!(Wanted::parse("", bad, "").unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn a_role_is_no_name() {
        let mut event = created(1);
        event.kind = "node";
        event
            .actor
            .attributes
            .insert("role.new".into(), format!("{:?}", NodeRole::Manager));
        assert!(
            Wanted::parse(r#"{"node":["web"]}"#, "", "")
                .unwrap()
                .includes(&event)
        );
        assert!(
            !Wanted::parse(r#"{"node":["Manager"]}"#, "", "")
                .unwrap()
                .includes(&event)
        );
    }
}
