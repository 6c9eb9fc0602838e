//! The real program as a process of its own: run to its end, or kept running and watched line by line. No run outlives its test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longer than anything a test waits for; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

pub const BINARY: &str = env!("CARGO_BIN_EXE_octroi");

/// What a program left when it ended.
#[derive(Debug)]
pub struct Ran {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// What it printed, for one that did as it was told.
    pub fn done(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.out
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(self.done()).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// What it said on standard error when it ended with `code`, having printed nothing.
    pub fn failed(&self, code: i32) -> &str {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        &self.err
    }
}

/// `octroi` with these arguments, in this folder, with nothing of the tests' own environment that it would listen to.
pub fn octroi(folder: &Path, args: &[&str]) -> Command {
    command(BINARY, folder, args)
}

pub fn command(program: &str, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).stdin(Stdio::null());
    for variable in ["SOCKET", "CONFIG", "ADMIN", "ADMIN_CA", "ADMIN_IDENTITY", "TOKEN"] {
        command.env_remove(format!("OCTROI_{variable}"));
    }
    command
}

/// Runs it to its end.
pub fn run(command: Command) -> Ran {
    Program::start(command).end()
}

/// A program that runs.
pub struct Program {
    child: Child,
    out: Output,
    err: Output,
}

impl Program {
    pub fn start(mut command: Command) -> Program {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = Output::of(child.stdout.take().unwrap());
        let err = Output::of(child.stderr.take().unwrap());
        Program { child, out, err }
    }

    /// `octroi serve` on this settings file, once it listens; with the address of its public listener.
    pub fn serving(settings: &Path) -> (Program, SocketAddr) {
        let mut program = Program::start(octroi(settings.parent().unwrap(), &["serve", "--config", settings.to_str().unwrap()]));
        let line = program.logged("\"listening\"");
        let line: Value = serde_json::from_str(&line).unwrap();
        let address = line["address"].as_str().unwrap().parse().unwrap();
        (program, address)
    }

    /// Waits for a line of standard error with this text.
    pub fn logged(&mut self, text: &str) -> String {
        self.err.line(text).unwrap_or_else(|| panic!("{text:?} was not logged: {:?} {:?}", self.err.seen, self.out.seen))
    }

    /// Waits for a line of standard output with this text, and gives all lines up to it.
    pub fn printed(&mut self, text: &str) -> Vec<String> {
        self.out.line(text).unwrap_or_else(|| panic!("{text:?} was not printed: {:?} {:?}", self.out.seen, self.err.seen));
        self.out.seen.clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// As a power switch would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn end(mut self) -> Ran {
        let (out, err) = (self.out.all(), self.err.all());
        let status = self.child.wait().unwrap();
        Ran { code: status.code(), out, err }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of a program's outputs, read as it comes so that it never waits for a reader.
struct Output {
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Output {
    fn of(pipe: impl Read + Send + 'static) -> Output {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                // Nobody reads on after the test's end.
                let _ = sender.send(line);
            }
        });
        Output { lines, seen: Vec::new() }
    }

    /// The next line with `text` in it; `None` when the output ends before.
    fn line(&mut self, text: &str) -> Option<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let line = self.next(end)?;
            if line.contains(text) {
                return Some(line);
            }
        }
    }

    fn all(&mut self) -> String {
        let end = Instant::now() + PATIENCE;
        while self.next(end).is_some() {}
        self.seen.iter().map(|line| format!("{line}\n")).collect()
    }

    fn next(&mut self, end: Instant) -> Option<String> {
        match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.seen.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing more within {PATIENCE:?} after {:?}", self.seen),
        }
    }
}
