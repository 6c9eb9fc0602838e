//! Which state of a machine, key or operator an answer shows (`ETag`), and which one a change is meant for (`If-Match`).
//!
//! A tag is `"<revision>.<check>"`: the number of the last change of the record, and a checksum of what the answer shows. The
//! revision alone decides whether a change is meant for what is there: that a key was used meanwhile is no edit. The whole tag
//! decides whether a client's copy is still good (`If-None-Match`): last uses, expiry and the machine's permissions move without
//! any change of the key.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request};
use serde::Serialize;

use super::Admin;
use super::problem::{Code, Problem};
use crate::model::{Change, ChangeError, Origin};
use crate::registry::Committed;
use crate::store::Seq;

/// The most tags that one request may list.
const MAX_TAGS: usize = 32;

/// The strong tag of what an answer shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(HeaderValue);

impl Tag {
    /// `shown` is what a GET of the record would answer.
    pub fn of(revision: Seq, shown: &impl Serialize) -> Tag {
        let check = crc32fast::hash(&serde_json::to_vec(shown).unwrap_or_default());
        let tag = HeaderValue::from_str(&format!("\"{revision}.{check:08x}\""));
        Tag(tag.unwrap_or_else(|_| HeaderValue::from_static("\"\"")))
    }
}

/// An answer with the tag of what it shows.
pub struct Tagged<T> {
    pub body: T,
    pub tag: Tag,
}

impl<T: Serialize> Tagged<T> {
    pub fn new(revision: Seq, body: T) -> Tagged<T> {
        Tagged { tag: Tag::of(revision, &body), body }
    }
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        response.headers_mut().insert(header::ETAG, self.tag.0);
        response
    }
}

/// What a change demands of the record that it is about (RFC 9110 section 13.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// Nothing was demanded, or that it exists, which every change demands.
    Whatever,
    /// Its last change is one of these. Tags that this API never gives, and weak ones, are none.
    OneOf(Vec<Seq>),
}

