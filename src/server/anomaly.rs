//! What can be wrong with a request before anybody asks what it wants.

use std::error::Error;
use std::fmt;
use std::io;

/// What was wrong with a request as it came over the wire. The service answers it; the connection ends after that answer.
///
/// It reaches a service in two ways: beside the request when the head was refused, and inside the error of the
/// request's body (see [`Anomaly::of`]) when the body was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// Two servers could read it differently, or it is no HTTP/1 at all. Says what was wrong, in plain English.
    Malformed(&'static str),
    /// The head has more bytes or more fields than the bounds allow (RFC 6585 section 5).
    HeadTooLarge,
    /// The target is longer than the bounds allow (RFC 9110 section 15.5.15).
    UriTooLong,
    /// The head, or more of the body, did not come in time (RFC 9110 section 15.5.9).
    TimedOut,
}

impl Anomaly {
    /// The anomaly behind a body's error, if that is why the body ended early; `None` when the client just went away.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Anomaly> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(anomaly) = error.downcast_ref::<Anomaly>() {
                return Some(*anomaly);
            }
            // `io::Error::source` skips the error it was made from.
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner as &(dyn Error + 'static)),
                None => error.source(),
            };
        }
        None
    }

    /// As the read error by which a body ends: `TimedOut` or `InvalidData`.
    pub(super) fn into_io(self) -> io::Error {
        let kind = match self {
            Anomaly::TimedOut => io::ErrorKind::TimedOut,
            Anomaly::Malformed(_) | Anomaly::HeadTooLarge | Anomaly::UriTooLong => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, self)
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Anomaly::Malformed(what) => what,
            Anomaly::HeadTooLarge => "the request's header section is too large",
            Anomaly::UriTooLong => "the request target is too long",
            Anomaly::TimedOut => "the request did not arrive in time",
        })
    }
}

impl Error for Anomaly {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anomaly_is_found_again_behind_the_errors_around_it() {
        for anomaly in [Anomaly::TimedOut, Anomaly::Malformed("why"), Anomaly::HeadTooLarge] {
            assert_eq!(Anomaly::of(&anomaly), Some(anomaly));
            assert_eq!(Anomaly::of(&anomaly.into_io()), Some(anomaly));
            assert_eq!(Anomaly::of(&io::Error::other(anomaly.into_io())), Some(anomaly));
        }
        assert_eq!(Anomaly::of(&io::Error::from(io::ErrorKind::TimedOut)), None);
    }
}
