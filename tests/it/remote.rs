//! The admin listener as other machines reach it, and the commands that go there: certificates, names, tokens, and servers that are no
//! octroi. What a terminal, a closed pipe and the shells make of the commands stands here too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use octroi::clock::Clock;
use octroi::model::change::NewOperator;
use octroi::model::{Change, Right, Rights};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use serde_json::json;

use crate::support::client::eventually;
use crate::support::program::{BINARY, Program, Ran, command, octroi, run};
use crate::support::{Gateway, Upstream, gateway, skip};

/// An authority with a listener's certificate (for `localhost` and `admin.example.org`) and a client's, in files.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Certificates {
        let certificates = Certificates { dir: tempfile::tempdir().unwrap() };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        certificates.write("ca.pem", &params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        let server = certificates.signed(&issuer, &["localhost", "admin.example.org"], ExtendedKeyUsagePurpose::ServerAuth);
        let client = certificates.signed(&issuer, &["client"], ExtendedKeyUsagePurpose::ClientAuth);
        certificates.write("cert.pem", &server.0);
        certificates.write("key.pem", &server.1);
        certificates.write("client.pem", &format!("{}{}", client.0, client.1));
        certificates
    }

    fn signed(&self, issuer: &Issuer<'_, KeyPair>, names: &[&str], purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![purpose];
        (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The `tls` setting, with `more` in it.
    fn setting(&self, more: &str) -> String {
        format!("tls: {{certificate: '{}', private_key: '{}'{more}}}", self.text("cert.pem"), self.text("key.pem"))
    }

    /// A connection that has shaken hands.
    fn connect(&self, to: SocketAddr, version: &'static SupportedProtocolVersion) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
        StreamOwned::new(connection, patient(to))
    }
}

fn patient(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// A gateway whose admin listener is set up like that.
fn with_admin(upstream: &Upstream, admin: &str) -> Gateway {
    let settings =
        gateway::settings(upstream.address).replace("admin: {bind: '127.0.0.1:0'}", &format!("admin: {{bind: '127.0.0.1:0', {admin}}}"));
    Gateway::with(settings, Clock::system())
}

fn token(gateway: &Gateway, name: &str, rights: Rights) -> String {
    let made = gateway.commit(Change::CreateOperator(NewOperator { name: name.into(), rights, expires_at: None })).unwrap();
    made.secret.unwrap().reveal().to_string()
}

/// Runs commands against one admin listener.
struct Away<'a> {
    gateway: &'a Gateway,
    token: Option<&'a str>,
    options: Vec<String>,
}

impl Away<'_> {
    fn run(&self, args: &[&str]) -> Ran {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let mut command = octroi(self.gateway.dir(), &[args, &options].concat());
        if let Some(token) = self.token {
            command.env("OCTROI_TOKEN", token);
        }
        let ran = run(command);
        assert!(self.token.is_none_or(|token| !format!("{ran:?}").contains(token)), "{ran:?}");
        ran
    }
}

