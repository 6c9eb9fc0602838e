//! `octroi demo`: a sample API, the gateway in front of it and a key, so that the first request works a minute after the download.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::{Gateway, StartError, init_logs, sensors, until_signal};
use crate::clock::Clock;
use crate::config;
use crate::model::change::{NewKey, NewMachine};
use crate::model::{Actor, Authority, Change, KeyId, KeyStatus, Machine, Origin, PermissionName};
use crate::registry::{Left, Registry};

/// Where the demonstration listens and keeps its store.
#[derive(Clone, Debug)]
pub struct Options {
    pub dir: PathBuf,
    pub public: SocketAddr,
    pub admin: SocketAddr,
}

const SETTINGS: &str = include_str!("../../config/demo.yaml");
const MACHINE: &str = "Demo weather station";
const LABEL: &str = "demo - weather station v1";

/// Runs the demonstration until it is told to stop.
pub fn run(options: &Options) -> Result<(), StartError> {
    let api = sensors::start().map_err(|source| StartError::Io { what: "cannot start the sample API".into(), source })?;
    let store = std::path::absolute(&options.dir).map_err(|source| StartError::Io { what: options.dir.display().to_string(), source })?;
    let value = |name: &str| match name {
        "OCTROI_DEMO_PUBLIC" => Some(options.public.to_string()),
        "OCTROI_DEMO_ADMIN" => Some(options.admin.to_string()),
        "OCTROI_DEMO_STORE" => Some(store.display().to_string()),
        "OCTROI_DEMO_API" => Some(api.to_string()),
        _ => None,
    };
    let settings = config::parse(SETTINGS, std::path::Path::new("demo.yaml"), &value).map_err(StartError::Settings)?;
    let _log = init_logs(&settings)?;
    let socket = settings.admin.socket.clone();
    until_signal(settings, async |gateway| {
        let key = demo_key(gateway.registry()).await?;
        let page = Page { gateway, api, options, socket: &socket, key };
        let mut text = Zeroizing::new(String::new());
        // Writing to a string cannot fail.
        let _ = page.write(&mut text);
        let printed = std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush());
        printed.map_err(|source| StartError::Io { what: "standard output".into(), source })
    })
}

/// The demonstration's key: made now, with its value, or there from an earlier start.
enum DemoKey {
    New(Zeroizing<String>),
    Known { id: KeyId, label: String },
}

async fn demo_key(registry: &Registry) -> Result<DemoKey, StartError> {
    let fail = |what: String| StartError::Io { what: "the demonstration's key".into(), source: std::io::Error::other(what) };
    let origin =
        || Origin { actor: Actor("demo".into()), authority: Authority::Everything, address: None, reason: Some("octroi demo".into()) };
    let commit = async |change| registry.commit(origin(), change).await.map_err(|error| fail(error.to_string()));

    let machine = match find_machine(registry).map_err(fail)? {
        Some(machine) => machine,
        None => {
            let permissions = PermissionName::parse("sensors:read").into_iter().collect();
            let new = NewMachine { name: MACHINE.into(), description: "made by octroi demo".into(), permissions, ..NewMachine::default() };
            match commit(Change::CreateMachine(new)).await?.left {
                Left::Machine(machine) => machine,
                _ => return Err(fail("no machine was made".into())),
            }
        }
    };
    let now = Clock::system().now().wall;
    let keys = registry.store().keys(Some(machine.id), None, usize::MAX).map_err(|error| fail(error.to_string()))?;
    if let Some(key) = keys.into_iter().find(|key| key.status(now) == KeyStatus::Active) {
        return Ok(DemoKey::Known { id: key.id, label: key.label });
    }
    let made = commit(Change::CreateKey(machine.id, NewKey { label: LABEL.into(), ..NewKey::default() })).await?;
    made.secret.map(|secret| DemoKey::New(secret.reveal())).ok_or_else(|| fail("no value was made".into()))
}

fn find_machine(registry: &Registry) -> Result<Option<Machine>, String> {
    let machines = registry.store().machines(None, usize::MAX).map_err(|error| error.to_string())?;
    Ok(machines.into_iter().find(|machine| machine.name == MACHINE))
}

/// What the demonstration prints.
struct Page<'a> {
    gateway: &'a Gateway,
    api: SocketAddr,
    options: &'a Options,
    socket: &'a std::path::Path,
    key: DemoKey,
}

impl Page<'_> {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let public = self.gateway.addresses().first().map_or(self.options.public, |(_, address)| *address);
        writeln!(out, "octroi demo")?;
        writeln!(out, "  sample API   http://{}", self.api)?;
        writeln!(out, "  gateway      http://{public}")?;
        if let Some(admin) = self.gateway.admin_address() {
            writeln!(out, "  admin        http://{admin}  (/metrics, /readyz)")?;
        }
        writeln!(out, "  store        {}", self.options.dir.display())?;
        writeln!(out)?;
        let bearer = match &self.key {
            DemoKey::New(value) => {
                writeln!(out, "Machine \"{MACHINE}\" has a new key. Its value is shown only now:")?;
                writeln!(out, "  {}", value.as_str())?;
                value.as_str()
            }
            DemoKey::Known { id, label } => {
                writeln!(out, "Machine \"{MACHINE}\" has the key \"{label}\" from an earlier start.")?;
                writeln!(out, "Its value cannot be shown again; only its hash is stored. For a new one, in another terminal:")?;
                // By its id: a revoked key before it may have the same label.
                let socket = quoted(&self.socket.display().to_string());
                writeln!(out, "  export OCTROI_KEY=$({} key regenerate {id} --quiet --socket {socket})", quoted(&command()))?;
                "$OCTROI_KEY"
            }
        };
        let url = format!("http://{public}/v1/sensors");
        writeln!(out, "\nTry, in another terminal:")?;
        // What a line shows stands above it: pasted into zsh, a comment at its end would be more words for curl.
        writeln!(out, "200, let in:")?;
        writeln!(out, "  curl -i -H \"Authorization: Bearer {bearer}\" {url}")?;
        writeln!(out, "401, no key:")?;
        writeln!(out, "  curl -i {url}")?;
        writeln!(out, "429 in the end, more than 60 a minute:")?;
        // Some more than 60, since every second lets another one in.
        writeln!(out, "  curl -s -o /dev/null -w '%{{http_code}}\\n' -H \"Authorization: Bearer {bearer}\" '{url}?n=[1-70]'")?;
        writeln!(out, "\nCtrl-C drains and stops.")
    }
}

/// How this program was called, so that the lines it prints work when pasted.
fn command() -> String {
    std::env::current_exe().map_or_else(|_| "octroi".into(), |path| path.display().to_string())
}

/// One word for a POSIX shell, whatever is in it.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word() {
        for (word, expected) in [("/a/b-1.sock", "/a/b-1.sock"), ("", "''"), ("a b", "'a b'"), ("l'été $x", r"'l'\''été $x'")] {
            assert_eq!(quoted(word), expected);
        }
    }
}
