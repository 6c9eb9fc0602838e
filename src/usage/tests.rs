use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::model::call::{Caller, ClientIp, PeerIp, Record, RequestId};
use crate::model::{CalendarCounter, Code, MachineId, Moment, Tick, Timestamp, ValueMark, Verdict};

const OK: Verdict = Verdict::Ok;
const LIMITED: Verdict = Verdict::Refused(Code::RateLimited);

fn record(key: Option<u128>, verdict: Verdict, admitted: bool, at: i64) -> Record {
    let moment = Moment { tick: Tick(0), wall: Timestamp(at) };
    let ip: IpAddr = "2001:db8::7".parse().unwrap();
    Record {
        id: RequestId::from_u128(1),
        began: moment,
        ended: moment,
        peer: PeerIp("10.0.0.1".parse().unwrap()),
        client: ClientIp(ip),
        method: Method::GET,
        route: None,
        caller: key.map(|key| Caller {
            key: KeyId::from_u128(key),
            machine: MachineId::from_u128(9),
            old_value: false,
            value: ValueMark(1),
        }),
        admitted,
        verdict,
        status: 200,
        received: 0,
        sent: 0,
        upstream: None,
    }
}

fn open(dir: &Path) -> (Usage, Restored) {
    Usage::open(dir).unwrap()
}

fn flush(usage: &Usage) {
    usage.flush(&mut |_| ()).unwrap();
}

fn counters(used: u32) -> CalendarCounters {
    CalendarCounters { day: CalendarCounter { period: 20_413, used }, month: CalendarCounter { period: 24_322, used: used + 5 } }
}

fn log_in(dir: &TempDir) -> PathBuf {
    dir.path().join("usage.log")
}

fn length(dir: &TempDir) -> u64 {
    std::fs::metadata(log_in(dir)).unwrap().len()
}

/// A log of `flushes` frames: after the n-th, key 1 was used n times, and its machine's bucket has n.
/// Answers where each frame ends.
fn written(dir: &TempDir, flushes: u32) -> Vec<u64> {
    let (usage, _) = open(dir.path());
    let ledger = usage.ledger();
    let owner = BucketOwner::Machine(MachineId::from_u128(9));
    let ends = (1..=flushes).map(|n| {
        ledger.record(&record(Some(1), OK, true, n.into()));
        usage.flush(&mut |each| each(owner, counters(n))).unwrap();
        length(dir)
    });
    ends.collect()
}

/// How many calls of key 1 and how much of its machine's bucket a restart finds.
fn found(dir: &TempDir) -> (u64, u32) {
    let (usage, restored) = open(dir.path());
    let day = restored.counters.values().map(|counters| counters.day.used).sum();
    (usage.of_key(KeyId::from_u128(1)).calls.total(), day)
}

#[test]
fn a_key_shows_its_last_use_and_its_calls() {
    let dir = tempfile::tempdir().unwrap();
    let (usage, _) = open(dir.path());
    let (one, two) = (usage.ledger(), usage.ledger());
    one.record(&record(Some(1), OK, true, 50));
    two.record(&record(Some(1), Verdict::Refused(Code::UpstreamTimeout), true, 40));
    one.record(&record(Some(1), LIMITED, false, 60));
    two.record(&record(Some(2), LIMITED, false, 70));
    two.record(&record(None, Verdict::Refused(Code::KeyMissing), false, 80));

    let key = usage.of_key(KeyId::from_u128(1));
    assert_eq!(key.last_used, Some(LastUse { at: Timestamp(50), from: "2001:db8::7".parse().unwrap(), value: Some(ValueMark(1)) }));
    assert_eq!(key.last_refused, Some(Timestamp(60)));
    assert_eq!((key.calls.of(OK), key.calls.of(LIMITED), key.calls.total()), (1, 1, 3));
    let only_refused = usage.of_key(KeyId::from_u128(2));
    assert_eq!((only_refused.last_used, only_refused.calls.total()), (None, 1));
    assert_eq!(usage.of_key(KeyId::from_u128(3)), KeyUsage::default());
    assert_eq!(usage.of_keys(&[2, 1].map(KeyId::from_u128)), [only_refused, key]);
    assert_eq!((usage.without_key().total(), usage.totals().total()), (1, 5));
}