impl IfMatch {
    /// Whether the record may be changed in this state.
    pub fn permits(&self, revision: Seq) -> Result<(), Problem> {
        match self {
            IfMatch::OneOf(revisions) if !revisions.contains(&revision) => Err(changed_since()),
            IfMatch::OneOf(_) | IfMatch::Whatever => Ok(()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<IfMatch, Problem> {
        Ok(match listed(&parts.headers, &header::IF_MATCH)? {
            None | Some(Listed::Any) => IfMatch::Whatever,
            Some(Listed::Tags(tags)) => IfMatch::OneOf(tags.iter().filter_map(|tag| revision_in(tag)).collect()),
        })
    }
}

/// The revision in a tag as it was sent; a weak tag has none, since it never matches here. The check may be left out.
fn revision_in(tag: &[u8]) -> Option<Seq> {
    let opaque = tag.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let revision = opaque.split(|byte| *byte == b'.').next()?;
    std::str::from_utf8(revision).ok()?.parse().ok()
}

fn changed_since() -> Problem {
    Problem::new(Code::PreconditionFailed, "it is not what If-Match names, or is no longer: look at it again, then decide")
}

impl Admin {
    /// Makes a change, if what it is about is as the request demands.
    pub async fn commit(&self, origin: Origin, change: Change, demanded: IfMatch) -> Result<Committed, Problem> {
        let revisions = match demanded {
            IfMatch::Whatever => return Ok(self.registry.commit(origin, change).await?),
            // No record has a revision of 0: who demands the impossible hears first whether there is anything at all.
            IfMatch::OneOf(none) if none.is_empty() => vec![0],
            IfMatch::OneOf(revisions) => revisions,
        };
        for revision in revisions {
            match self.registry.commit_at(origin.clone(), change.clone(), revision).await {
                Err(ChangeError::Stale { .. }) => {}
                judged => return Ok(judged?),
            }
        }
        Err(changed_since())
    }
}

/// For an answer to GET: nothing but its head, where the client says that it has this very state already (RFC 9110 section 13.1.2).
pub fn not_modified(asked: &HeaderMap, response: Response) -> Response {
    let Some(tag) = response.headers().get(header::ETAG) else { return response };
    let known = match listed(asked, &header::IF_NONE_MATCH) {
        Ok(None) => false,
        Ok(Some(Listed::Any)) => true,
        // Compared weakly, as that section says.
        Ok(Some(Listed::Tags(tags))) => tags.iter().any(|known| known.strip_prefix(b"W/").unwrap_or(known) == tag.as_bytes()),
        Err(problem) => return problem.into_response(),
    };
    if !known {
        return response;
    }
    let mut bare = StatusCode::NOT_MODIFIED.into_response();
    bare.headers_mut().insert(header::ETAG, tag.clone());
    bare
}

/// What a precondition names.
#[derive(Debug, PartialEq, Eq)]
enum Listed {
    Any,
    /// Each as it was sent, `W/` and quotes included.
    Tags(Vec<Vec<u8>>),
}

fn listed(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Listed>, Problem> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let fields: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let listed = read(&fields.join(&b","[..]));
    let wrong = || {
        Problem::invalid_at(
            format!("{name}:"),
            format!("is neither * nor a list of 1 to {MAX_TAGS} tags, each between quotes as ETag gives them"),
        )
    };
    listed.map(Some).ok_or_else(wrong)
}

fn read(field: &[u8]) -> Option<Listed> {
    if field.trim_ascii() == b"*" {
        return Some(Listed::Any);
    }
    let (mut tags, mut rest) = (Vec::new(), field);
    loop {
        // Empty elements of a list are passed over (RFC 9110 section 5.6.1.2).
        rest = rest.trim_ascii_start();
        if let Some(after) = rest.strip_prefix(b",") {
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return (1..=MAX_TAGS).contains(&tags.len()).then_some(Listed::Tags(tags));
        }
        let tag;
        (tag, rest) = split_tag(rest)?;
        tags.push(tag.to_vec());
        rest = rest.trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
    }
}

/// `entity-tag` of RFC 9110 section 8.8.3 at the beginning, and what follows it.
fn split_tag(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let quoted = text.strip_prefix(b"W/").unwrap_or(text).strip_prefix(b"\"")?;
    let length = quoted.iter().position(|byte| *byte == b'"')?;
    let good = quoted[..length].iter().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..));
    let end = text.len() - quoted.len() + length + 1;
    good.then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_rfc_9110_writes_them() {
        let tags = |tags: &[&str]| Some(Listed::Tags(tags.iter().map(|tag| tag.as_bytes().to_vec()).collect()));
        let many = ["\"1\""; MAX_TAGS + 1].join(",");
        let cases = [
            ("*", Some(Listed::Any)),
            (" * ", Some(Listed::Any)),
            ("\"1\"", tags(&["\"1\""])),
            ("\"1\" ,W/\"2\",, \"a,b\"", tags(&["\"1\"", "W/\"2\"", "\"a,b\""])),
            ("\"\"", tags(&["\"\""])),
            ("", None),
            (",", None),
            ("1", None),
            ("\"1", None),
            ("\"1\" \"2\"", None),
            ("\"a b\"", None),
            ("w/\"1\"", None),
            ("*, \"1\"", None),
            (many.as_str(), None),
        ];
        for (field, expected) in cases {
            assert_eq!(read(field.as_bytes()), expected, "{field}");
        }
    }

    #[test]
    fn a_weak_or_foreign_tag_names_no_revision() {
        let cases = [("\"7.0a1b2c3d\"", Some(7)), ("\"7\"", Some(7)), ("W/\"7\"", None), ("\"x\"", None), ("\"-7\"", None), ("\"\"", None)];
        for (tag, revision) in cases {
            assert_eq!(revision_in(tag.as_bytes()), revision, "{tag}");
        }
        assert!(IfMatch::OneOf(vec![7]).permits(7).is_ok() && IfMatch::OneOf(vec![6]).permits(7).is_err());
        assert!(IfMatch::OneOf(Vec::new()).permits(0).is_err() && IfMatch::Whatever.permits(7).is_ok());
    }

    #[test]
    fn a_tag_moves_with_the_change_and_with_what_is_shown() {
        let tags = [Tag::of(1, &"a"), Tag::of(2, &"a"), Tag::of(1, &"b")];
        assert!(tags[0] != tags[1] && tags[0] != tags[2] && tags[0] == Tag::of(1, &"a"));
        assert_eq!(revision_in(tags[1].0.as_bytes()), Some(2));
    }
}