/// What is answered to a request for this host on a new connection.
fn answer(mut stream: impl Read + Write, target: &str, host: &str) -> String {
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn machines_and_keys_are_managed_from_another_machine() {
    let (upstream, certificates) = (Upstream::plain(), Certificates::new());
    let gateway = with_admin(&upstream, &certificates.setting(""));
    let token = token(&gateway, "ops", Rights::from_iter([Right::MachinesWrite]));
    let url = format!("https://localhost:{}", gateway.admin_address().port());
    let options = vec!["--admin".to_owned(), url, "--admin-ca".to_owned(), certificates.text("ca.pem")];
    let away = Away { gateway: &gateway, token: Some(&token), options };

    away.run(&["machine", "create", "caller", "--permission", "sensors:read"]).done();
    let value = away.run(&["key", "create", "--machine", "caller", "--label", "prod - billing v1", "--quiet"]);
    assert_eq!(gateway.get("/v1/sensors", &[("X-API-Key", value.done().trim_end())]).status, 200);
    away.run(&["key", "revoke", "prod - billing v1", "--yes", "--reason", "leaked"]).done();
    gateway.get("/v1/sensors", &[("X-API-Key", value.done().trim_end())]).refused(401, "key_revoked");
    assert_eq!(away.run(&["key", "list", "--output", "json"]).json()["data"][0]["created_by"], json!("operator:ops"));
    assert!(away.run(&["journal", "list"]).done().contains("operator:ops from 127.0.0.1"));
    assert!(away.run(&["machine", "create", "theirs", "--third-party"]).failed(1).contains("platform:configure"));
    assert_eq!(away.run(&["health"]).done(), "ready\n");

    let mut by_environment = octroi(gateway.dir(), &["machine", "list"]);
    let relative = away.run(&["journal", "archive", "--to", "old"]);
    assert!(relative.failed(2).contains("absolute path"), "{relative:?}");
    by_environment.env("OCTROI_TOKEN", &token).env("OCTROI_ADMIN", &away.options[1]).env("OCTROI_ADMIN_CA", &away.options[3]);
    assert!(run(by_environment).done().contains("caller"));
}

#[test]
fn a_certificate_that_calls_itself_an_authority_is_refused_in_words() {
    let (upstream, certificates) = (Upstream::plain(), Certificates::new());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    certificates.write("cert.pem", &params.self_signed(&key).unwrap().pem());
    certificates.write("key.pem", &key.serialize_pem());
    let gateway = with_admin(&upstream, &certificates.setting(""));
    let token = token(&gateway, "ops", Rights::from_iter([Right::MachinesRead]));
    let url = format!("https://localhost:{}", gateway.admin_address().port());
    let options = vec!["--admin".to_owned(), url, "--admin-ca".to_owned(), certificates.text("cert.pem")];
    let refused = Away { gateway: &gateway, token: Some(&token), options }.run(&["machine", "list"]);
    assert!(refused.failed(3).contains("basicConstraints=CA:FALSE"), "{refused:?}");
}

#[test]
fn who_is_not_let_in_is_told_why_and_what_to_do() {
    let (upstream, certificates) = (Upstream::plain(), Certificates::new());
    let gateway = with_admin(&upstream, &certificates.setting(""));
    let reader = token(&gateway, "reader", Rights::from_iter([Right::MachinesRead]));
    let port = gateway.admin_address().port();
    let (named, numbered) = (format!("https://localhost:{port}"), format!("https://127.0.0.1:{port}"));
    let plain = format!("http://127.0.0.1:{port}");
    let unencrypted = Gateway::before(upstream.address);
    let no_tls = format!("https://localhost:{}", unencrypted.admin_address().port());
    let (ca, text) = (certificates.text("ca.pem"), gateway.dir().join("octroi.txt").display().to_string());
    std::fs::write(&text, "no certificate").unwrap();
    let mistyped = format!("{}x", &reader[..reader.len() - 1]);

    let cases: [(Option<&str>, &[&str], i32, &str); 11] = [
        (None, &["--admin", &named, "--admin-ca", &ca], 2, "octroi operator create"),
        (Some("two words"), &["--admin", &named, "--admin-ca", &ca], 2, "OCTROI_TOKEN holds no token"),
        (Some(&mistyped), &["--admin", &named, "--admin-ca", &ca], 1, "no operator has this token"),
        (Some(&reader), &["--admin", &named, "--admin-ca", &ca], 1, "machines:write"),
        (Some(&reader), &["--admin", &named], 3, "--admin-ca FILE names who did"),
        (Some(&reader), &["--admin", &numbered, "--admin-ca", &ca], 3, "for another name"),
        (Some(&reader), &["--admin", &plain], 3, "without a whole answer"),
        (Some(&reader), &["--admin", &no_tls, "--admin-ca", &ca], 3, "speaks no TLS"),
        (Some(&reader), &["--admin", &named, "--admin-ca", &text], 2, "no certificate in PEM form"),
        (Some(&reader), &["--admin", "http://admin.example.org"], 2, "for this machine alone"),
        (Some(&reader), &["--admin", "https://me:hunter2@localhost"], 2, "OCTROI_TOKEN"),
    ];
    for (token, options, code, words) in cases {
        let away = Away { gateway: &gateway, token, options: options.iter().map(|o| (*o).to_owned()).collect() };
        let ran = away.run(&["machine", "create", "caller"]);
        assert!(ran.failed(code).contains(words) && !ran.err.contains("hunter2"), "{options:?}: {ran:?}");
    }
}

#[test]
fn a_listener_can_demand_certificates_of_its_clients() {
    let (upstream, certificates) = (Upstream::plain(), Certificates::new());
    let gateway = with_admin(&upstream, &certificates.setting(&format!(", client_ca: '{}'", certificates.text("ca.pem"))));
    let token = token(&gateway, "ops", Rights::ALL);
    let url = format!("https://localhost:{}", gateway.admin_address().port());
    let mut options = vec!["--admin".to_owned(), url, "--admin-ca".to_owned(), certificates.text("ca.pem")];
    let refused = Away { gateway: &gateway, token: Some(&token), options: options.clone() }.run(&["machine", "list"]);
    assert!(refused.failed(3).contains("certificate"), "{refused:?}");
    options.extend(["--admin-identity".to_owned(), certificates.text("client.pem")]);
    Away { gateway: &gateway, token: Some(&token), options: options.clone() }.run(&["machine", "list"]).done();
    options[5] = certificates.text("ca.pem");
    let no_key = Away { gateway: &gateway, token: Some(&token), options }.run(&["machine", "list"]);
    assert!(no_key.failed(2).contains("no private key"), "{no_key:?}");
}

#[test]
fn the_listener_speaks_tls_1_2_and_1_3_and_http_1_1_inside() {
    let (upstream, certificates) = (Upstream::plain(), Certificates::new());
    let gateway = with_admin(&upstream, &format!("{}, hosts: [Admin.example.org]", certificates.setting("")));
    let to = gateway.admin_address();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = certificates.connect(to, version);
        let ready = answer(&mut stream, "/readyz", &format!("localhost:{}", to.port()));
        assert!(ready.starts_with("HTTP/1.1 200 OK\r\n"), "{ready}");
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
    }
    for (host, status) in [("admin.example.org:8443", "200"), ("ADMIN.EXAMPLE.ORG", "200"), ("rebound.example", "403")] {
        let answered = answer(certificates.connect(to, &rustls::version::TLS13), "/livez", host);
        assert!(answered.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answered}");
    }
    let unknown = answer(certificates.connect(to, &rustls::version::TLS13), "/v1/keys", "localhost");
    assert!(unknown.contains("token_missing"), "{unknown}");
}

