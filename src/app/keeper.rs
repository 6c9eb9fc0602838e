//! Keeps time for everything that has no thread of its own: usage reaches the disk, the wall clock is followed, guesses are
//! forgotten, idle keys are looked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::StartError;
use super::idle::Idle;
use crate::clock::Clock;
use crate::gate::Gate;
use crate::registry::Registry;
use crate::usage::Usage;

/// Held by the keeper's thread: it stops with it, however it ends.
pub struct Heart(Arc<AtomicBool>);

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Feels whether the heart beats.
pub struct Pulse(Arc<AtomicBool>);

pub fn heart() -> (Heart, Pulse) {
    let beats = Arc::new(AtomicBool::new(true));
    (Heart(beats.clone()), Pulse(beats))
}

impl Pulse {
    pub fn beats(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

pub struct Keeper {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Does its round every `every`, the settings' `usage.flush`.
    pub fn start(
        every: Duration,
        heart: Heart,
        usage: Arc<Usage>,
        registry: Registry,
        gate: Arc<Gate>,
        clock: Clock,
        mut idle: Idle,
    ) -> Result<Keeper, StartError> {
        let (stop, stopped) = channel();
        let keep = move || {
            let _heart = heart;
            loop {
                let over = stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout);
                clock.resync();
                gate.sweep(clock.now());
                if usage.watch(clock.now()) {
                    idle.wait();
                }
                let flushed = usage.flush(&mut |each| registry.buckets(|owner, bucket| each(owner, bucket.counters())));
                if let Err(error) = flushed {
                    tracing::error!(%error, "usage could not be written; it stays in memory and is tried again");
                }
                if over {
                    return;
                }
                idle.round();
            }
        };
        let spawned = std::thread::Builder::new().name("octroi-keeper".into()).spawn(keep);
        let thread = spawned.map_err(|source| StartError::Io { what: "cannot start the keeper thread".into(), source })?;
        Ok(Keeper { stop, thread })
    }

    /// Flushes once more and waits for it.
    pub fn stop(self) {
        drop(self.stop);
        // A panic of the thread was reported when it happened.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_dies_leaves_no_pulse() {
        let (heart, pulse) = heart();
        assert!(pulse.beats());
        let died = std::thread::spawn(move || {
            let _heart = heart;
            std::panic::resume_unwind(Box::new("a fault"));
        });
        assert!(died.join().is_err());
        assert!(!pulse.beats());
    }
}