#[test]
fn everything_is_found_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let owners = [BucketOwner::Machine(MachineId::from_u128(9)), BucketOwner::Key(KeyId::from_u128(9))];
    let (usage, _) = open(dir.path());
    let ledger = usage.ledger();
    for n in 0..100u32 {
        ledger.record(&record((n % 7 > 0).then_some((n % 7).into()), if n % 3 == 0 { LIMITED } else { OK }, n % 3 > 0, n.into()));
        if n % 10 == 0 {
            usage.flush(&mut |each| owners.iter().for_each(|owner| each(*owner, counters(n)))).unwrap();
        }
    }
    drop(ledger);
    flush(&usage);
    let keys: Vec<_> = (1..7).map(KeyId::from_u128).collect();
    for _ in 0..2 {
        let (again, restored) = open(dir.path());
        assert_eq!(again.of_keys(&keys), usage.of_keys(&keys));
        assert_eq!((again.without_key(), again.totals().total()), (usage.without_key(), 100));
        assert_eq!(restored.counters, HashMap::from(owners.map(|owner| (owner, counters(90)))));
        assert_eq!(restored.damaged_bytes, 0);
    }
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(&dir, 3);
    let (usage, _) = open(dir.path());
    let (known, unused) = (BucketOwner::Machine(MachineId::from_u128(9)), BucketOwner::Machine(MachineId::from_u128(10)));
    for _ in 0..3 {
        usage
            .flush(&mut |each| {
                each(known, counters(3));
                each(unused, CalendarCounters::default());
            })
            .unwrap();
    }
    assert_eq!(Some(&length(&dir)), ends.last());
    usage.flush(&mut |each| each(unused, counters(1))).unwrap();
    let once = length(&dir);
    usage.flush(&mut |each| each(unused, counters(1))).unwrap();
    assert_eq!(length(&dir), once);
}

#[test]
fn what_a_newer_octroi_wrote_is_neither_cut_nor_guessed_at() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(&dir, 2);
    let whole = std::fs::read(log_in(&dir)).unwrap();
    // An intact frame with an entry of a kind that is not known: in the middle, and at the end.
    for at in [ends[0] as usize, whole.len()] {
        let mut bytes = whole.clone();
        bytes.splice(at..at, super::log::frame_of(&[0xFE, 1, 2, 3]));
        std::fs::write(log_in(&dir), &bytes).unwrap();
        let refusal = Usage::open(dir.path()).err().expect("a refusal").to_string();
        assert!(refusal.contains(&format!("byte {at} was written by a newer octroi")), "{refusal}");
        assert_eq!(std::fs::read(log_in(&dir)).unwrap(), bytes);
    }
}

#[test]
fn files_are_for_the_gateways_user_only() {
    let dir = tempfile::tempdir().unwrap();
    let (_usage, _) = open(&dir.path().join("data/usage"));
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data/usage"), mode("data/usage/usage.log")), (0o700, 0o600));
}

#[test]
fn t059_a_log_cut_anywhere_keeps_all_earlier_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(&dir, 3);
    let whole = std::fs::read(log_in(&dir)).unwrap();
    for cut in ends[1]..=ends[2] {
        std::fs::write(log_in(&dir), &whole[..cut as usize]).unwrap();
        let expected = if cut == ends[2] { 3 } else { 2 };
        assert_eq!(found(&dir), (expected, expected as u32), "cut at {cut}");
        assert_eq!(length(&dir), ends[expected as usize - 1], "the torn end is gone");
        // And the log goes on.
        let (usage, restored) = open(dir.path());
        assert_eq!(restored.damaged_bytes, 0);
        usage.ledger().record(&record(Some(1), OK, true, 9));
        flush(&usage);
        assert_eq!(found(&dir).0, expected + 1);
    }
}

#[test]
fn damage_in_the_middle_costs_what_stood_there_only() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(&dir, 3);
    let whole = std::fs::read(log_in(&dir)).unwrap();
    let second = ends[0] as usize..ends[1] as usize;
    for at in second.clone() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            std::fs::write(log_in(&dir), &bytes).unwrap();
            let (usage, restored) = open(dir.path());
            assert_eq!(restored.damaged_bytes, second.len() as u64, "{flip:x} at {at}");
            assert_eq!(usage.of_key(KeyId::from_u128(1)).calls.total(), 3, "the third frame says all");
            assert_eq!(length(&dir), whole.len() as u64, "what is damaged stays for whoever wants to look");
        }
    }
    // Rubbish at the front, so long that the first frame begins at or across the end of what is looked at at once.
    for around in 0..8 {
        let mut bytes = vec![0xF5; 1024 * 1024 - around];
        bytes.extend_from_slice(&whole[..ends[0] as usize]);
        std::fs::write(log_in(&dir), &bytes).unwrap();
        assert_eq!(found(&dir), (1, 1), "{around}");
    }
}

#[test]
fn a_failing_disk_loses_nothing_that_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let owner = BucketOwner::Machine(MachineId::from_u128(9));
    let (usage, _) = open(dir.path());
    let ledger = usage.ledger();
    ledger.record(&record(Some(1), OK, true, 1));
    flush(&usage);
    // A handle that cannot be written to stands for a disk that refuses.
    let writable = std::mem::replace(&mut usage.disk.lock().log.file, File::open(log_in(&dir)).unwrap());
    for n in 2..5 {
        ledger.record(&record(Some(1), OK, true, n));
        ledger.record(&record(None, LIMITED, false, n));
        let error = usage.flush(&mut |each| each(owner, counters(7))).unwrap_err();
        assert!(error.to_string().contains("usage.log"), "{error}");
    }
    assert_eq!(usage.of_key(KeyId::from_u128(1)).calls.total(), 4, "questions are still answered");
    usage.disk.lock().log.file = writable;
    usage.flush(&mut |each| each(owner, counters(7))).unwrap();
    assert_eq!(found(&dir), (4, 7));
    assert_eq!(open(dir.path()).0.without_key().total(), 3);
}