#[test]
fn who_does_not_finish_a_handshake_holds_up_nobody() {
    let (upstream, certificates) = (Upstream::plain(), Certificates::new());
    let mut gateway = with_admin(&upstream, &certificates.setting(""));
    let to = gateway.admin_address();
    let mut plain = patient(to);
    plain.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answered = Vec::new();
    // Closing without an answer, or a reset, is as good as an alert.
    let _ = plain.read_to_end(&mut answered);
    assert!(!answered.starts_with(b"HTTP/"), "{answered:?}");

    let mut silent: Vec<TcpStream> = (0..50).map(|_| patient(to)).collect();
    silent[0].write_all(b"\x16\x03\x01\x02").unwrap();
    let ready = answer(certificates.connect(to, &rustls::version::TLS13), "/livez", "localhost");
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    gateway.stop();
    for mut stream in silent {
        let _ = stream.read_to_end(&mut answered);
    }
}

#[test]
fn a_start_with_wrong_certificates_says_which_file_and_what_would_be_right() {
    let (upstream, certificates) = (Upstream::plain(), Certificates::new());
    let cases = [
        ("cert.pem", "absent.pem", "admin.tls.private_key: ", "absent.pem cannot be read"),
        ("cert.pem", "client.pem", "admin.tls.private_key: ", "client.pem is not the key of the certificate in "),
        ("key.pem", "key.pem", "admin.tls.certificate: ", "-----BEGIN CERTIFICATE-----"),
    ];
    for (certificate, key, setting, words) in cases {
        let tls = format!("tls: {{certificate: '{}', private_key: '{}'}}", certificates.text(certificate), certificates.text(key));
        let settings =
            gateway::settings(upstream.address).replace("admin: {bind: '127.0.0.1:0'}", &format!("admin: {{bind: '127.0.0.1:0', {tls}}}"));
        std::fs::write(certificates.path("octroi.yaml"), settings).unwrap();
        let ran = run(octroi(certificates.dir.path(), &["serve", "--config", "octroi.yaml"]));
        let message = ran.failed(1);
        assert!(message.contains(setting) && message.contains(words), "{message}");
        let checked = run(octroi(certificates.dir.path(), &["check", "--config", "octroi.yaml"]));
        assert!(checked.failed(2).contains(words), "{checked:?}");
    }
}

