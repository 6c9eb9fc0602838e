//! Pages of the journal, newest first. Who asks for a subject or an actor is led along the links between lines, so that a page of
//! one key's history costs the same however long the journal is; every other condition is tried line by line, with a bound.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

use super::effects::name_of;
use super::head::Head;
use super::line::Line;
use super::mirror::{self, Broken, Mirror, Tombstone};
use super::segment::Block;
use super::{Seq, StoreError, Subject};
use crate::model::Timestamp;

/// So many lines that do not match are looked at for one page; a page that ends there says where to go on.
const MAX_SKIPPED: usize = 8_192;

/// The subject of a line about the store itself.
pub const STORE: &str = "store";

/// What a line can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    Record(Subject),
    /// The store itself: it was archived, or restored.
    Store,
}

/// Which lines are asked for. Every condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Also the lines that are about something else and changed it: the end of a machine is that of its keys.
    pub subject: Option<About>,
    pub actor: Option<String>,
    /// `key.revoked`, or `key` for all that begins so.
    pub what: Option<String>,
    /// The first moment that counts.
    pub since: Option<Timestamp>,
    /// The first that no longer does.
    pub until: Option<Timestamp>,
    /// Not the lines about operators: who they are and what they may do is not for everybody.
    pub without_operators: bool,
}

/// Some lines, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The public part of each, a JSON object.
    pub lines: Vec<Value>,
    /// What to ask for next: lines before this one. `None` when there are no more.
    pub next: Option<Seq>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Machine(id) => id.fmt(f),
            Subject::Key(id) => id.fmt(f),
            Subject::Operator(id) => id.fmt(f),
        }
    }
}

/// The text is no id of anything that is journalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: mac_, key_ or op_, then 26 characters of [0-9a-hjkmnp-tv-z]")]
pub struct NoSubject;

impl FromStr for Subject {
    type Err = NoSubject;

    fn from_str(text: &str) -> Result<Subject, NoSubject> {
        let machine = || text.parse().map(Subject::Machine).ok();
        let key = || text.parse().map(Subject::Key).ok();
        let operator = || text.parse().map(Subject::Operator).ok();
        machine().or_else(key).or_else(operator).ok_or(NoSubject)
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            About::Record(subject) => subject.fmt(f),
            About::Store => f.write_str(STORE),
        }
    }
}

impl FromStr for About {
    type Err = NoSubject;

    fn from_str(text: &str) -> Result<About, NoSubject> {
        if text == STORE { Ok(About::Store) } else { text.parse().map(About::Record) }
    }
}

/// What a filter needs of a line.
#[derive(Deserialize)]
struct Shown<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    actor: Cow<'a, str>,
    #[serde(borrow)]
    what: Cow<'a, str>,
    #[serde(borrow)]
    subject: Cow<'a, str>,
    #[serde(borrow)]
    changes: Vec<Changed<'a>>,
    previous: Previous,
}

/// Which record a change of a line is about.
#[derive(Deserialize)]
struct Changed<'a> {
    #[serde(borrow)]
    machine: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operator: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Previous {
    subject: Option<Seq>,
    actor: Option<Seq>,
}

/// What the mirror knows of a subject's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// It exists; this is its last change.
    Live(Seq),
    Deleted(Tombstone),
    /// There never was such a thing.
    Never,
    /// The mirror cannot tell: only the lines themselves can.
    Unknown,
}

/// Looks for a subject's last line.
pub fn trace(mirror: &Mirror, subject: Subject) -> Result<Trace, Broken> {
    let name = name_of(subject);
    if let Some((seq, _)) = mirror.get(&name)?.as_deref().and_then(mirror::split_plain) {
        return Ok(Trace::Live(seq));
    }
    if let Some(tombstone) = mirror.get(&mirror::tombstone_name(&name))?.as_deref().and_then(mirror::split_tombstone) {
        return Ok(Trace::Deleted(tombstone));
    }
    Ok(if mirror.has_all_tombstones()? { Trace::Never } else { Trace::Unknown })
}

/// A walk from newer to older lines.
pub struct Walk<'f> {
    filter: &'f Filter,
    subject: Option<String>,
    /// Every line that matches has these bytes in it.
    marks: Vec<Vec<u8>>,
    trace: Trace,
    /// The line to look at next.
    next: Option<Seq>,
    skipped: usize,
    limit: usize,
    page: History,
}

