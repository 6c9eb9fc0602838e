//! Whole files: the examples in `config/`, the broken ones in `tests/golden/config`, and what their values mean.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const MINIMAL: &str = "upstreams: {api: {targets: [\"http://127.0.0.1:3000\"]}}\nroutes: {api: {match: {path: \"/{*rest}\"}, permission: any, upstream: api}}\n";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn none(_: &str) -> Option<String> {
    None
}

/// The minimal settings and `more`, which must be right.
fn with(more: &str) -> Settings {
    parse(&format!("{MINIMAL}{more}"), Path::new("f.yaml"), &none).unwrap_or_else(|findings| panic!("{more}\n{findings}"))
}

/// What is found in the minimal settings and `more`.
fn found(more: &str) -> String {
    match parse(&format!("{MINIMAL}{more}"), Path::new("f.yaml"), &none) {
        Ok(_) => String::new(),
        Err(findings) => findings.to_string(),
    }
}

#[test]
fn broken_examples_are_refused_in_these_words() {
    let golden = folder("tests/golden/config");
    let mut names: Vec<PathBuf> = fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    names.sort();
    assert!(names.len() >= 30, "{}", names.len());
    let mut wrong = String::new();
    for path in names {
        let text = fs::read_to_string(&path).unwrap();
        let file = Path::new(path.file_name().unwrap());
        let said = match parse(&text, file, &none) {
            Ok(_) => "(accepted)\n".to_owned(),
            Err(findings) => format!("{findings}\n"),
        };
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        if said != expected || said == "(accepted)\n" {
            wrong += &format!("{}\n--- expected\n{expected}--- said\n{said}", file.display());
        }
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 writes them anew; read each one\n{wrong}");
}

#[test]
fn the_complete_example_holds_every_default() {
    let complete = load(&folder("config/octroi.yaml")).unwrap();
    assert_eq!(complete.warnings, []);
    assert_eq!(complete.routes.len(), 4);
    let minimal = load(&folder("config/minimal.yaml")).unwrap();
    assert_eq!(minimal.warnings, []);
    let comparable = |settings: Settings| {
        let targets = settings.upstreams.into_iter().map(|u| Upstream { name: String::new(), ..u }).collect();
        let limits = (settings.limits.headers, format!("{:?}", settings.limits.timezone));
        format!("{:#?}\n{limits:?}", Settings { routes: Vec::new(), permissions: Vec::new(), upstreams: targets, ..settings })
    };
    assert_eq!(comparable(complete), comparable(minimal));
}

#[test]
fn the_least_settings_have_the_documented_defaults() {
    let settings = with("");
    assert_eq!(settings.listeners, [Listener { name: "public".to_owned(), bind: "0.0.0.0:8080".parse().unwrap() }]);
    assert_eq!(
        settings.admin,
        Admin { bind: Some("127.0.0.1:8090".parse().unwrap()), socket: "data/admin.sock".into(), tls: None, hosts: Vec::new() }
    );
    assert_eq!(settings.telemetry, None);
    let tiers: Vec<String> = settings
        .tiers
        .iter()
        .map(|t| {
            let limits = t.tier.limits.iter().map(|l| format!(" {}/{} burst {}", l.quota, l.window.name(), l.burst));
            format!("{}{}", t.tier.name, limits.collect::<String>())
        })
        .collect();
    assert_eq!(
        tiers,
        [
            "free 60/minute burst 60 10000/day burst 10000",
            "standard 300/minute burst 300 100000/day burst 100000",
            "premium 1000/minute burst 1000"
        ]
    );
    assert_eq!(settings.default_tier.as_str(), "free");
    assert_eq!(settings.key_prefix, "pk");
    assert_eq!(settings.guessing.map(|l| l.quota.get()), Some(60));
    assert_eq!(settings.routes[0].access, Access::AnyKey);
    assert_eq!(settings.routes[0].organization, Organization::None);
    assert_eq!(settings.routes[0].credentials, settings.credentials);
}

#[test]
fn false_switches_off() {
    let settings =
        with("admin: {bind: false}\nguessing: false\ncredentials: {bearer: false, query: false}\nidentity_headers: {key_id: false}\n");
    assert_eq!(settings.admin.bind, None);
    assert_eq!(settings.guessing, None);
    assert_eq!((settings.credentials.bearer, settings.credentials.query.as_deref()), (false, None));
    assert_eq!(settings.credentials.header.unwrap(), "x-api-key");
    assert_eq!((settings.identity.key_id, settings.identity.machine_id.unwrap().as_str()), (None, "x-machine-id"));
    assert_eq!(with("guessing: {failures: false}\n").guessing, None);
}

#[test]
fn the_admin_listener_is_open_to_other_machines_only_with_tls() {
    let tls = "tls: {certificate: tls/cert.pem, private_key: /k.pem}";
    let admin = with(&format!("admin: {{bind: '0.0.0.0:8443', {tls}, hosts: [Admin.Example.org, 192.0.2.7]}}\n")).admin;
    assert_eq!(admin.bind, Some("0.0.0.0:8443".parse().unwrap()));
    assert_eq!(admin.tls, Some(AdminTls { certificate: "tls/cert.pem".into(), private_key: "/k.pem".into(), client_ca: None }));
    assert_eq!(admin.hosts, ["admin.example.org", "192.0.2.7"]);
    let unnamed = with(&format!("admin: {{bind: '0.0.0.0:8443', {tls}}}\n"));
    assert!(unnamed.warnings.iter().any(|warning| warning.to_string().contains("admin.hosts")), "{:?}", unnamed.warnings);
    assert_eq!(with(&format!("admin: {{{tls}}}\n")).warnings, [], "on the loopback address nobody else is there");
}

#[test]
fn burst_narrows_sliding_windows_only() {
    let settings = with("tiers: {free: {per_second: 5, per_minute: 60, per_day: 1000, burst: 10}, all: {unlimited: true}}\n");
    let bursts: Vec<u32> = settings.tiers[0].tier.limits.iter().map(|l| l.burst.get()).collect();
    assert_eq!(bursts, [5, 10, 1000]);
    assert!(settings.tiers[1].tier.limits.is_empty());
}

#[test]
fn relative_paths_start_at_the_files_folder() {
    let text = format!("{MINIMAL}logs: {{access: log/access.json}}\n");
    let settings = parse(&text, Path::new("/etc/octroi/o.yaml"), &none).unwrap();
    assert_eq!(settings.store, Path::new("/etc/octroi/data"));
    assert_eq!(settings.admin.socket, Path::new("/etc/octroi/data/admin.sock"));
    assert_eq!(settings.logs.access, AccessLog::File("/etc/octroi/log/access.json".into()));
    let moved = parse(&format!("{MINIMAL}store: {{path: /var/o}}\n"), Path::new("o.yaml"), &none).unwrap();
    assert_eq!(moved.admin.socket, Path::new("/var/o/admin.sock"));
}

#[test]
fn a_routes_credentials_start_from_the_global_ones() {
    let text = "credentials: {query: false}\nupstreams: {a: {targets: [\"http://a\"]}}\nroutes:\n  own: {match: {path: /own}, permission: any, upstream: a, credentials: {bearer: false, header: X-Own}}\n";
    let route = parse(text, Path::new("f"), &none).unwrap().routes.remove(0);
    assert_eq!(route.credentials, Credentials { bearer: false, query: None, header: Some("x-own".parse().unwrap()) });
}

#[test]
fn a_resolved_secret_is_used_and_never_shown() {
    let env = |name: &str| (name == "SECRET").then(|| "hunter2".to_owned());
    let good = format!("{MINIMAL}listeners: {{\"public\": {{bind: \"127.0.0.1:${{env:PORT}}\"}}}}\n");
    let port = |name: &str| (name == "PORT").then(|| "8123".to_owned());
    assert_eq!(parse(&good, Path::new("f"), &port).unwrap().listeners[0].bind.port(), 8123);
    let places = [
        "default_tier: \"${env:SECRET}\"",
        "limits: {timezone: \"${env:SECRET}\"}",
        "trusted_proxies: [\"${env:SECRET}\"]",
        "guessing: \"${env:SECRET}\"",
        "logs: {level: \"${env:SECRET}\", format: \"${env:SECRET}\"}",
        "connections: {max: \"${env:SECRET}\", idle: \"${env:SECRET}\", head_size: \"${env:SECRET}\"}",
        "listeners: {a: {bind: \"${env:SECRET}\"}}",
        "credentials: {prefix: \"${env:SECRET}!\", bearer: \"${env:SECRET}\"}",
        "tiers: {free: {per_minute: \"${env:SECRET}\"}}",
    ];
    for place in places {
        let findings = parse(&format!("{MINIMAL}{place}\n"), Path::new("f"), &env).unwrap_err().to_string();
        assert!(findings.contains("${env:SECRET}") && !findings.to_lowercase().contains("hunter2"), "{findings}");
    }
    let method = |name: &str| (name == "SECRET").then(|| "hunter2x".to_owned());
    let twice = format!(
        "{MINIMAL}credentials: {{header: \"${{env:SECRET}}\"}}\nidentity_headers: {{key_id: \"${{env:SECRET}}\", machine_id: \"${{env:SECRET}}\"}}\n"
    );
    let findings = parse(&twice, Path::new("f"), &method).unwrap_err();
    assert!(!findings.to_string().contains("hunter2"), "{findings}");
    let route = "upstreams: {a: {targets: [\"http://a/${env:SECRET}\"], host: \"${env:SECRET}/\"}}\nroutes: {a: {match: {path: \"/{${env:SECRET}/\", host: \"${env:SECRET}:1\", methods: [\"${env:SECRET}\"]}, permission: \"${env:SECRET}\", organization: \"${env:SECRET}\", upstream: \"${env:SECRET}\"}}\n";
    let findings = parse(route, Path::new("f"), &env).unwrap_err();
    assert_eq!(findings.iter().count(), 8, "{findings}");
    assert!(!findings.to_string().to_lowercase().contains("hunter2"), "{findings}");
}

#[test]
fn files_that_are_no_settings_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let cases = [
        (folder.path().join("missing.yaml"), "missing.yaml: cannot be read: No such file or directory"),
        (folder.path().to_owned(), "is a folder"),
        (file("latin1", b"# ok\nname: \xe9t\xe9\n"), "is not UTF-8 from line 2 on"),
        (file("big", &vec![b'#'; MAX_FILE + 1]), "is larger than 1 MiB"),
        (file("empty", b""), "the file is empty"),
        (file("list", b"- a\n"), "must be a group of fields, upstreams: and routes: at least, not a list"),
    ];
    for (path, part) in cases {
        let said = load(&path).unwrap_err().to_string();
        assert!(said.contains(part), "{said}");
    }
    let bom = file("bom", format!("\u{feff}{MINIMAL}").as_bytes());
    load(&bom).unwrap();
}

