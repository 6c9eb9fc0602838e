//! What the admin plane shows of a key's use; the gateway fills it from its usage sums.

use std::net::IpAddr;

use crate::model::{Timestamp, Verdict};

/// What is known of one key's use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// The last call that was let in.
    pub last_used_at: Option<Timestamp>,
    pub last_used_ip: Option<IpAddr>,
    /// The last call that was turned away.
    pub last_refused_at: Option<Timestamp>,
    /// How many calls ended in each verdict; verdicts that never occurred may be left out.
    pub calls: Vec<(Verdict, u64)>,
}
