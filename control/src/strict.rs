//! Values of JSON as types, by Go's rule: an object is an object.
//!
//! `serde_json` takes a list for a struct as well, as the values of its fields in their order, so that `["none"]` would
//! be a restart policy. Docker's decoder refuses it, and whoever sends it means something else.

use serde::{
    Deserializer,
    de::{
        DeserializeOwned, Error as _, IntoDeserializer, Unexpected, Visitor,
        value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Map, Value};

/// A value as a type.
///
/// # Errors
/// It is not of the type, or a list stands where an object is expected.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Strict(value))
}

struct Strict(Value);

impl Strict {
    fn object<'de>(self, expected: &impl Visitor<'de>) -> Result<Fields, Error> {
        let unexpected = match self.0 {
            Value::Object(fields) => return Ok(Fields(fields)),
            Value::Array(_) => Unexpected::Seq,
            Value::String(ref text) => Unexpected::Str(text),
            Value::Bool(value) => Unexpected::Bool(value),
            Value::Number(_) => Unexpected::Other("number"),
            Value::Null => Unexpected::Unit,
        };
        Err(Error::invalid_type(unexpected, expected))
    }
}

/// The fields of an object.
struct Fields(Map<String, Value>);

impl Fields {
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let fields = self.0.into_iter();
        let mut fields = MapDeserializer::new(fields.map(|(name, value)| (name, Strict(value))));
        let value = visitor.visit_map(&mut fields)?;
        fields.end()?;
        Ok(value)
    }
}

impl IntoDeserializer<'_, Error> for Strict {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Strict {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(fields) => Fields(fields).visit(visitor),
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Strict));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            value => value.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.object(&visitor)?.visit(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if !self.0.is_object() {
            return self.0.deserialize_enum(name, variants, visitor);
        }
        let fields = self.object(&visitor)?.0;
        if fields.len() != 1 {
            return Err(Error::invalid_value(
                Unexpected::Map,
                &"an object of one field",
            ));
        }
        let fields = fields
            .into_iter()
            .map(|(name, value)| (name, Strict(value)));
        visitor.visit_enum(MapAccessDeserializer::new(MapDeserializer::new(fields)))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skein_model::ServiceSpec;

    #[test]
    fn values_are_what_serde_json_takes_them_for() {
        let spec: Value = serde_json::from_str(include_str!("api/spec/every_field.json")).unwrap();
        let strict: ServiceSpec = from_value(spec.clone()).unwrap();
        assert_eq!(strict, serde_json::from_value(spec).unwrap());
    }

    #[test]
    fn a_list_is_no_object_at_any_depth() {
        for spec in [
            json!(["web"]),
            json!({"TaskTemplate": ["a"]}),
            json!({"TaskTemplate": {"RestartPolicy": ["none"]}}),
            json!({"TaskTemplate": {"ContainerSpec": {"Mounts": [["bind"]]}}}),
            json!({"Mode": {"Replicated": [3]}}),
            json!({"Mode": {"Replicated": {}, "Global": {}}}),
            json!({"Labels": ["a"]}),
            json!({"TaskTemplate": {"RestartPolicy": "none"}}),
            json!({"Mode": 5}),
        ] {
            let refused = from_value::<ServiceSpec>(spec.clone());
            assert!(refused.is_err(), "{spec} was taken for {refused:?}");
        }
    }
}