#[test]
fn a_public_rest_over_a_protected_route_is_a_warning() {
    let text = |public: &str, protected: &str| {
        format!(
            "upstreams: {{a: {{targets: [\"http://a\"]}}}}\nroutes:\n  open: {{match: {public}, public: true, upstream: a}}\n  shut: {{match: {protected}, permission: any, upstream: a}}\n"
        )
    };
    let cases = [
        ("{path: \"/v1/{*r}\"}", "{path: /v1/x, methods: [GET]}", 1),
        ("{path: \"/v1/{*r}\", host: a.example}", "{path: /v1/x}", 1),
        ("{path: \"/v1/{*r}\", host: a.example}", "{path: /v1/x, host: b.example}", 0),
        ("{path: \"/v2/{*r}\"}", "{path: /v1/x}", 0),
        ("{path: /v1/x, methods: [GET]}", "{path: /v1/x, methods: [PUT]}", 0),
    ];
    for (public, protected, count) in cases {
        let settings = parse(&text(public, protected), Path::new("f"), &none).unwrap();
        assert_eq!(settings.warnings.len(), count, "{public} {protected}: {:?}", settings.warnings);
    }
}

#[test]
fn routes_are_equal_only_when_precedence_cannot_choose() {
    let two = |a: &str, b: &str| {
        let text = format!(
            "upstreams: {{a: {{targets: [\"http://a\"]}}}}\nroutes:\n  one: {{match: {a}, permission: any, upstream: a}}\n  two: {{match: {b}, permission: any, upstream: a}}\n"
        );
        parse(&text, Path::new("f"), &none).is_ok()
    };
    let cases = [
        ("{path: /a}", "{path: /a}", false),
        ("{path: \"/{x}\"}", "{path: \"/{y}\"}", false),
        ("{path: \"/{*x}\"}", "{path: \"/{*y}\"}", false),
        ("{path: /a, methods: [GET, PUT]}", "{path: /a, methods: [PUT]}", false),
        ("{path: /a, host: A.example.}", "{path: /a, host: a.example}", false),
        ("{path: /a, methods: [GET]}", "{path: /a}", true),
        ("{path: /a, methods: [GET]}", "{path: /a, methods: [PUT]}", true),
        ("{path: /a, host: a.example}", "{path: /a}", true),
        ("{path: /a}", "{path: /a/}", true),
        ("{path: /a}", "{path: /A}", true),
        ("{path: /a}", "{path: \"/a/{*r}\"}", true),
    ];
    for (a, b, accepted) in cases {
        assert_eq!(two(a, b), accepted, "{a} {b}");
    }
}

