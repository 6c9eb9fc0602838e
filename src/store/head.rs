//! The head of the journal as people note it: the number of a change and the chain after it. Who kept one elsewhere can tell
//! later whether the journal up to there is still the one it was.

use std::fmt;
use std::str::FromStr;

use super::draft::Tail;
use super::line::Chain;
use super::mirror::Applied;
use super::{Seq, hex};

/// Where the chain stood after change `seq`. Written `SEQ:CHAIN`, the chain as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub seq: Seq,
    pub(super) chain: Chain,
}

impl Head {
    /// Before the first change.
    pub const START: Head = Head { seq: 0, chain: Chain::START };

    pub(super) fn new(seq: Seq, chain: Chain) -> Head {
        Head { seq, chain }
    }
}

impl From<Tail> for Head {
    fn from(tail: Tail) -> Head {
        Head::new(tail.seq, tail.chain)
    }
}

impl From<Applied> for Head {
    fn from(applied: Applied) -> Head {
        Head::new(applied.seq, applied.chain)
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, hex::encode(&self.chain.0))
    }
}

/// The text is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a head: the number of a change, a colon, and 64 digits of [0-9a-f]")]
pub struct NoHead;

impl FromStr for Head {
    type Err = NoHead;

    fn from_str(text: &str) -> Result<Head, NoHead> {
        let (seq, chain) = text.split_once(':').ok_or(NoHead)?;
        let seq = seq.parse().ok().filter(|_| seq.bytes().all(|b| b.is_ascii_digit())).ok_or(NoHead)?;
        Ok(Head::new(seq, Chain(hex::decode(chain.as_bytes()).ok_or(NoHead)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back_and_nothing_else_does() {
        let head = Head::new(7, Chain::START.after(b"p", b"q"));
        assert_eq!(head.to_string().parse(), Ok(head));
        assert_eq!(Head::START.to_string().parse(), Ok(Head::START));
        let chain = "0".repeat(64);
        for text in
            ["", "7", "7:", &chain, &format!("+7:{chain}"), &format!("7:{chain}0"), &format!(":{chain}"), &format!("7:{}", "G".repeat(64))]
        {
            assert_eq!(text.parse::<Head>(), Err(NoHead), "{text}");
        }
    }
}
