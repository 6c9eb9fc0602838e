//! Which gateway a command speaks to: the place of its admin socket.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use crate::config;

/// Where a gateway's socket is when nobody says otherwise.
const USUAL_SOCKET: &str = "data/admin.sock";
const USUAL_SETTINGS: [&str; 2] = ["octroi.yaml", "config/octroi.yaml"];

/// How a command line names the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Gateway {
    /// The gateway's admin socket [env: OCTROI_SOCKET] [default: data/admin.sock]
    #[arg(long, value_name = "PATH", help_heading = "Gateway")]
    socket: Option<PathBuf>,
    /// The gateway's settings file, which names the socket [env: OCTROI_CONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Gateway", conflicts_with = "socket")]
    config: Option<PathBuf>,
}

impl Gateway {
    /// The socket: what the command line names, else the environment, else what lies at the usual places.
    pub fn socket(&self) -> Result<PathBuf, Failure> {
        // Read here and not by clap, for which a variable would count as much as an option.
        let from_env = || Gateway { socket: env("OCTROI_SOCKET"), config: env("OCTROI_CONFIG") };
        self.named().or_else(|| from_env().named()).unwrap_or_else(|| usual(Path::new("")))
    }

    /// The settings file that the command line names.
    pub fn settings(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn named(&self) -> Option<Result<PathBuf, Failure>> {
        match self {
            Gateway { socket: Some(socket), .. } => Some(Ok(socket.clone())),
            Gateway { config: Some(file), .. } => Some(socket_of(file)),
            Gateway { socket: None, config: None } => None,
        }
    }
}

fn env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn socket_of(settings: &Path) -> Result<PathBuf, Failure> {
    config::load(settings).map(|settings| settings.admin.socket).map_err(|findings| Failure::Usage(findings.to_string()))
}

fn usual(folder: &Path) -> Result<PathBuf, Failure> {
    let socket = folder.join(USUAL_SOCKET);
    if socket.exists() {
        return Ok(socket);
    }
    match USUAL_SETTINGS.iter().map(|file| folder.join(file)).find(|file| file.exists()) {
        Some(file) => socket_of(&file),
        None => Err(Failure::Unreachable(format!(
            "which gateway? there is no {USUAL_SOCKET} and no {} here; name one with --socket PATH or --config FILE",
            USUAL_SETTINGS.join(" or ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &str = "store: {path: kept}\nupstreams: {u: {targets: ['http://127.0.0.1:1']}}\n\
                            routes: {r: {match: {path: /}, public: true, upstream: u}}\n";

    #[test]
    fn the_usual_places_are_looked_at_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(matches!(usual(folder.path()), Err(Failure::Unreachable(_))));
        std::fs::create_dir_all(at("config")).unwrap();
        std::fs::write(at("config/octroi.yaml"), SETTINGS).unwrap();
        assert_eq!(usual(folder.path()), Ok(at("config/kept/admin.sock")));
        std::fs::write(at("octroi.yaml"), SETTINGS).unwrap();
        assert_eq!(usual(folder.path()), Ok(at("kept/admin.sock")));
        std::fs::create_dir(at("data")).unwrap();
        std::fs::write(at("data/admin.sock"), "").unwrap();
        assert_eq!(usual(folder.path()), Ok(at("data/admin.sock")));
    }

    #[test]
    fn wrong_settings_are_wrong_usage() {
        let gateway = Gateway { socket: None, config: Some("no/such.yaml".into()) };
        assert!(matches!(gateway.socket(), Err(Failure::Usage(text)) if text.contains("no/such.yaml")));
        let gateway = Gateway { socket: Some("a.sock".into()), config: None };
        assert_eq!(gateway.socket(), Ok(PathBuf::from("a.sock")));
    }
}