#[test]
fn t226_a_token_stands_in_no_argument_and_goes_to_the_listener_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut asking = octroi(folder.path(), &["key", "list", "--admin", &format!("http://{}", listener.local_addr().unwrap())]);
    let mut asking = asking.env("OCTROI_TOKEN", "octroi_op_secret").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut request = Vec::new();
    eventually("a whole request", || {
        let mut piece = [0; 1024];
        let length = stream.read(&mut piece).unwrap();
        request.extend_from_slice(&piece[..length]);
        request.ends_with(b"\r\n\r\n").then_some(())
    });
    assert!(String::from_utf8(request).unwrap().to_lowercase().contains("authorization: bearer octroi_op_secret\r\n"));
    let arguments = std::fs::read(format!("/proc/{}/cmdline", asking.id())).unwrap();
    let arguments = String::from_utf8(arguments).unwrap();
    assert!(arguments.contains("--admin") && !arguments.contains("secret"), "{arguments}");
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\": [").unwrap();
    drop(stream);
    let (mut out, mut err) = (String::new(), String::new());
    asking.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    asking.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((asking.wait().unwrap().code(), out.as_str()), (Some(3), ""), "half an answer: {err}");
    assert!(err.contains("without a whole answer") && !err.contains("secret"), "{err}");
}

// --- terminals, pipes and shells -----------------------------------------------------------------------------------------------

fn has(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status().is_ok_and(|found| found.success())
}

/// What is seen on a terminal where `typed` is typed while `octroi` runs with these arguments, and its exit code at the end.
fn on_a_terminal(gateway: &Gateway, args: &str, typed: &str) -> String {
    let line = format!("stty cols 100; '{BINARY}' {args} --socket '{}'; echo code $?", gateway.dir().join("data/admin.sock").display());
    let mut script = command("script", gateway.dir(), &["-qec", &line, "/dev/null"]);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    script.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let mut seen = String::new();
    script.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    script.wait().unwrap();
    seen
}

#[test]
fn on_a_terminal_what_cannot_be_undone_is_asked_about() {
    if !has("script") {
        return skip("on_a_terminal_what_cannot_be_undone_is_asked_about", "script is missing (Debian package bsdutils)");
    }
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let holder = gateway.holder("caller with a name so long that no terminal of one hundred columns shows it beside all the rest");
    let id = holder.key.id.to_string();
    for verb in ["revoke", "delete"] {
        let seen = on_a_terminal(&gateway, &format!("key {verb} {id}"), "n\n");
        assert!(
            seen.contains(&format!("This will {verb} the key")) && seen.contains("nothing was changed") && seen.contains("code 1"),
            "{seen}"
        );
        assert_eq!(gateway.get_as(&holder, "/v1/sensors").status, 200);
    }
    let list = on_a_terminal(&gateway, "key list", "");
    let row = list.lines().find(|line| line.contains(&id)).unwrap();
    assert!(row.contains("caller with") && row.contains('…') && row.chars().count() <= 100, "cut, but for the id: {row}");
    let seen = on_a_terminal(&gateway, &format!("key revoke {id}"), "y\n");
    assert!(seen.contains("code 0") && seen.contains("revoked"), "{seen}");
    gateway.get_as(&holder, "/v1/sensors").refused(401, "key_revoked");
    let seen = on_a_terminal(&gateway, &format!("machine delete {}", holder.machine.id), "yes\n");
    assert!(seen.contains("and its 1 key, for good") && seen.contains("code 0"), "{seen}");
}

