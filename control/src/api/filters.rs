//! The `filters` parameter of lists.

use super::error::ApiError;
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// Filters by key. Values of one key are alternatives; keys must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

/// As clients write them.
impl fmt::Display for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        serde_json::json!(self.0).fmt(f)
    }
}

impl Filters {
    /// Reads `{"key":["a","b"]}`, or the older `{"key":{"a":true}}`.
    ///
    /// # Errors
    /// 400: neither of the two, or a key that is not among `allowed`.
    pub fn parse(text: &str, allowed: &[&str]) -> Result<Self, ApiError> {
        let filters = Self::parse_any(text)?;
        match filters
            .0
            .keys()
            .find(|key| !allowed.contains(&key.as_str()))
        {
            Some(key) => Err(ApiError::invalid(format!("invalid filter '{key}'"))),
            None => Ok(filters),
        }
    }

    /// The same with any keys.
    ///
    /// # Errors
    /// 400: neither of the two forms.
    pub fn parse_any(text: &str) -> Result<Self, ApiError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let invalid = || ApiError::invalid(format!("invalid filters: {text}"));
        let fields = match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            // As Docker's decoder has it.
            Ok(Value::Null) => return Ok(Self::default()),
            _ => return Err(invalid()),
        };
        let mut filters = BTreeMap::new();
        for (key, values) in fields {
            let values: Vec<String> = match values {
                Value::Array(items) => items
                    .into_iter()
                    .map(|item| item.as_str().map(str::to_owned).ok_or_else(invalid))
                    .collect::<Result<_, _>>()?,
                Value::Object(items) => items
                    .into_iter()
                    .filter(|(_, on)| on.as_bool() == Some(true))
                    .map(|(value, _)| value)
                    .collect(),
                _ => return Err(invalid()),
            };
            filters.insert(key, values);
        }
        Ok(Self(filters))
    }

    /// The values of a key.
    pub fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// One more value of a key.
    pub fn add(&mut self, key: &str, value: &str) {
        let values = self.0.entry(key.to_owned()).or_default();
        values.push(value.to_owned());
    }

    /// A key with all its values is no more.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Whether a key is absent, or one of its values passes.
    pub fn any(&self, key: &str, passes: impl Fn(&str) -> bool) -> bool {
        let values = self.values(key);
        values.is_empty() || values.iter().any(|value| passes(value))
    }

    /// Whether labels pass a filter of them. Unlike others', its values (`key` or `key=value`) must
    /// all hold; of two for the same label, the last counts.
    pub fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        let wanted: BTreeMap<_, _> = self
            .values(key)
            .iter()
            .map(|value| match value.split_once('=') {
                Some((label, value)) => (label, Some(value)),
                None => (value.as_str(), None),
            })
            .collect();
        wanted.into_iter().all(|(label, value)| {
            labels
                .get(label)
                .is_some_and(|has| value.is_none_or(|value| value.is_empty() || has == value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn both_forms_mean_the_same() {
        let new = Filters::parse(r#"{"name":["a","b"]}"#, &["name"]).unwrap();
        let old = Filters::parse(r#"{"name":{"a":true,"b":true,"c":false}}"#, &["name"]).unwrap();
        assert_eq!(new, old);
        assert!(new.any("name", |name| name == "b"));
        assert!(!new.any("name", |name| name == "c"));
        assert!(new.any("id", |_| false), "an absent key lets all pass");
    }

    #[test]
    fn unknown_keys_and_other_shapes_are_refused() {
        let error = Filters::parse(r#"{"nope":["a"]}"#, &["name"]).unwrap_err();
        assert_eq!(
            (error.status.as_u16(), &*error.message),
            (400, "invalid filter 'nope'")
        );
        for text in ["[]", "{", r#"{"name":"a"}"#, r#"{"name":[1]}"#] {
            assert_eq!(
                Filters::parse(text, &["name"]).unwrap_err().status,
                400,
                "{text}"
            );
        }
    }

    #[test]
    fn labels_must_all_hold_and_the_last_of_a_key_counts() {
        let has = labels(&[("a", "1"), ("b", "2")]);
        let passes = |text: &str| {
            Filters::parse(text, &["label"])
                .unwrap()
                .labels("label", &has)
        };
        assert!(passes(r#"{"label":["a","b=2"]}"#));
        assert!(!passes(r#"{"label":["a","c"]}"#));
        assert!(!passes(r#"{"label":["a=2"]}"#));
        assert!(passes(r#"{"label":["a=2","a=1"]}"#));
        assert!(passes("{}"));
    }
}
