//! `octroi health`: whether a running gateway can do its work, for people, service managers and containers.

use clap::Args;
use http::Uri;
use serde_json::Value;

use super::client::{Address, Answer, Client};
use super::failure::{Failure, Outcome};
use super::locate::Gateway;
use super::output;

#[derive(Debug, Args)]
pub struct Health {
    #[command(flatten)]
    gateway: Gateway,
    /// Ask over HTTP instead: the admin or the telemetry listener, http://127.0.0.1:8090
    #[arg(long, value_name = "URL", conflicts_with_all = ["socket", "config", "admin"], help_heading = "Gateway")]
    url: Option<String>,
}

impl Health {
    pub fn run(self) -> Outcome {
        let (address, path) = match &self.url {
            Some(url) => listener(url)?,
            None => (self.gateway.address()?, "/readyz".to_owned()),
        };
        judge(&Client::new(address)?.send("GET", &path, None)?)?;
        output::print("ready\n")
    }
}

/// Where a URL leads: `/readyz` unless it names a path.
fn listener(url: &str) -> Result<(Address, String), Failure> {
    let wrong = || Failure::Usage(format!("{url:?} is no URL of a gateway; write http://127.0.0.1:8090"));
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
    let path = if uri.path() == "/" { "/readyz" } else { uri.path() };
    Ok((Address::Tcp(format!("{host}:{}", uri.port_u16().unwrap_or(80))), path.to_owned()))
}

fn judge(answer: &Answer) -> Outcome {
    if answer.status == 200 {
        return Ok(());
    }
    let status = answer.body.get("status").and_then(Value::as_str).unwrap_or("not ready");
    let reasons = answer.body.get("reasons").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let lines: Vec<String> = reasons.map(|reason| format!("\n  {}", output::tame(reason))).collect();
    Err(Failure::Refused(format!("{} ({}){}", output::tame(status), answer.status, lines.concat())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_200_is_ready_and_the_reasons_are_told() {
        assert_eq!(judge(&Answer { status: 200, body: json!({"status": "ready"}) }), Ok(()));
        let body = json!({"status": "degraded", "reasons": ["the disk is full"]});
        let told = Failure::Refused("degraded (503)\n  the disk is full".into());
        assert_eq!(judge(&Answer { status: 503, body }), Err(told));
        assert!(judge(&Answer { status: 404, body: Value::Null }).is_err());
    }

    #[test]
    fn a_url_names_a_listener() {
        let tcp = |to: &str, path: &str| Ok((Address::Tcp(to.into()), path.to_owned()));
        assert_eq!(listener("http://127.0.0.1:9464"), tcp("127.0.0.1:9464", "/readyz"));
        assert_eq!(listener("http://[::1]:8090/livez"), tcp("[::1]:8090", "/livez"));
        assert_eq!(listener("http://gateway"), tcp("gateway:80", "/readyz"));
        for bad in ["127.0.0.1:8090", "https://127.0.0.1", "", "/readyz"] {
            assert!(matches!(listener(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }
}
