//! Where a worker notes its calls, in nanoseconds and without waiting.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use super::sums::{KeyUsage, VerdictCounts};
use crate::model::call::Record;
use crate::model::{KeyId, Timestamp};

/// One worker's notes. Its lock is taken by the worker at each call, and by whoever adds up for as long as it takes to turn
/// the page, however much stands on it.
pub struct Ledger(Arc<Mutex<Page>>);

/// What happened since the last adding up.
#[derive(Default)]
pub(super) struct Page {
    /// As many as keys were used since then.
    pub keys: HashMap<KeyId, KeyUsage, ById>,
    pub without_key: VerdictCounts,
    /// The end of the call that was noted last.
    pub until: Option<Timestamp>,
}

/// The other end of a [`Ledger`], for whoever adds up.
pub(super) struct Notes {
    page: Arc<Mutex<Page>>,
    /// Empty between two turns; the worker goes on with it, and with the room it has.
    turned: Page,
}

impl Notes {
    pub fn new() -> (Ledger, Notes) {
        let page = Arc::new(Mutex::new(Page::default()));
        (Ledger(page.clone()), Notes { page, turned: Page::default() })
    }

    /// Turns the page, which was emptied. Answers whether more can come.
    pub fn turn(&mut self) -> bool {
        match Arc::get_mut(&mut self.page) {
            None => {
                std::mem::swap(&mut *self.page.lock(), &mut self.turned);
                true
            }
            // Its worker is gone: these are its last notes.
            Some(last) => {
                std::mem::swap(last.get_mut(), &mut self.turned);
                false
            }
        }
    }

    /// What was noted until the last turn, to be emptied before the next.
    pub fn turned(&mut self) -> &mut Page {
        &mut self.turned
    }
}

impl Ledger {
    /// Notes one call.
    pub fn record(&self, record: &Record) {
        let mut page = self.0.lock();
        page.until = Some(record.ended.wall);
        match &record.caller {
            Some(caller) => page.keys.entry(caller.key).or_default().record(record),
            None => page.without_key.add(record.verdict, 1),
        }
    }
}

/// Hashes ids by their own random bits: octroi draws them itself, so nobody can choose them to collide.
pub(super) type ById = BuildHasherDefault<IdHasher>;

#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u128(&mut self, id: u128) {
        // The multiplication carries the random low bits up into those that the table tells entries apart by; two of
        // the upper bits of a UUID's lower half are the same in all.
        self.0 = (id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3));
    }
}
