//! The Dockerfile keeps its word: what it copies is there, and what it starts works in the layout it makes, as the user it names.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use super::support::client::eventually;

#[test]
fn what_is_copied_exists_and_is_not_ignored() {
    let kept = file(".dockerignore");
    let copied: Vec<&str> = instructions("COPY").flat_map(|line| line.split_whitespace().rev().skip(1)).collect();
    assert!(copied.len() >= 6, "{copied:?}");
    for source in copied.into_iter().filter(|source| !source.starts_with('-') && !source.starts_with('/')) {
        assert!(root().join(source).exists(), "{source}");
        assert!(kept.lines().any(|line| line.starts_with(&format!("!{source}"))), "{source} is ignored");
    }
    assert!(kept.lines().any(|line| line == "*"));
}

#[test]
fn the_image_is_built_as_locked_and_runs_as_nobody_special() {
    assert!(instructions("RUN").any(|line| line.contains("cargo build --release --locked")));
    assert_ne!(user(), (0, 0));
    assert!(instructions("VOLUME").any(|line| line == "/data"));
    // What is set for the build would stay readable in the image's history.
    assert_eq!(instructions("ARG").count(), 0);
    assert_eq!(instructions("ENV").collect::<Vec<_>>(), ["OCTROI_CONFIG=/etc/octroi/octroi.yaml"]);
}

#[test]
fn the_image_s_commands_serve_tell_their_health_and_drain() {
    let container = Container::new();
    let health = || container.run(&listed("HEALTHCHECK")).status().unwrap().code();
    assert_eq!(health(), Some(3), "nothing runs yet");

    let entry = listed("ENTRYPOINT").into_iter().chain(listed("CMD")).collect::<Vec<String>>();
    let mut gateway = Running(container.run(&entry).spawn().unwrap());
    // A file is asked for before a command is: each command started is a copy of this process for a moment, with every lock in it.
    eventually("the socket, in the volume", || container.path("/data/admin.sock").exists().then_some(()));
    eventually("a healthy gateway", || (health() == Some(0)).then_some(()));

    let make = ["octroi", "machine", "create", "Billing"].map(String::from);
    assert!(container.run(&make).status().unwrap().success());

    gateway.terminate();
    let ended = eventually("the end", || gateway.0.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
    assert_eq!(health(), Some(3), "nothing runs any more");
}

/// A folder laid out as the Dockerfile's last stage lays out the image.
struct Container {
    root: tempfile::TempDir,
}

impl Container {
    fn new() -> Container {
        let container = Container { root: tempfile::tempdir().unwrap() };
        fs::set_permissions(container.root.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for folder in ["/etc/octroi", "/usr/local/bin", "/data"] {
            fs::create_dir_all(container.path(folder)).unwrap();
        }
        symlink(container.path("/data"), container.path("/etc/octroi/data")).unwrap();
        fs::set_permissions(container.path("/data"), PermissionsExt::from_mode(0o700)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_octroi"), container.path("/usr/local/bin/octroi")).unwrap();
        // The store has its default place; the ports must be free ones here.
        let settings = file("config/minimal.yaml") + "listeners: {public: {bind: '127.0.0.1:0'}}\nadmin: {bind: '127.0.0.1:0'}\n";
        fs::write(container.path("/etc/octroi/octroi.yaml"), settings).unwrap();
        if am_root() {
            let (user, group) = user();
            chown(container.path("/data"), Some(user), Some(group)).unwrap();
        }
        container
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.root.path().join(absolute.trim_start_matches('/'))
    }

    /// A command of the image, in its environment; as its user where a process may choose.
    fn run(&self, words: &[String]) -> Command {
        assert_eq!(words[0], "octroi");
        let mut command = Command::new(self.path("/usr/local/bin/octroi"));
        let inside = |word: &String| if word.starts_with('/') { self.path(word) } else { word.into() };
        command.args(words[1..].iter().map(inside)).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        for (name, value) in instructions("ENV").filter_map(|line| line.split_once('=')) {
            command.env(name, self.path(value));
        }
        if am_root() {
            let (user, group) = user();
            command.uid(user).gid(group);
        }
        command.current_dir("/");
        command
    }
}

/// Ended at the latest when the test is.
struct Running(Child);

impl Running {
    fn terminate(&self) {
        rustix::process::kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// The Dockerfile's lines, continued ones as one, that begin with `word`: what follows it.
fn instructions(word: &str) -> impl Iterator<Item = &'static str> {
    static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| file("Dockerfile").replace("\\\n", ""));
    let start = format!("{word} ");
    TEXT.lines().filter_map(move |line| line.strip_prefix(start.as_str())).map(str::trim)
}

/// The words of an instruction's JSON list.
fn listed(word: &str) -> Vec<String> {
    let line = instructions(word).next().unwrap();
    serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap()
}

fn user() -> (u32, u32) {
    let (user, group) = instructions("USER").next().unwrap().split_once(':').unwrap();
    (user.parse().unwrap(), group.parse().unwrap())
}