impl<'f> Walk<'f> {
    /// Begins before `before`, or at the end of the journal. A mirror that cannot be asked costs time and nothing else.
    pub fn begin(
        filter: &'f Filter,
        before: Option<Seq>,
        limit: usize,
        tail: impl FnOnce() -> Seq,
        mirror: Option<&Mirror>,
    ) -> Result<Walk<'f>, Broken> {
        let trace = match (mirror, filter.subject) {
            (Some(mirror), Some(About::Record(subject))) => trace(mirror, subject)?,
            _ => Trace::Unknown,
        };
        let last_by = match (mirror, &filter.actor) {
            (Some(mirror), Some(actor)) => Some(mirror.get(&mirror::actor_name(actor))?),
            _ => None,
        };
        let by_actor = last_by.map_or(Seq::MAX, |value| value.as_deref().and_then(mirror::split_plain).map_or(0, |(seq, _)| seq));
        let of_subject = match trace {
            Trace::Live(seq) | Trace::Deleted(Tombstone { deleted: seq, .. }) => seq,
            Trace::Never => 0,
            Trace::Unknown => Seq::MAX,
        };
        let tail = tail();
        let next = before.map_or(tail, |before| before.saturating_sub(1)).min(tail).min(by_actor).min(of_subject);
        let subject = filter.subject.map(|subject| subject.to_string());
        // A kind without characters that JSON escapes stands there as it is.
        let plain = filter.what.as_ref().filter(|what| what.bytes().all(|b| b.is_ascii_lowercase() || b"._".contains(&b)));
        let marks = subject.clone().into_iter().chain(plain.map(|what| format!("\"what\":\"{what}")));
        let marks = marks.map(String::into_bytes).collect();
        Ok(Walk { filter, subject, marks, trace, next: there(next), skipped: 0, limit, page: History::default() })
    }

    /// Goes on until the page is full, the bound is reached or nothing is left.
    pub fn finish(mut self, block: impl Fn(Seq) -> Option<Block>) -> Result<History, StoreError> {
        while self.page.lines.len() < self.limit && self.skipped < MAX_SKIPPED {
            let Some(at) = self.next else { break };
            match block(at).map(|found| self.visit(&found)) {
                Some(Ok(())) => {}
                // What was before is archived, perhaps only now.
                None => self.next = None,
                Some(Err(_)) if block(at).is_none() => self.next = None,
                Some(Err(error)) => return Err(error),
            }
        }
        self.page.next = self.next.map(|next| next + 1);
        Ok(self.page)
    }

    fn visit(&mut self, block: &Block) -> Result<(), StoreError> {
        let bytes = block.read()?;
        let lines: Vec<&[u8]> = Block::split(&bytes).collect();
        while let Some(at) = self.next.filter(|at| *at >= block.first)
            && self.page.lines.len() < self.limit
            && self.skipped < MAX_SKIPPED
        {
            let line = usize::try_from(at - block.first).ok().and_then(|index| lines.get(index));
            let line = block.decode(at, line.ok_or_else(|| block.unusable(at, "it is not there"))?)?;
            self.look(at, line.public).map_err(|_| no_json(block, at))?;
        }
        Ok(())
    }

    /// Takes a line if it is asked for, and finds the one to look at after it.
    fn look(&mut self, at: Seq, public: &[u8]) -> serde_json::Result<()> {
        if *self.filter == Filter::default() {
            self.page.lines.push(serde_json::from_slice(public)?);
            self.next = there(at - 1);
            return Ok(());
        }
        if self.marks.iter().any(|mark| memchr::memmem::find(public, mark).is_none()) {
            // By far the cheapest way to pass a line by.
            self.skipped += 1;
            self.next = there(at - 1);
            return Ok(());
        }
        let shown: Shown<'_> = serde_json::from_slice(public)?;
        if self.matches(&shown) {
            self.page.lines.push(serde_json::from_slice(public)?);
        } else {
            self.skipped += 1;
        }
        // A link that does not lead back is not followed.
        self.next = self.older(at, &shown).filter(|older| *older < at).and_then(there);
        Ok(())
    }

    fn older(&self, at: Seq, shown: &Shown<'_>) -> Option<Seq> {
        match (self.filter.subject, &self.filter.actor, self.trace) {
            (Some(About::Record(_)), ..) if self.subject.as_deref() == Some(&*shown.subject) => shown.previous.subject,
            (Some(_), _, Trace::Deleted(tombstone)) if tombstone.deleted == at => tombstone.before,
            (None, Some(actor), _) if shown.actor == *actor => shown.previous.actor,
            _ => Some(at - 1),
        }
    }

    fn matches(&self, shown: &Shown<'_>) -> bool {
        let Filter { subject: _, actor, what, since, until, without_operators } = self.filter;
        self.subject.as_ref().is_none_or(|subject| shown.touches(subject))
            && actor.as_ref().is_none_or(|actor| shown.actor == *actor)
            && what.as_ref().is_none_or(|what| is_a(&shown.what, what))
            && !(*without_operators && is_of_operator(&shown.subject))
            && (since.is_none() && until.is_none() || in_time(&shown.time, *since, *until))
    }
}

impl Shown<'_> {
    fn touches(&self, subject: &str) -> bool {
        let changed = |change: &Changed<'_>| [&change.machine, &change.key, &change.operator].into_iter().flatten().any(|id| id == subject);
        self.subject == subject || self.changes.iter().any(changed)
    }
}

/// Whether this is the subject of a line about an operator.
pub fn is_of_operator(subject: &str) -> bool {
    matches!(subject.parse(), Ok(Subject::Operator(_)))
}

fn there(seq: Seq) -> Option<Seq> {
    (seq > 0).then_some(seq)
}

fn is_a(what: &str, asked: &str) -> bool {
    what.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn in_time(time: &str, since: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    let time = Timestamp::parse(time);
    time.is_some_and(|time| since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until))
}

fn no_json(block: &Block, seq: Seq) -> StoreError {
    block.unusable(seq, "its public part is no journal entry")
}

/// The public part of one line.
pub fn entry(block: impl Fn(Seq) -> Option<Block>, seq: Seq) -> Result<Option<Value>, StoreError> {
    at(block, seq, |block, line| serde_json::from_slice(line.public).map_err(|_| no_json(block, seq)))
}

/// Where the chain stood after one line.
pub fn head(block: impl Fn(Seq) -> Option<Block>, seq: Seq) -> Result<Option<Head>, StoreError> {
    at(block, seq, |_, line| Ok(Head::new(seq, line.chain)))
}

fn at<T>(
    block: impl Fn(Seq) -> Option<Block>,
    seq: Seq,
    read: impl Fn(&Block, &Line<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let Some(block) = there(seq).and_then(block) else { return Ok(None) };
    let mut found = None;
    block.each(|at, line| {
        if at == seq {
            found = Some(read(&block, line)?);
        }
        Ok(())
    })?;
    Ok(found)
}
