//! A group of changes on its way into the journal: entries become lines.

use serde::Serialize;
use serde_json::{Value, json};

use super::effects::{self, Effects, Failure, Touched};
use super::history::STORE;
use super::line::{self, Chain};
use super::mirror::{Mirror, Writes};
use super::records::{self, Private, StoredOp, Unreadable};
use super::sum::Sum;
use super::{Author, Entry, Op, Seq, Subject};

/// The head of the journal: what the next line follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The number of the last line, 0 before the first.
    pub seq: Seq,
    pub chain: Chain,
    /// The sum over all live records after it.
    pub state: Sum,
}

impl Tail {
    /// Before the first line.
    pub fn start() -> Tail {
        Tail { seq: 0, chain: Chain::START, state: Sum::default() }
    }
}

/// The public part of a line.
#[derive(Serialize)]
struct Public<'a> {
    seq: Seq,
    time: String,
    actor: &'a str,
    address: Option<String>,
    reason: Option<&'a str>,
    what: &'a str,
    subject: String,
    changes: Vec<Value>,
    base: u64,
    state: String,
    previous: Previous,
    /// Of a line about the store itself: what was done with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'a Value>,
}

/// The lines to go on reading from.
#[derive(Serialize)]
struct Previous {
    /// The last change of the same machine or key.
    subject: Option<Seq>,
    /// The last change by the same actor.
    actor: Option<Seq>,
}

/// Lines that are ready to be written, and what to write into the mirror once they are durable.
pub struct Draft<'m> {
    effects: Effects<'m>,
    base: u64,
    pub tail: Tail,
    pub bytes: Vec<u8>,
    /// Where in `bytes` each line begins.
    pub starts: Vec<usize>,
}

impl<'m> Draft<'m> {
    /// A group that will begin at offset `base` of the segment, after `tail`.
    pub fn new(mirror: &'m Mirror, tail: Tail, base: u64) -> Draft<'m> {
        Draft { effects: Effects::upon(mirror, tail.state), base, tail, bytes: Vec::new(), starts: Vec::new() }
    }

    /// Adds one line and says which number it has.
    pub fn add(&mut self, entry: &Entry) -> Result<Seq, Failure> {
        let seq = self.tail.seq + 1;
        let previous = Previous { subject: self.effects.last_of(entry.subject)?, actor: self.effects.last_by(&entry.actor)? };
        let mut changes = Vec::new();
        let mut ops = Vec::new();
        for op in &entry.ops {
            for op in self.in_full(op)? {
                if let Some(touched) = self.effects.perform(seq, &op)? {
                    changes.push(show(&touched)?);
                    ops.push(op);
                }
            }
        }
        let public = Public {
            seq,
            time: entry.time.to_string(),
            actor: &entry.actor,
            address: entry.address.map(|a| a.to_string()),
            reason: entry.reason.as_deref(),
            what: entry.what,
            subject: entry.subject.to_string(),
            changes,
            base: self.base,
            state: self.effects.sum.to_string(),
            previous,
            store: None,
        };
        self.push(&to_json(&public), &to_json(&Private { ops }), &entry.actor)?;
        Ok(seq)
    }

    /// Adds a line that changes no record: something was done with the store itself.
    pub fn note(&mut self, author: &Author, what: &str, store: &Value) -> Result<Seq, Failure> {
        let seq = self.tail.seq + 1;
        let public = Public {
            seq,
            time: author.time.to_string(),
            actor: &author.actor,
            address: author.address.map(|a| a.to_string()),
            reason: author.reason.as_deref(),
            what,
            subject: STORE.into(),
            changes: Vec::new(),
            base: self.base,
            state: self.effects.sum.to_string(),
            previous: Previous { subject: None, actor: self.effects.last_by(&author.actor)? },
            store: Some(store),
        };
        self.push(&to_json(&public), &to_json(&Private { ops: Vec::new() }), &author.actor)?;
        Ok(seq)
    }

    fn push(&mut self, public: &[u8], private: &[u8], actor: &str) -> Result<(), Failure> {
        let chain = self.tail.chain.after(public, private);
        self.tail = Tail { seq: self.tail.seq + 1, chain, state: self.effects.sum };
        self.starts.push(self.bytes.len());
        line::encode(&chain, public, private, &mut self.bytes);
        Ok(self.effects.end_line(self.tail.seq, chain, actor)?)
    }

    /// A machine's end is that of its keys, also of one that somebody forgot to name: a key without a machine would be judged by nobody's
    /// rights.
    fn in_full(&self, op: &Op) -> Result<Vec<StoredOp>, Failure> {
        let mut ops = Vec::new();
        if let Op::DeleteMachine(id) = op {
            ops.extend(self.effects.keys_of(*id)?.into_iter().map(|key| StoredOp::DeleteKey(key.to_string())));
        }
        ops.push(StoredOp::from(op));
        Ok(ops)
    }

    /// What the mirror has to learn of it.
    pub fn into_writes(self) -> Vec<Writes> {
        self.effects.into_lines()
    }
}

fn show(touched: &Touched) -> Result<Value, Unreadable> {
    let kind = match touched.record {
        Subject::Machine(_) => "machine",
        Subject::Key(_) => "key",
        Subject::Operator(_) => "operator",
    };
    let shown = |value: &Option<Vec<u8>>| value.as_deref().map(|value| show_value(touched.record, value)).transpose();
    Ok(json!({kind: touched.record.to_string(), "before": shown(&touched.before)?, "after": shown(&touched.after)?}))
}

fn show_value(record: Subject, value: &[u8]) -> Result<Value, Unreadable> {
    Ok(match record {
        Subject::Machine(_) => records::show_machine(&effects::machine_in(value)?.record),
        Subject::Key(_) => records::show_key(&effects::key_in(value)?.record),
        Subject::Operator(_) => records::show_operator(&effects::operator_in(value)?.record),
    })
}

fn to_json(part: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(part).expect("strings, whole numbers, lists and objects named by strings are always JSON")
}
