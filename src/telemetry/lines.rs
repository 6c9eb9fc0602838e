//! Lines on their way out: a bounded queue, and the thread that writes it to a file or a terminal, so that whoever has a line to write never
//! waits for a disk or a reader. Both logs go this way.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// After a write more lines are gathered for so long, so that a busy gateway pays one wake-up for many.
const GATHER: Duration = Duration::from_millis(20);
/// A target that failed is tried again after this.
const RETRY: Duration = Duration::from_millis(250);
/// A target that takes nothing holds up the end of the process for no longer than this.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

pub type Out = Box<dyn Write + Send>;

/// Lines on their way to the target.
pub struct Queue {
    /// What failures to write are told about as; `None` where nobody could read it.
    name: Option<&'static str>,
    /// Bytes that may wait.
    capacity: usize,
    state: Mutex<State>,
    /// Tells the writer of lines or of the end.
    work: Condvar,
    /// Tells who closes that the writer has ended.
    ended: Condvar,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// The lock is held to append a finished line or to take them all, never while something is written.
struct State {
    waiting: Lines,
    writer: Writer,
    closing: bool,
}

/// Whole lines.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
}

/// What the writer does, so that a line wakes it only when it sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Busy,
    /// Until there is a line.
    Asleep,
    /// For [`GATHER`], or until the queue is half full.
    Gathering,
    Ended,
}

/// Starts a writer to `out`. `capacity` is in bytes of lines that wait; as much again can be in the writer's hands. When writing fails the
/// gateway's own log says so of `name`; that log itself has none.
pub fn start(thread: &str, name: Option<&'static str>, out: Out, capacity: usize) -> io::Result<Arc<Queue>> {
    let state = State { waiting: Lines::default(), writer: Writer::Busy, closing: false };
    let queue = Arc::new(Queue {
        name,
        capacity,
        state: Mutex::new(state),
        work: Condvar::new(),
        ended: Condvar::new(),
        written: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
    });
    let of_writer = queue.clone();
    thread::Builder::new().name(thread.to_owned()).spawn(move || of_writer.run(out))?;
    Ok(queue)
}

impl Queue {
    pub fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.closing || state.waiting.bytes.len() + line.len() > self.capacity {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.bytes.extend_from_slice(line);
        state.waiting.count += 1;
        let half_full = state.waiting.bytes.len() > self.capacity / 2;
        if state.writer == Writer::Asleep || state.writer == Writer::Gathering && half_full {
            state.writer = Writer::Busy;
            drop(state);
            self.work.notify_one();
        }
    }

    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Lets the writer end once it has written what waits.
    pub fn end(&self) {
        self.state.lock().closing = true;
        self.work.notify_one();
    }

    /// Ends and waits; `false` if lines were lost by it or the target is stuck.
    pub fn close(&self) -> bool {
        let lost_before = self.dropped();
        self.end();
        let mut state = self.state.lock();
        let stuck = self.ended.wait_while_for(&mut state, |state| state.writer != Writer::Ended, CLOSE_WAIT).timed_out();
        !stuck && self.dropped() == lost_before
    }

    fn run(&self, mut out: Out) {
        let mut lines = Lines::default();
        while self.take(&mut lines) {
            self.write(&mut out, &lines);
            self.gather();
        }
        self.state.lock().writer = Writer::Ended;
        self.ended.notify_all();
    }

    /// Waits for lines and swaps them for the empty ones given; `false` at the end.
    fn take(&self, lines: &mut Lines) -> bool {
        lines.bytes.clear();
        lines.count = 0;
        let mut state = self.state.lock();
        while state.waiting.count == 0 && !state.closing {
            state.writer = Writer::Asleep;
            self.work.wait(&mut state);
        }
        state.writer = Writer::Busy;
        std::mem::swap(&mut state.waiting, lines);
        lines.count > 0
    }

    fn gather(&self) {
        let mut state = self.state.lock();
        if !state.closing && state.waiting.bytes.len() <= self.capacity / 2 {
            state.writer = Writer::Gathering;
            self.work.wait_for(&mut state, GATHER);
            state.writer = Writer::Busy;
        }
    }

