//! Which gateway a command speaks to: the place of its admin socket, or the URL of its admin listener.

use std::path::{Path, PathBuf};

use clap::Args;

use super::client::{Address, Trust, Url};
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
    /// The gateway's admin listener, https://HOST:PORT; needs a token in OCTROI_TOKEN [env: OCTROI_ADMIN]
    #[arg(long, value_name = "URL", help_heading = "Gateway", conflicts_with_all = ["socket", "config"])]
    admin: Option<String>,
    /// Who signed that listener's certificate, if this system does not trust them [env: OCTROI_ADMIN_CA]
    #[arg(long, value_name = "FILE", help_heading = "Gateway", conflicts_with_all = ["socket", "config"])]
    admin_ca: Option<PathBuf>,
    /// A certificate with its key, if that listener demands one [env: OCTROI_ADMIN_IDENTITY]
    #[arg(long, value_name = "FILE", help_heading = "Gateway", conflicts_with_all = ["socket", "config"])]
    admin_identity: Option<PathBuf>,
}

impl Gateway {
    /// What the command line names, else the environment, else what lies at the usual places.
    pub fn address(&self) -> Result<Address, Failure> {
        // Read here and not by clap, for which a variable would count as much as an option.
        let environment = Gateway {
            socket: env("OCTROI_SOCKET"),
            config: env("OCTROI_CONFIG"),
            admin: env("OCTROI_ADMIN"),
            admin_ca: env("OCTROI_ADMIN_CA"),
            admin_identity: env("OCTROI_ADMIN_IDENTITY"),
        };
        self.named_beside(environment).unwrap_or_else(|| usual(Path::new("")).map(Address::Socket))
    }

    /// The settings file: what the command line names, else the environment. For what can be done to a stopped gateway.
    pub fn settings(&self) -> Option<PathBuf> {
        self.settings_beside(&Gateway { socket: env("OCTROI_SOCKET"), config: env("OCTROI_CONFIG"), ..Gateway::default() })
    }

    /// Never the folder of another gateway than the one that is asked: `--admin-ca` and `--admin-identity` choose the listener, too.
    fn settings_beside(&self, environment: &Gateway) -> Option<PathBuf> {
        let elsewhere = [&self.socket, &self.admin_ca, &self.admin_identity].iter().any(|path| path.is_some()) || self.admin.is_some();
        let named = |of: &Gateway| of.config.clone().filter(|_| of.socket.is_none());
        if elsewhere { None } else { named(self).or_else(|| named(environment)) }
    }

    fn named_beside(&self, environment: Gateway) -> Option<Result<Address, Failure>> {
        let trust = Trust {
            ca: self.admin_ca.clone().or_else(|| environment.admin_ca.clone()),
            identity: self.admin_identity.clone().or_else(|| environment.admin_identity.clone()),
        };
        match self.named(&trust) {
            Some(named) => Some(named),
            // Certificates are for a listener: saying them asks for the one that the environment names.
            None if self.admin_ca.is_some() || self.admin_identity.is_some() => {
                let nowhere = || Failure::Usage("--admin-ca and --admin-identity are for a listener: name it with --admin URL".into());
                Some(environment.admin.ok_or_else(nowhere).and_then(|url| Url::parse(&url, trust)).map(Address::Url))
            }
            None => environment.named(&trust),
        }
    }

    fn named(&self, trust: &Trust) -> Option<Result<Address, Failure>> {
        match self {
            Gateway { socket: Some(socket), .. } => Some(Ok(Address::Socket(socket.clone()))),
            Gateway { config: Some(file), .. } => Some(socket_of(file).map(Address::Socket)),
            Gateway { admin: Some(url), .. } => Some(Url::parse(url, trust.clone()).map(Address::Url)),
            Gateway { .. } => None,
        }
    }
}

/// A variable that is there and not empty.
fn env<T: From<String>>(name: &str) -> Option<T> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(T::from)
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
            "which gateway? there is no {USUAL_SOCKET} and no {} here; name one with --socket PATH, --config FILE or --admin URL",
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
        let gateway = Gateway { config: Some("no/such.yaml".into()), ..Gateway::default() };
        let named = gateway.named_beside(Gateway::default()).unwrap();
        assert!(matches!(named, Err(Failure::Usage(text)) if text.contains("no/such.yaml")));
    }

    #[test]
    fn a_stopped_gateway_is_never_another_one_than_was_asked() {
        let path = |path: &str| Some(PathBuf::from(path));
        let named = Gateway { config: path("e.yaml"), ..Gateway::default() };
        let listener = || Gateway { admin: Some("https://e".into()), ..Gateway::default() };
        let cases = [
            (Gateway::default(), path("e.yaml")),
            (Gateway { config: path("a.yaml"), ..Gateway::default() }, path("a.yaml")),
            (Gateway { socket: path("a.sock"), ..Gateway::default() }, None),
            (listener(), None),
            (Gateway { admin_ca: path("a.pem"), ..Gateway::default() }, None),
            (Gateway { admin_identity: path("a.pem"), ..Gateway::default() }, None),
        ];
        for (line, expected) in cases {
            assert_eq!(line.settings_beside(&named), expected, "{line:?}");
        }
        assert_eq!(Gateway::default().settings_beside(&Gateway { socket: path("e.sock"), ..named }), None);
    }

    #[test]
    fn the_command_line_comes_before_the_environment_and_the_socket_before_the_listener() {
        let socket = |path: &str| Gateway { socket: Some(path.into()), ..Gateway::default() };
        let admin =
            |url: &str, ca: Option<&str>| Gateway { admin: Some(url.into()), admin_ca: ca.map(PathBuf::from), ..Gateway::default() };
        let ca = |ca: &str| Gateway { admin_ca: Some(ca.into()), ..Gateway::default() };
        let both = Gateway { socket: Some("e.sock".into()), ..admin("https://e", Some("e.pem")) };
        let at = |path: &str| Some(Ok(Address::Socket(path.into())));
        let https = |host: &str, ca: Option<&str>| {
            Some(Url::parse(&format!("https://{host}"), Trust { ca: ca.map(PathBuf::from), identity: None }).map(Address::Url))
        };
        let cases = [
            (Gateway::default(), Gateway::default(), None),
            (Gateway::default(), both.clone(), at("e.sock")),
            (socket("a.sock"), both.clone(), at("a.sock")),
            (admin("https://a", None), both.clone(), https("a", Some("e.pem"))),
            (admin("https://a", Some("a.pem")), both.clone(), https("a", Some("a.pem"))),
            (ca("a.pem"), both, https("e", Some("a.pem"))),
            (Gateway::default(), admin("https://e", Some("e.pem")), https("e", Some("e.pem"))),
        ];
        for (line, environment, expected) in cases {
            assert_eq!(line.named_beside(environment.clone()), expected, "{line:?} beside {environment:?}");
        }
        assert!(matches!(ca("a.pem").named_beside(socket("e.sock")), Some(Err(Failure::Usage(text))) if text.contains("--admin URL")));
    }
}