#[test]
fn what_a_failed_append_left_behind_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (usage, _) = open(dir.path());
    usage.ledger().record(&record(Some(1), OK, true, 1));
    flush(&usage);
    let good = length(&dir);
    {
        let mut disk = usage.disk.lock();
        disk.log.tear(&[0xAA; 500]);
    }
    usage.ledger().record(&record(Some(1), OK, true, 2));
    flush(&usage);
    assert!(length(&dir) < good + 500);
    assert_eq!(found(&dir).0, 2);
}

#[test]
fn a_log_that_has_outgrown_what_it_says_is_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let (usage, _) = open(dir.path());
    let owner = BucketOwner::Key(KeyId::from_u128(3));
    let ledger = usage.ledger();
    let (mut longest, mut rewritten) = (0, 0);
    for n in 1..=2_000u32 {
        ledger.record(&record(Some(u128::from(n % 20)), OK, true, n.into()));
        ledger.record(&record(None, LIMITED, false, n.into()));
        let before = length(&dir);
        usage.flush(&mut |each| each(owner, counters(n))).unwrap();
        rewritten += u32::from(length(&dir) < before);
        longest = longest.max(length(&dir));
    }
    assert!(rewritten > 2 && longest <= 17 * 1024, "{rewritten} times, {longest} bytes");
    drop(ledger);
    let (again, restored) = open(dir.path());
    assert_eq!((again.totals().total(), again.without_key().total()), (4_000, 2_000));
    assert_eq!(again.of_key(KeyId::from_u128(5)), usage.of_key(KeyId::from_u128(5)));
    assert_eq!(restored.counters, HashMap::from([(owner, counters(2_000))]));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the log");
}

#[test]
fn a_rewriting_that_was_killed_halfway_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    written(&dir, 3);
    std::fs::write(dir.path().join("usage.log.new"), b"half").unwrap();
    assert_eq!(found(&dir), (3, 3));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn t243_workers_that_write_while_it_is_added_up_lose_no_call() {
    let dir = tempfile::tempdir().unwrap();
    let (usage, _) = open(dir.path());
    let usage = &usage;
    std::thread::scope(|scope| {
        for worker in 0..4u128 {
            let ledger = usage.ledger();
            scope.spawn(move || {
                for n in 0..20_000u128 {
                    ledger.record(&record((n % 5 > 0).then_some(n % (50 + worker)), OK, true, 1));
                }
            });
        }
        for _ in 0..50 {
            flush(usage);
        }
    });
    flush(usage);
    assert_eq!((usage.totals().total(), open(dir.path()).0.totals().total()), (80_000, 80_000));
    assert!(usage.ledgers.lock().is_empty(), "workers that are gone leave nothing behind");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_damage_is_survived(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        written(&dir, 5);
        let mut bytes = std::fs::read(log_in(&dir)).unwrap();
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        std::fs::write(log_in(&dir), &bytes).unwrap();
        let (calls, used) = found(&dir);
        prop_assert!(calls <= 5 && calls == u64::from(used));
        // A second start finds the same, and a flush is found by a third.
        prop_assert_eq!(found(&dir), (calls, used));
        let (usage, _) = open(dir.path());
        usage.ledger().record(&record(Some(1), OK, true, 9));
        flush(&usage);
        prop_assert_eq!(found(&dir).0, calls + 1);
    }
}

#[test]
fn adding_up_many_keys_keeps_no_worker_waiting() {
    let dir = TempDir::new().unwrap();
    let (usage, _) = open(dir.path());
    let ledger = usage.ledger();
    let (call, adding) = (record(Some(0), OK, true, 1), AtomicBool::new(false));
    // Another process can hold this thread up for as long, but hardly each time.
    let free = (0..5u128).any(|round| {
        (0..100_000).for_each(|key| ledger.record(&record(Some(1 + round * 100_000 + key), OK, true, 1)));
        adding.store(true, Ordering::Release);
        std::thread::scope(|scope| {
            let adder = scope.spawn(|| {
                let begun = Instant::now();
                usage.merge();
                adding.store(false, Ordering::Release);
                begun.elapsed()
            });
            let mut longest = Duration::ZERO;
            while adding.load(Ordering::Acquire) {
                let begun = Instant::now();
                ledger.record(&call);
                longest = longest.max(begun.elapsed());
            }
            longest < adder.join().unwrap() / 4
        })
    });
    assert!(free);
}