    /// Goes on where a failing target stopped until it has taken everything, so that no line is torn. At the end of the
    /// process it is not waited for: what is left then is lost, and counted.
    fn write(&self, out: &mut Out, lines: &Lines) {
        let mut rest = &lines.bytes[..];
        let mut failing = false;
        while let Err(error) = write_some(out, &mut rest) {
            if let Some(name) = self.name.filter(|_| !failing) {
                tracing::warn!(%error, "{name} cannot be written; trying again");
            }
            failing = true;
            if self.is_closing_after(RETRY) {
                let lost = memchr::memchr_iter(b'\n', rest).count() as u64;
                self.dropped.fetch_add(lost, Ordering::Relaxed);
                self.written.fetch_add(lines.count - lost, Ordering::Relaxed);
                if let Some(name) = self.name {
                    tracing::error!(lines = lost, "lines of {name} are lost");
                }
                return;
            }
        }
        self.written.fetch_add(lines.count, Ordering::Relaxed);
        if let Some(name) = self.name.filter(|_| failing) {
            tracing::info!(dropped = self.dropped(), "{name} can be written again");
        }
    }

    fn is_closing_after(&self, pause: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.closing {
            self.work.wait_for(&mut state, pause);
        }
        state.closing
    }
}

/// Writes all of `rest`, moving it on by what was taken.
fn write_some(out: &mut Out, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => *rest = &rest[taken..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a byte count per write from a script, then all; `None` fails.
    struct Scripted {
        script: mpsc::Receiver<Option<usize>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A closed script takes everything.
            match self.script.recv() {
                Ok(None) => Err(io::Error::from_raw_os_error(28)),
                Ok(Some(most)) => {
                    let bytes = &bytes[..bytes.len().min(most)];
                    self.taken.lock().extend_from_slice(bytes);
                    Ok(bytes.len())
                }
                Err(_) => {
                    self.taken.lock().extend_from_slice(bytes);
                    Ok(bytes.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Script = mpsc::Sender<Option<usize>>;

    fn scripted(capacity: usize) -> (Arc<Queue>, Script, Arc<Mutex<Vec<u8>>>) {
        let ((send, script), taken) = (mpsc::channel(), Arc::new(Mutex::new(Vec::new())));
        (start("lines", Some("the log"), Box::new(Scripted { script, taken: taken.clone() }), capacity).unwrap(), send, taken)
    }

    #[test]
    fn every_line_is_written_or_counted_as_dropped() {
        // The target takes nothing until the script ends, so the queue fills up.
        let (queue, script, taken) = scripted(100);
        (0..1_000).for_each(|_| queue.push(b"0123456789\n"));
        assert!(queue.dropped() >= 1_000 - 2 * 9, "the queue and the writer's hands hold nine lines each at most");
        drop(script);
        assert!(queue.close());
        assert_eq!(queue.written() + queue.dropped(), 1_000);
        assert_eq!(taken.lock().len() as u64, 11 * queue.written());
        queue.push(b"late\n");
        assert_eq!(queue.written() + queue.dropped(), 1_001);
    }

    #[test]
    fn a_failing_target_tears_no_line() {
        let (queue, script, taken) = scripted(1_000);
        for step in [Some(3), None, Some(2), None, Some(0)] {
            script.send(step).unwrap();
        }
        queue.push(b"one line\n");
        queue.push(b"another\n");
        // The writer has met the first failure once it asks for the sixth step; only then is the rest let through.
        script.send(Some(100)).unwrap();
        while taken.lock().len() < 9 {
            thread::yield_now();
        }
        drop(script);
        assert!(queue.close());
        assert_eq!(*taken.lock(), b"one line\nanother\n");
        assert_eq!((queue.written(), queue.dropped()), (2, 0));
    }

    #[test]
    fn what_a_broken_target_did_not_take_by_the_end_is_counted() {
        let (queue, script, taken) = scripted(1_000);
        script.send(Some(6)).unwrap();
        (0..1_000).for_each(|_| script.send(None).unwrap());
        ["one\n", "two\n", "three\n"].into_iter().for_each(|line| queue.push(line.as_bytes()));
        while taken.lock().is_empty() {
            thread::yield_now();
        }
        assert!(!queue.close());
        assert!(queue.written() >= 1 && queue.dropped() >= 1);
        assert_eq!(queue.written() + queue.dropped(), 3);
    }

    #[test]
    fn many_threads_write_whole_lines_to_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let open = || std::fs::OpenOptions::new().append(true).create(true).open(dir.path().join("access.log")).unwrap();
        for round in 1..3 {
            let queue = start("lines", None, Box::new(open()), 1 << 20).unwrap();
            thread::scope(|scope| {
                (0..4).for_each(|_| drop(scope.spawn(|| (0..1_000).for_each(|_| queue.push(b"{\"a\":1}\n")))));
            });
            assert!(queue.close());
            assert_eq!((queue.written(), queue.dropped()), (4_000, 0));
            let text = std::fs::read_to_string(dir.path().join("access.log")).unwrap();
            assert_eq!(text.lines().filter(|line| *line == "{\"a\":1}").count(), round * 4_000, "a file is appended to");
        }
    }
}
