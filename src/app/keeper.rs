//! Keeps time for everything that has no thread of its own: usage reaches the disk, the wall clock is followed, guesses are
//! forgotten, idle keys are looked for.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::StartError;
use super::idle::Idle;
use crate::clock::Clock;
use crate::gate::Gate;
use crate::registry::Registry;
use crate::usage::Usage;

pub struct Keeper {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Does its round every `every`, the settings' `usage.flush`.
    pub fn start(
        every: Duration,
        usage: Arc<Usage>,
        registry: Registry,
        gate: Arc<Gate>,
        clock: Clock,
        mut idle: Idle,
    ) -> Result<Keeper, StartError> {
        let (stop, stopped) = channel();
        let keep = move || {
            loop {
                let over = stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout);
                clock.resync();
                gate.sweep(clock.now());
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