#[test]
fn t226_a_reader_who_has_seen_enough_ends_it_quietly() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    (0..50).for_each(|n| drop(gateway.machine(&format!("machine {n}"), &[], None)));
    let socket = gateway.dir().join("data/admin.sock");
    for line in ["machine list --output json", "machine list", "key list", "journal list", "--help"] {
        let socket = if line == "--help" { String::new() } else { format!("--socket '{}'", socket.display()) };
        let piped = format!("set -o pipefail; '{BINARY}' {line} {socket} | true; echo $?");
        let ran = run(command("bash", gateway.dir(), &["-c", &piped]));
        assert_eq!((ran.done(), ran.err.as_str()), ("0\n", ""), "{line}");
    }
}

#[test]
fn key_lists_are_cut_to_the_number_asked_for() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    (0..3).for_each(|n| drop(gateway.holder(&format!("machine {n}"))));
    let socket = gateway.dir().join("data/admin.sock").display().to_string();
    for noun in ["key", "machine"] {
        let listed = run(octroi(gateway.dir(), &[noun, "list", "--limit", "2", "--output", "json", "--socket", &socket])).json();
        assert_eq!(listed["data"].as_array().unwrap().len(), 2);
        run(octroi(gateway.dir(), &[noun, "list", "--limit", "0", "--socket", &socket])).failed(2);
    }
    for option in ["--unused-since", "--expiring-before"] {
        let wrong = run(octroi(gateway.dir(), &["key", "list", option, "soon", "--socket", &socket]));
        assert!(wrong.failed(2).contains("write 30d"), "{wrong:?}");
    }
}

#[test]
fn shells_take_their_completions() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        if !has(shell) {
            skip("shells_take_their_completions", &format!("{shell} is missing (Debian package {shell})"));
            continue;
        }
        let script = run(octroi(folder.path(), &["completion", shell]));
        assert!(script.done().contains("deactivate") && script.out.contains("admin-ca"), "{shell}");
        std::fs::write(folder.path().join(shell), &script.out).unwrap();
        let read = run(command(shell, folder.path(), &["-n", shell]));
        assert_eq!((read.done(), read.err.as_str()), ("", ""), "{shell}");
    }
    let asked = "source ./bash; COMP_WORDS=(octroi key re); COMP_CWORD=2; _octroi octroi re key; echo ${COMPREPLY[*]}";
    assert_eq!(run(command("bash", folder.path(), &["-c", asked])).done(), "reactivate revoke regenerate\n");
}

#[test]
fn man_pages_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    run(octroi(folder.path(), &["manpage", "man1"])).done();
    let pages: Vec<PathBuf> = std::fs::read_dir(folder.path().join("man1")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 20 && pages.iter().any(|page| page.ends_with("octroi-key-create.1")), "{pages:?}");
    if !has("mandoc") {
        return skip("man_pages_are_sound", "mandoc is missing (Debian package mandoc)");
    }
    for page in pages {
        let name = page.file_name().and_then(|name| name.to_str()).unwrap();
        let read = run(command("mandoc", &folder.path().join("man1"), &["-T", "lint", "-W", "error", name]));
        assert_eq!(read.code, Some(0), "{name}: {read:?}");
    }
}

/// Kept so that a serving program on these settings is known to start at all: what is refused above is refused for its reason.
#[test]
fn a_gateway_with_tls_serves_as_a_program_too() {
    let (upstream, certificates) = (Upstream::plain(), Certificates::new());
    let settings = gateway::settings(upstream.address)
        .replace("admin: {bind: '127.0.0.1:0'}", "admin: {bind: '127.0.0.1:0', tls: {certificate: cert.pem, private_key: key.pem}}");
    let file: &Path = &certificates.path("octroi.yaml");
    std::fs::write(file, settings).unwrap();
    let checked = run(octroi(certificates.dir.path(), &["check", "--config", "octroi.yaml"]));
    assert!(checked.done().contains("admin (TLS)"), "{checked:?}");
    let (program, _) = Program::serving(file);
    program.signal(rustix::process::Signal::TERM);
    assert_eq!(program.end().code, Some(0));
}