#[test]
fn two_headers_never_carry_two_things() {
    assert!(found("credentials: {header: X-Key-Id}\n").contains("credentials: one header would carry keys"));
    assert!(found("identity_headers: {key_id: X-API-Key}\n").contains("identity_headers: one header would carry keys"));
    assert!(found("identity_headers: {key_id: X-Machine-Id}\n").contains("in the same header"));
    assert!(found("credentials: {header: X_Key}\n").contains("has an underscore"));
    with("credentials: {header: X_Key}\nunderscore_headers: pass\n");
    for occupied in ["Host", "Transfer-Encoding", "Cookie", "Authorization"] {
        assert!(found(&format!("credentials: {{header: {occupied}}}\n")).contains("name another header"), "{occupied}");
    }
}

#[test]
fn listeners_of_one_port_collide() {
    let cases = [
        ("listeners: {a: {bind: 127.0.0.1:80}, b: {bind: 127.0.0.1:80}}", false),
        ("listeners: {a: {bind: 127.0.0.1:80}, b: {bind: 0.0.0.0:80}}", false),
        ("listeners: {a: {bind: 0.0.0.0:8090}}", false),
        ("telemetry: {bind: 127.0.0.1:8080}", false),
        ("listeners: {a: {bind: 127.0.0.1:0}, b: {bind: 127.0.0.1:0}}", true),
        ("listeners: {a: {bind: 0.0.0.0:80}, b: {bind: \"[::]:80\"}}", true),
        ("listeners: {a: {bind: 127.0.0.1:80}, b: {bind: 127.0.0.2:80}}", true),
    ];
    for (more, accepted) in cases {
        assert_eq!(found(&format!("{more}\n")).is_empty(), accepted, "{more}: {}", found(&format!("{more}\n")));
    }
}

