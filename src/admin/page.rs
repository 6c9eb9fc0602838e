//! Query parameters: which page of a list, and which filters.

use axum::extract::{FromRequestParts, Query};
use http::request;

use super::fields::{Faults, Read};
use super::problem::Problem;
use super::values;
use super::wire::FieldError;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

/// The parameters of one request. A reader takes each it knows, then calls [`Params::finish`].
#[derive(Debug)]
pub struct Params {
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The mark of the last entry that was seen already.
    pub after: Option<u128>,
    /// 1 to 500.
    pub limit: usize,
}

impl Params {
    fn new(pairs: Vec<(String, String)>) -> Params {
        Params { left: pairs, known: Vec::new(), errors: Vec::new() }
    }

    /// A parameter that may be left out, and may not be given twice.
    pub fn optional<T>(&mut self, name: &'static str, read: impl FnOnce(String) -> Read<T>) -> Option<T> {
        self.known.push(name);
        let at = self.left.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.left.remove(at);
        let read = if self.left.iter().any(|(given, _)| given == name) { Err("is given twice".into()) } else { read(value) };
        self.left.retain(|(given, _)| given != name);
        read.map_err(|Faults(faults)| {
            self.errors.extend(faults.into_iter().map(|f| FieldError { pointer: format!("?{name}"), message: f.message }));
        })
        .ok()
    }

    pub fn page(&mut self) -> Page {
        let limit = self.optional("limit", read_limit).unwrap_or(DEFAULT_LIMIT);
        Page { after: self.optional("cursor", |text| read_cursor(&text)), limit }
    }

    /// Why a deletion is made: it has no body to say so in.
    pub fn reason(&mut self) -> Option<String> {
        self.optional("reason", |text| values::reason(text.into()))
    }

    pub fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in &self.left {
            let message = format!("is not a parameter of this request; known: {}", self.known.join(", "));
            self.errors.push(FieldError { pointer: format!("?{name}"), message });
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid(self.errors)) }
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Params, Problem> {
        match Query::<Vec<(String, String)>>::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => Ok(Params::new(pairs)),
            Err(error) => Err(Problem::invalid_at("?", error.to_string())),
        }
    }
}

fn read_limit(text: String) -> Read<usize> {
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| format!("{text:?} is not a whole number from 1 to {MAX_LIMIT}").into())
}

/// The cursor that asks for what comes after `mark`.
pub fn cursor(mark: u128) -> String {
    format!("c{mark:x}")
}

fn read_cursor(text: &str) -> Read<u128> {
    let digits = text.strip_prefix('c').filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let mark = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
    mark.ok_or_else(|| "is not a cursor of this API; use next_cursor as it was given".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params::new(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn page(pairs: &[(&str, &str)]) -> Option<Page> {
        let mut params = params(pairs);
        let page = params.page();
        params.finish().ok().map(|()| page)
    }

    #[test]
    fn a_page_has_a_bounded_length_and_a_cursor_reads_back() {
        assert_eq!(page(&[]), Some(Page { after: None, limit: 50 }));
        let far = cursor(u128::MAX);
        assert_eq!(page(&[("limit", "500"), ("cursor", &far)]), Some(Page { after: Some(u128::MAX), limit: 500 }));
        let bad: [&[(&str, &str)]; 8] = [
            &[("limit", "0")],
            &[("limit", "501")],
            &[("limit", "-1")],
            &[("limit", "ten")],
            &[("cursor", "")],
            &[("cursor", "c")],
            &[("cursor", "cxyz")],
            &[("limit", "1"), ("limit", "1")],
        ];
        for pairs in bad {
            assert_eq!(page(pairs), None, "{pairs:?}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_answered_with_the_known_ones() {
        let mut unknown = params(&[("stauts", "active"), ("limit", "0")]);
        unknown.page();
        let problem = unknown.finish().unwrap_err();
        assert_eq!(problem.errors.len(), 2);
        assert_eq!(problem.errors[1].pointer, "?stauts");
        assert!(problem.errors[1].message.ends_with("known: limit, cursor"));
    }
}
