//! What the gateway takes from nobody: said before anybody is charged for it, and never dependent on the key.

use http::header::{CONTENT_LENGTH, EXPECT};
use http::request::Parts;

use crate::config::{Settings, Underscores};
use crate::model::Refusal;

pub struct Acceptable {
    underscores: Underscores,
    /// Bytes.
    body_size: Option<u64>,
}

impl Acceptable {
    pub fn new(settings: &Settings) -> Acceptable {
        Acceptable { underscores: settings.underscores, body_size: settings.connections.body_size }
    }

    pub fn judge(&self, head: &mut Parts) -> Result<(), Refusal> {
        expectation(head)?;
        if self.underscores == Underscores::Refuse && head.headers.keys().any(|name| name.as_str().contains('_')) {
            return Err(Refusal::BadRequest("a field name holds an underscore"));
        }
        match self.body_size {
            Some(most) if announced_length(head).is_some_and(|length| length > most) => Err(Refusal::BodyTooLarge),
            _ => Ok(()),
        }
    }
}

fn announced_length(head: &Parts) -> Option<u64> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `100-continue` is answered by the gateway, when the body is first asked for, and not forwarded; nothing else can be met
/// (RFC 9110 section 10.1.1).
fn expectation(head: &mut Parts) -> Result<(), Refusal> {
    let mut expectations = head.headers.get_all(EXPECT).iter();
    if expectations.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Refusal::ExpectationFailed);
    }
    head.headers.remove(EXPECT);
    Ok(())
}