#[test]
fn ten_thousand_routes_are_checked_against_each_other() {
    let mut text = "upstreams: {a: {targets: [\"http://a\"]}}\nroutes:\n".to_owned();
    for i in 0..10_000 {
        text += &format!("  r{i}: {{match: {{path: /r{i}}}, permission: any, upstream: a}}\n");
    }
    assert_eq!(parse(&text, Path::new("f"), &none).unwrap().routes.len(), 10_000);
    text += "  again: {match: {path: /r5000}, permission: any, upstream: a}\n";
    let findings = parse(&text, Path::new("f"), &none).unwrap_err();
    assert!(findings.to_string().starts_with("f:10003:3: routes.again: takes the same requests as the route \"r5000\""), "{findings}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(start in 0usize..9_000, cut in 0usize..200, put in "[\\PC\\n\\t{}\\[\\]:#&*!|>'\"%@`-]{0,12}") {
        let text = fs::read_to_string(folder("config/octroi.yaml")).unwrap();
        let lines = text.lines().count();
        let chars: Vec<char> = text.chars().collect();
        let start = start.min(chars.len());
        let end = (start + cut).min(chars.len());
        let text: String = chars[..start].iter().chain(&put.chars().collect::<Vec<char>>()).chain(&chars[end..]).collect();
        if let Err(findings) = parse(&text, Path::new("f"), &none) {
            proptest::prop_assert!(findings.iter().count() > 0);
            for finding in &findings {
                let at = finding.at.unwrap();
                proptest::prop_assert!((1..=lines + 13).contains(&at.line) && at.column >= 1, "{}", finding);
                proptest::prop_assert!(!finding.to_string().chars().any(char::is_control), "{:?}", finding);
            }
        }
    }
}
