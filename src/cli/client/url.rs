//! The URL of an admin listener, and who may be trusted to stand behind it.

use std::path::PathBuf;

use http::Uri;
use http::uri::Authority;

use super::super::failure::Failure;

/// `http` only to this machine: a token would be readable on the way to any other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub https: bool,
    /// `host:port` as the URL has it, IPv6 in brackets.
    pub authority: Authority,
    pub trust: Trust,
}

/// What makes the two sides believe each other, in files of PEM form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The authorities one of which must have signed the listener's certificate; `None` = those of this system.
    pub ca: Option<PathBuf>,
    /// The certificate, with its key, to show to a listener that demands one.
    pub identity: Option<PathBuf>,
}

impl Url {
    pub fn parse(text: &str, trust: Trust) -> Result<Url, Failure> {
        // What is not understood is not repeated: it may hold a password.
        let wrong = |what: &str| Failure::Usage(format!("--admin: {what}; write https://admin.example.org:8090"));
        let uri: Uri = text.parse().map_err(|_| wrong("this is no URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("the URL names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("the URL names a user; a token goes into the environment variable OCTROI_TOKEN"));
        }
        if uri.path_and_query().is_some_and(|rest| rest != "/") {
            return Err(wrong("the URL goes on after the host"));
        }
        let url = Url { https: uri.scheme_str() == Some("https"), authority: authority.clone(), trust };
        match uri.scheme_str() {
            Some("https") => Ok(url),
            Some("http") if url.names_loopback() && url.trust == Trust::default() => Ok(url),
            Some("http") if url.names_loopback() => Err(wrong("certificates need https")),
            Some("http") => Err(wrong("http would show the token to everybody on the way, and is for this machine alone")),
            _ => Err(wrong("the URL begins with neither https:// nor http://")),
        }
    }

    /// The host without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.https { 443 } else { 80 })
    }

    fn names_loopback(&self) -> bool {
        let address = self.host().parse::<std::net::IpAddr>();
        self.host().eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_listener_and_nothing_more() {
        let good = [
            ("https://admin.example.org", "admin.example.org", 443),
            ("https://admin.example.org:8443/", "admin.example.org", 8443),
            ("https://[fd00::7]:8443", "fd00::7", 8443),
            ("http://127.0.0.1:8090", "127.0.0.1", 8090),
            ("http://LOCALHOST", "LOCALHOST", 80),
            ("http://[::1]:8090", "::1", 8090),
        ];
        for (text, host, port) in good {
            let url = Url::parse(text, Trust::default()).unwrap();
            assert_eq!((url.host(), url.port()), (host, port), "{text}");
        }
        let bad = [
            ("http://admin.example.org", "on the way"),
            ("http://127.0.0.1.example.org", "on the way"),
            ("http://0.0.0.0:8090", "on the way"),
            ("https://me:hunter2@admin.example.org", "OCTROI_TOKEN"),
            ("https://admin.example.org/v1", "goes on"),
            ("https://admin.example.org?x=1", "goes on"),
            ("ftp://admin.example.org", "neither"),
            ("admin.example.org:8090", "neither"),
            ("/v1", "no host"),
            ("", "no URL"),
        ];
        for (text, words) in bad {
            let Err(Failure::Usage(message)) = Url::parse(text, Trust::default()) else { panic!("{text} was taken") };
            assert!(message.contains(words) && !message.contains("hunter2"), "{text}: {message}");
        }
        let trust = Trust { ca: Some("ca.pem".into()), identity: None };
        assert!(Url::parse("http://127.0.0.1", trust.clone()).is_err(), "http has nothing to check");
        assert!(Url::parse("https://127.0.0.1", trust).is_ok());
    }
}
