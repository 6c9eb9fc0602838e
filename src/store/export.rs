//! The journal as it may leave the machine: JSON lines that hold the public part of each line and what is needed to verify the
//! chain without the private one.
//!
//! ```text
//! {<public part>,"previous_chain":"<64 hex>","chain":"<64 hex>","private_sha256":"<64 hex>"}
//! ```
//!
//! The bytes before `,"previous_chain"` and the closing brace are those that were chained: who verifies needs the line as
//! it was exported, not as another program wrote it anew.

use sha2::{Digest, Sha256};

use super::head::Head;
use super::line::{Chain, Fault, Line};
use super::segment::Block;
use super::{Seq, StoreError, hex};

const PREVIOUS: &[u8] = b",\"previous_chain\":\"";
const CHAIN: &[u8] = b"\",\"chain\":\"";
const PRIVATE: &[u8] = b"\",\"private_sha256\":\"";
const END: &[u8] = b"\"}";
const DIGEST: usize = 64;

/// A line of an export, taken apart.
pub struct Exported {
    pub public: Vec<u8>,
    pub previous: Chain,
    pub chain: Chain,
    private: [u8; 32],
}

impl Exported {
    /// Reads a line, given without its line feed.
    pub fn read(line: &[u8]) -> Option<Exported> {
        let rest = line.strip_suffix(END)?;
        let (rest, private) = digest_at_end(rest, PRIVATE)?;
        let (rest, chain) = digest_at_end(rest, CHAIN)?;
        let (rest, previous) = digest_at_end(rest, PREVIOUS)?;
        Some(Exported { public: [rest, b"}"].concat(), previous: Chain(previous), chain: Chain(chain), private })
    }

    /// Whether the line holds what was chained.
    pub fn is_whole(&self) -> bool {
        self.previous.after_digest(&self.public, &self.private) == self.chain
    }
}

fn digest_at_end<'l>(line: &'l [u8], label: &[u8]) -> Option<(&'l [u8], [u8; 32])> {
    let (rest, digits) = line.split_at_checked(line.len().checked_sub(DIGEST)?)?;
    Some((rest.strip_suffix(label)?, hex::decode(digits)?))
}

/// Appends a line, and moves `head` on.
fn write(head: &mut Head, line: &Line<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let private: [u8; 32] = Sha256::digest(line.private).into();
    if head.chain.after_digest(line.public, &private) != line.chain {
        return Err(Fault::Chain);
    }
    out.extend_from_slice(line.public.strip_suffix(b"}").ok_or(Fault::Content)?);
    for (label, digest) in [(PREVIOUS, &head.chain.0), (CHAIN, &line.chain.0), (PRIVATE, &private)] {
        out.extend_from_slice(label);
        out.extend_from_slice(hex::encode(digest).as_bytes());
    }
    out.extend_from_slice(END);
    out.push(b'\n');
    *head = Head::new(head.seq + 1, line.chain);
    Ok(())
}

/// The lines of a block that follow `after`, up to `until`, and where that leads. A line that does not follow is never exported.
pub fn lines(block: &Block, after: Head, until: Seq) -> Result<(Vec<u8>, Head), StoreError> {
    let (mut out, mut head) = (Vec::new(), after);
    block.each(|seq, line| {
        if seq > after.seq && seq <= until {
            write(&mut head, line, &mut out).map_err(|fault| block.unusable(seq, &fault.to_string()))?;
        }
        Ok(())
    })?;
    Ok((out, head))
}
