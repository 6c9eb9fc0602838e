//! The promise of the store, shown with the real program: a change whose answer was sent survives `kill -9` and power loss, one that was not
//! answered is there whole or not at all, and a store that cannot be trusted is not served.

mod damage;
mod disk;
mod oracle;
mod storm;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::support::process::{Served, Site};
use crate::support::{note, skip, times};
use disk::{Disk, Kind};
use storm::{Dice, Storm};

/// Crashes in one life of a data folder.
const ROUNDS: usize = 100;
/// Every so many rounds all keys that ever were are asked for.
const THOROUGH: usize = 20;
/// The length of a storm, in microseconds: from the first change on a folder that was just opened to some hundred changes.
const STORM: std::ops::Range<usize> = 10_000..250_000;
/// Every tenth lasts longer, so that sled, which writes twice a second, is caught writing as well.
const LONG_STORM: std::ops::Range<usize> = 400_000..1_600_000;

#[test]
fn t177_acknowledged_changes_survive_kill_9_at_any_moment() {
    let (mut dice, seed) = Dice::new();
    let site = Site::new();
    let mut storm = Storm::new(&mut dice);
    let rounds = ROUNDS * times();
    let mut rebuilt = 0;
    let mut served = site.start();
    for round in 0..rounds {
        let moment = moment(&mut dice);
        storm.rage(served, |served, _| {
            thread::sleep(moment);
            served.kill();
        });
        // A start may meet its end, too.
        if dice.below(3) == 0 {
            let launched = site.launch();
            thread::sleep(Duration::from_micros(dice.below(60_000) as u64));
            launched.kill();
        }
        served = restart(&site, &mut storm, round, rounds, seed);
        rebuilt += usize::from(served.stderr().contains("rebuilt"));
    }
    served.stop();
    report("kills", rounds, rebuilt, &storm, seed);
}

#[test]
fn t178_acknowledged_changes_survive_power_cuts_on_ext4() {
    power_cuts("t178_acknowledged_changes_survive_power_cuts_on_ext4", Kind::Ext4);
}

#[test]
fn t178_acknowledged_changes_survive_power_cuts_on_xfs() {
    power_cuts("t178_acknowledged_changes_survive_power_cuts_on_xfs", Kind::Xfs);
}

/// One disk for a hundred cuts; the long set takes five disks.
fn power_cuts(name: &str, kind: Kind) {
    for _ in 0..times() {
        // The smallest that mkfs.xfs makes is 300 MiB; the files have holes.
        match Disk::can_lose_power().and_then(|()| Disk::make(kind, 512)) {
            Ok(disk) => cut_a_hundred_times(kind, disk),
            Err(reason) => return skip(name, &reason),
        }
    }
}

fn cut_a_hundred_times(kind: Kind, mut disk: Disk) {
    let (mut dice, seed) = Dice::new();
    let site = Site::with_data(&disk.folder().join("data"));
    let mut storm = Storm::new(&mut dice);
    let mut rebuilt = 0;
    let mut served = site.start();
    for round in 0..ROUNDS {
        let moment = moment(&mut dice);
        let switch = disk.switch();
        storm.rage(served, |served, over| {
            thread::sleep(moment);
            over.store(true, Ordering::SeqCst);
            switch.cut_power();
            served.kill();
        });
        disk.remount();
        served = restart(&site, &mut storm, round, ROUNDS, seed);
        rebuilt += usize::from(served.stderr().contains("rebuilt"));
    }
    served.stop();
    report(&format!("power cuts on {kind:?}"), ROUNDS, rebuilt, &storm, seed);
}

/// The storm has no event to wait for: how long it lasts is what the dice decide.
fn moment(dice: &mut Dice) -> Duration {
    let range = if dice.below(10) == 0 { LONG_STORM } else { STORM };
    Duration::from_micros((range.start + dice.below(range.len())) as u64)
}

fn restart(site: &Site, storm: &mut Storm, round: usize, rounds: usize, seed: u64) -> Served {
    let served = site.try_start().unwrap_or_else(|refused| panic!("round {round}, OCTROI_SEED={seed}: {refused:?}"));
    let thorough = (round + 1).is_multiple_of(THOROUGH) || round + 1 == rounds;
    if let Err(why) = storm.check(&served, thorough) {
        panic!("round {round}, OCTROI_SEED={seed}: {why}\nthe gateway said: {}", served.stderr());
    }
    served
}

fn report(what: &str, rounds: usize, rebuilt: usize, storm: &Storm, seed: u64) {
    assert!(storm.acknowledged > 10 * rounds, "that was no storm: {} changes in {rounds} rounds", storm.acknowledged);
    note(&format!(
        "{rounds} {what}: {} changes acknowledged, all there; of those under way {} were made, {} were not; {} keys live, {} gone; \
         the mirror was rebuilt {rebuilt} times (OCTROI_SEED={seed})",
        storm.acknowledged,
        storm.kept,
        storm.lost,
        storm.keys(),
        storm.gone()
    ));
}
