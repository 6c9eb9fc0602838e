//! What stands in the usage log: absolute values, so that a later entry replaces an earlier one about the same
//! subject and a lost one costs no more than what it said.
//!
//! An entry is a tag byte and its fields; numbers are LEB128, signed ones zigzag. Verdicts are written as their words,
//! which stay while their numbers move with the list of codes; a word that is not known any more is skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::sums::{KeyUsage, LastUse, VerdictCounts};
use super::watched::{Gap, MOST_GAPS, Watched};
use crate::model::{BucketOwner, CalendarCounter, CalendarCounters, KeyId, MachineId, OperatorId, Timestamp, ValueMark, Verdict};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Key(KeyId, KeyUsage),
    WithoutKey(VerdictCounts),
    Counters(BucketOwner, CalendarCounters),
    /// The last use of an operator's token.
    Operator(OperatorId, LastUse),
    Watched(Watched),
}

/// A key whose values were not told apart, as version 0.1.0 wrote all of them.
const KEY: u8 = 1;
const WITHOUT_KEY: u8 = 2;
const MACHINE_COUNTERS: u8 = 3;
const KEY_COUNTERS: u8 = 4;
const OPERATOR: u8 = 5;
/// A key with the last uses of two of its values.
const KEY_VALUES: u8 = 6;
const WATCHED: u8 = 7;

/// Added to the kind of address of a use whose value is known.
const MARKED: u8 = 0x10;

pub(super) fn write_key(out: &mut Vec<u8>, id: KeyId, usage: &KeyUsage) {
    let plain = usage.uses().all(|last| last.value.is_none()) && usage.other_used.is_none();
    out.push(if plain { KEY } else { KEY_VALUES });
    out.extend_from_slice(&id.as_u128().to_be_bytes());
    write_use(out, usage.last_used.as_ref());
    if !plain {
        write_use(out, usage.other_used.as_deref());
    }
    match usage.last_refused {
        None => out.push(0),
        Some(at) => {
            out.push(1);
            write_signed(out, at.0);
        }
    }
    write_counts(out, &usage.calls);
}

pub(super) fn write_operator(out: &mut Vec<u8>, id: OperatorId, last: &LastUse) {
    out.push(OPERATOR);
    out.extend_from_slice(&id.as_u128().to_be_bytes());
    write_use(out, Some(last));
}

pub(super) fn write_watched(out: &mut Vec<u8>, Watched { since, until, gaps }: &Watched) {
    out.push(WATCHED);
    write_signed(out, since.0);
    write_signed(out, until.0);
    write_number(out, gaps.len() as u64);
    for Gap { from, until } in gaps {
        write_signed(out, from.0);
        write_signed(out, until.0);
    }
}

/// The version of the address says that there is one.
fn write_use(out: &mut Vec<u8>, last: Option<&LastUse>) {
    let Some(LastUse { at, from, value }) = last else { return out.push(0) };
    let marked = if value.is_some() { MARKED } else { 0 };
    match from {
        IpAddr::V4(v4) => {
            out.push(4 | marked);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6 | marked);
            out.extend_from_slice(&v6.octets());
        }
    }
    if let Some(ValueMark(mark)) = value {
        out.extend_from_slice(&mark.to_be_bytes());
    }
    write_signed(out, at.0);
}

pub(super) fn write_without_key(out: &mut Vec<u8>, counts: &VerdictCounts) {
    out.push(WITHOUT_KEY);
    write_counts(out, counts);
}

pub(super) fn write_counters(out: &mut Vec<u8>, owner: BucketOwner, counters: &CalendarCounters) {
    let (tag, id) = match owner {
        BucketOwner::Machine(id) => (MACHINE_COUNTERS, id.as_u128()),
        BucketOwner::Key(id) => (KEY_COUNTERS, id.as_u128()),
    };
    out.push(tag);
    out.extend_from_slice(&id.to_be_bytes());
    for counter in [counters.day, counters.month] {
        write_signed(out, counter.period.into());
        write_number(out, counter.used.into());
    }
}

