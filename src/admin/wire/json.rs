//! JSON as the admin API reads it: an object that has a member twice is refused (RFC 8259 section 4 leaves open which of them counts,
//! and the one that a person reads first need not be the one that a program takes).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::FieldError;

/// The most members that are named as standing there twice.
const MOST: usize = 20;

/// The value, or everything that is wrong with the text, each with its pointer.
pub fn parse(text: &[u8]) -> Result<Value, Vec<FieldError>> {
    let mut twice = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Reading { place: Place::Whole, twice: &mut twice }.deserialize(&mut reader);
    match read.and_then(|value| reader.end().map(|()| value)) {
        Err(error) => Err(vec![FieldError { pointer: String::new(), message: format!("is not JSON: {error}") }]),
        Ok(value) if twice.is_empty() => Ok(value),
        Ok(_) => Err(twice),
    }
}

/// Where a value stands. It is written out only for what is wrong.
#[derive(Clone, Copy)]
enum Place<'p> {
    Whole,
    Member(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

/// A JSON pointer (RFC 6901).
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Whole => Ok(()),
            Place::Member(of, name) => write!(f, "{of}/{}", escaped(name)),
            Place::Item(of, index) => write!(f, "{of}/{index}"),
        }
    }
}

/// A member's name in a JSON pointer.
pub fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Reads the value that stands at a place.
struct Reading<'p, 't> {
    place: Place<'p>,
    twice: &'t mut Vec<FieldError>,
}

impl<'de> DeserializeSeed<'de> for Reading<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element_seed(Reading { place: Place::Item(&self.place, read.len()), twice: &mut *self.twice })? {
            read.push(item);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let place = Place::Member(&self.place, &name);
            let value = members.next_value_seed(Reading { place, twice: &mut *self.twice })?;
            if read.contains_key(&name) && self.twice.len() < MOST {
                self.twice.push(FieldError { pointer: place.to_string(), message: "stands there twice; send it once".into() });
            }
            read.insert(name, value);
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_stands_twice_is_pointed_at_wherever_it_is() {
        let cases: [(&str, &[&str]); 7] = [
            (r#"{"label":"x","permissions":["inv:read"],"permissions":null}"#, &["/permissions"]),
            (r#"{"a":1,"a":1}"#, &["/a"]),
            (r#"{"a":1,"\u0061":2,"b":{"c":[0,{"d/e":1,"d/e":2}]}}"#, &["/a", "/b/c/1/d~1e"]),
            (r#"{"keys":[{"label":"x"},{"label":"y","label":"z"}]}"#, &["/keys/1/label"]),
            (r#"{"a":{"b":1},"b":{"b":1},"A":null}"#, &[]),
            ("[{},{}]", &[]),
            ("{", &[""]),
        ];
        for (text, pointers) in cases {
            let found: Vec<String> = parse(text.as_bytes()).err().unwrap_or_default().into_iter().map(|e| e.pointer).collect();
            assert_eq!(found, pointers, "{text}");
        }
    }

    #[test]
    fn everything_else_is_read_as_ever() {
        for text in ["null", "true", "-7", "18446744073709551615", "1.5e3", r#""é\n""#, r#"[1,[],{"b":{"c":null},"a":false}]"#, " {} "] {
            assert_eq!(parse(text.as_bytes()), Ok(serde_json::from_str(text).unwrap()), "{text}");
        }
        for text in ["", "{}{}", "[1,]", "nul", &"[".repeat(100_000)] {
            assert!(parse(text.as_bytes()).is_err_and(|errors| errors[0].message.starts_with("is not JSON: ")), "{text:.9}");
        }
    }

    #[test]
    fn not_every_one_of_many_is_named() {
        let text = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(1_000));
        assert_eq!(parse(text.as_bytes()).unwrap_err().len(), MOST);
    }
}