fn write_counts(out: &mut Vec<u8>, counts: &VerdictCounts) {
    write_number(out, counts.iter().count() as u64);
    for (verdict, count) in counts.iter() {
        let word = verdict.as_str();
        write_number(out, word.len() as u64);
        out.extend_from_slice(word.as_bytes());
        write_number(out, count);
    }
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn write_signed(out: &mut Vec<u8>, number: i64) {
    write_number(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Reads entries to the end of `bytes`; `None` if any of them is not one.
pub(super) fn read_all(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        entries.push(read(&mut bytes)?);
    }
    Some(entries)
}

fn read(from: &mut &[u8]) -> Option<Entry> {
    match take::<1>(from)? {
        [tag @ (KEY | KEY_VALUES)] => {
            let id = KeyId::from_u128(u128::from_be_bytes(take(from)?));
            let last_used = read_use(from)?;
            let other_used = if tag == KEY_VALUES { read_use(from)?.map(Box::new) } else { None };
            let last_refused = match take::<1>(from)? {
                [0] => None,
                [1] => Some(Timestamp(read_signed(from)?)),
                _ => return None,
            };
            Some(Entry::Key(id, KeyUsage { last_used, other_used, last_refused, calls: read_counts(from)? }))
        }
        [WITHOUT_KEY] => Some(Entry::WithoutKey(read_counts(from)?)),
        [OPERATOR] => Some(Entry::Operator(OperatorId::from_u128(u128::from_be_bytes(take(from)?)), read_use(from)??)),
        [WATCHED] => Some(Entry::Watched(read_watched(from)?)),
        [tag @ (MACHINE_COUNTERS | KEY_COUNTERS)] => {
            let id = u128::from_be_bytes(take(from)?);
            let owner = match tag {
                KEY_COUNTERS => BucketOwner::Key(KeyId::from_u128(id)),
                _ => BucketOwner::Machine(MachineId::from_u128(id)),
            };
            Some(Entry::Counters(owner, CalendarCounters { day: read_counter(from)?, month: read_counter(from)? }))
        }
        _ => None,
    }
}

fn read_watched(from: &mut &[u8]) -> Option<Watched> {
    let (since, until) = (Timestamp(read_signed(from)?), Timestamp(read_signed(from)?));
    let count = usize::try_from(read_number(from)?).ok().filter(|count| *count <= MOST_GAPS)?;
    let mut gap = || Some(Gap { from: Timestamp(read_signed(from)?), until: Timestamp(read_signed(from)?) });
    let gaps = (0..count).map(|_| gap()).collect::<Option<_>>()?;
    Some(Watched { since, until, gaps })
}

fn read_use(from: &mut &[u8]) -> Option<Option<LastUse>> {
    let [kind] = take::<1>(from)?;
    let ip = match kind & !MARKED {
        0 if kind == 0 => return Some(None),
        4 => IpAddr::V4(Ipv4Addr::from(take::<4>(from)?)),
        6 => IpAddr::V6(Ipv6Addr::from(take::<16>(from)?)),
        _ => return None,
    };
    let value = if kind & MARKED != 0 { Some(ValueMark(u32::from_be_bytes(take(from)?))) } else { None };
    Some(Some(LastUse { at: Timestamp(read_signed(from)?), from: ip, value }))
}

fn read_counter(from: &mut &[u8]) -> Option<CalendarCounter> {
    Some(CalendarCounter { period: read_signed(from)?.try_into().ok()?, used: read_number(from)?.try_into().ok()? })
}

fn read_counts(from: &mut &[u8]) -> Option<VerdictCounts> {
    let mut counts = VerdictCounts::default();
    for _ in 0..read_number(from)? {
        let length = usize::try_from(read_number(from)?).ok()?;
        let (word, rest) = from.split_at_checked(length)?;
        *from = rest;
        let count = read_number(from)?;
        if let Some(verdict) = std::str::from_utf8(word).ok().and_then(Verdict::parse) {
            counts.add(verdict, count);
        }
    }
    Some(counts)
}

fn read_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take::<1>(from)?;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn read_signed(from: &mut &[u8]) -> Option<i64> {
    let number = read_number(from)?;
    Some((number >> 1) as i64 ^ -((number & 1) as i64))
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts() -> impl Strategy<Value = VerdictCounts> {
        prop::collection::vec((0..Verdict::COUNT, 1u64..u64::MAX >> 8), 0..6).prop_map(|of| {
            let mut counts = VerdictCounts::default();
            of.into_iter().for_each(|(index, count)| counts.add(Verdict::from_index(index).unwrap(), count));
            counts
        })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let used = || {
            let used = (any::<i64>(), any::<IpAddr>(), prop::option::of(any::<u32>()));
            let used = used.prop_map(|(at, from, value)| LastUse { at: Timestamp(at), from, value: value.map(ValueMark) });
            prop::option::of(used)
        };
        let usage = (used(), used(), prop::option::of(any::<i64>()), counts());
        let counter = (any::<i32>(), any::<u32>()).prop_map(|(period, used)| CalendarCounter { period, used });
        prop_oneof![
            (any::<u128>(), usage).prop_map(|(id, (last_used, other, refused, calls))| {
                let other_used = other.map(Box::new);
                Entry::Key(KeyId::from_u128(id), KeyUsage { last_used, other_used, last_refused: refused.map(Timestamp), calls })
            }),
            counts().prop_map(Entry::WithoutKey),
            (any::<i64>(), any::<i64>(), prop::collection::vec(any::<(i64, i64)>(), 0..3)).prop_map(|(since, until, gaps)| {
                let gaps = gaps.into_iter().map(|(from, until)| Gap { from: Timestamp(from), until: Timestamp(until) }).collect();
                Entry::Watched(Watched { since: Timestamp(since), until: Timestamp(until), gaps })
            }),
            (any::<u128>(), any::<i64>(), any::<IpAddr>())
                .prop_map(|(id, at, from)| Entry::Operator(OperatorId::from_u128(id), LastUse { at: Timestamp(at), from, value: None })),
            (any::<bool>(), any::<u128>(), counter.clone(), counter).prop_map(|(of_key, id, day, month)| {
                let owner = if of_key { BucketOwner::Key(KeyId::from_u128(id)) } else { BucketOwner::Machine(MachineId::from_u128(id)) };
                Entry::Counters(owner, CalendarCounters { day, month })
            }),
        ]
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        let mut out = Vec::new();
        for entry in entries {
            match entry {
                Entry::Key(id, usage) => write_key(&mut out, *id, usage),
                Entry::WithoutKey(counts) => write_without_key(&mut out, counts),
                Entry::Counters(owner, counters) => write_counters(&mut out, *owner, counters),
                Entry::Operator(id, last) => write_operator(&mut out, *id, last),
                Entry::Watched(watched) => write_watched(&mut out, watched),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn entries_read_back(entries in prop::collection::vec(entry(), 0..8)) {
            prop_assert_eq!(read_all(&written(&entries)), Some(entries));
        }

        #[test]
        fn a_cut_entry_is_not_read(entry in entry(), cut in any::<prop::sample::Index>()) {
            let bytes = written(&[entry]);
            let cut = 1 + cut.index(bytes.len() - 1);
            prop_assert_eq!(read_all(&bytes[..bytes.len() - cut]).filter(|entries| !entries.is_empty()), None);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&bytes);
        }
    }

    #[test]
    fn a_key_of_version_0_1_0_is_read() {
        let mut bytes = vec![KEY];
        bytes.extend_from_slice(&7u128.to_be_bytes());
        bytes.extend_from_slice(&[4, 192, 0, 2, 1, 100, 0, 0]);
        let last_used = LastUse { at: Timestamp(50), from: "192.0.2.1".parse().unwrap(), value: None };
        let usage = KeyUsage { last_used: Some(last_used), ..KeyUsage::default() };
        let entry = Entry::Key(KeyId::from_u128(7), usage);
        assert_eq!(read_all(&bytes), Some(vec![entry.clone()]));
        assert_eq!(written(&[entry]), bytes, "and is left as it is until the key is used again");
    }

    #[test]
    fn a_verdict_of_another_version_is_skipped() {
        let mut bytes = vec![WITHOUT_KEY, 2, 3];
        bytes.extend_from_slice(b"odd\x05\x02ok\x07");
        let mut ok = VerdictCounts::default();
        ok.add(Verdict::Ok, 7);
        assert_eq!(read_all(&bytes), Some(vec![Entry::WithoutKey(ok)]));
    }
}
