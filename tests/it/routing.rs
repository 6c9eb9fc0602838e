//! Which route a request takes, and that no spelling of a path reaches one that was not judged.

use octroi::model::change::NewKey;

use crate::support::{Gateway, Upstream};

#[test]
fn permissions_are_the_machines_and_the_keys() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let set = |names: &[&str]| Some(names.iter().map(|n| octroi::model::PermissionName::parse(n).unwrap()).collect());
    let reader = gateway.machine("reader", &["sensors:read"], None);
    let admin = gateway.machine("admin", &["admin"], None);
    for (machine, narrowed, read, write) in [
        (&reader, None, 200, 403),
        (&reader, set(&[]), 403, 403),
        (&reader, set(&["config:write"]), 403, 403),
        (&reader, set(&["admin"]), 200, 403),
        (&admin, None, 200, 200),
        (&admin, set(&["config:write"]), 403, 200),
    ] {
        let holder = gateway.key(machine, NewKey { permissions: narrowed.clone(), ..NewKey::default() });
        let bearer = format!("Bearer {}", holder.value);
        let got_read = gateway.get("/v1/sensors/7", &[("Authorization", &bearer)]);
        let mut connection = gateway.connect();
        connection.request("PUT", "/v1/sensors/7/config", &[("Authorization", &bearer)], Some(b"{}"));
        let got_write = connection.answer();
        assert_eq!((got_read.status, got_write.status), (read, write), "{} {narrowed:?}", machine.name);
        if write == 403 {
            got_write.refused(403, "permission_denied");
            assert_eq!(got_write.json()["permission"], "config:write");
            assert!(got_write.header("www-authenticate").unwrap().contains("error=\"insufficient_scope\", scope=\"config:write\""));
        }
    }
}

#[test]
fn methods_that_a_route_does_not_list_are_named() {
    let upstream = Upstream::plain();
    let settings = crate::support::gateway::settings(upstream.address)
        .replace("sensors: {match: {path: '/v1/sensors/{*rest}'}", "sensors: {match: {path: '/v1/sensors', methods: [GET, POST]}");
    let gateway = Gateway::with(settings, octroi::clock::Clock::manual(crate::support::gateway::NOON));
    let holder = gateway.holder("caller");
    let bearer = format!("Bearer {}", holder.value);
    for method in ["DELETE", "get", "BREW", "TRACE"] {
        let mut connection = gateway.connect();
        connection.request(method, "/v1/sensors", &[("Authorization", &bearer)], None);
        let answer = connection.answer();
        answer.refused(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD, POST"), "{method}");
    }
    let mut connection = gateway.connect();
    connection.request("HEAD", "/v1/sensors", &[("Authorization", &bearer)], None);
    assert_eq!(connection.answer_to("HEAD").status, 200);
}

#[test]
fn t028_no_spelling_of_a_protected_path_passes_as_a_public_one() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    for path in [
        "//v1/sensors",
        "/./v1/sensors",
        "/status/../v1/sensors",
        "/status/%2e%2e/v1/sensors",
        "/status/.%2e/v1/sensors",
        "/status/..%2fv1/sensors",
        "/status/%252e%252e/v1/sensors",
        "/status/%25%32%65%25%32%65/v1",
        "/status%2f..%2fv1",
        "/status/..;/v1/sensors",
        "/status;/../v1/sensors",
        "/status/x%00",
        "/status/x%0a",
        "/status/x%0d%0aX: y",
        "/status/%5c..%5cv1",
        "/status/%c0%ae%c0%ae/v1/sensors",
        "/status/%e0%80%ae/v1",
        "/status/%2e",
        "/status/.",
        "/status/..",
        "/status//",
        "/status/%",
        "/status/%zz",
        "/;/v1/sensors",
    ] {
        let answer = gateway.get(path, &[]);
        assert!(answer.status == 400, "{path}: {answer:?}");
    }
    for path in ["/%761/sensors", "/V1/sensors", "/v1/sensors.", "/v1/sensors%20", "/v1%2Fsensors", "/v1/%73ensors"] {
        let status = gateway.get(path, &[]).status;
        assert!([400, 401, 404].contains(&status), "{path}: {status}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn the_upstream_sees_the_form_that_was_judged() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    let mut connection = gateway.connect();
    let bearer = format!("Bearer {}", holder.value);
    for (sent, seen) in [
        ("/v1/%73ensors/%7Ea?q=%41", "/v1/sensors/~a?q=%41"),
        ("/v1/sensors/caf%C3%A9?", "/v1/sensors/caf%C3%A9?"),
        ("http://gateway.test/v1/sensors?x=1", "/v1/sensors?x=1"),
    ] {
        assert_eq!(connection.get(sent, &[("Authorization", &bearer)]).status, 200, "{sent}");
        assert_eq!(upstream.received().pop().unwrap().line, format!("GET {seen} HTTP/1.1"));
    }
    connection.get("http://other.test/v1/sensors", &[("Authorization", &bearer)]).refused(400, "bad_request");
}

#[test]
fn organizations_restrict_to_their_own() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], Some("premium"));
    let of = |ids: &[&str]| NewKey { organizations: Some(ids.iter().map(|id| (*id).to_owned()).collect()), ..NewKey::default() };
    let restricted = gateway.key(&machine, of(&["acme", "d%1", "é"]));
    let free = gateway.key(&machine, NewKey::default());
    for (path, status) in [
        ("/orgs/acme/x", 200),
        ("/orgs/%61cme", 200),
        ("/orgs/%C3%A9/x", 200),
        ("/orgs/Acme/x", 403),
        ("/orgs/acme2/x", 403),
        ("/orgs/other/x", 403),
        ("/v1/sensors", 403),
        ("/any/thing", 403),
    ] {
        assert_eq!(gateway.get_as(&restricted, path).status, status, "{path}");
        assert_eq!(gateway.get_as(&free, path).status, 200, "{path}");
    }
    gateway.get_as(&restricted, "/orgs/other/x").refused(403, "organization_denied");
}

#[test]
fn t031_hosts_match_without_case_port_and_dot() {
    let upstream = Upstream::plain();
    let settings = crate::support::gateway::settings(upstream.address)
        .replace("status: {match: {path: '/status/{*rest}'}", "status: {match: {host: API.Example.org, path: '/status/{*rest}'}");
    let gateway = Gateway::with(settings, octroi::clock::Clock::manual(crate::support::gateway::NOON));
    for host in ["api.example.org", "API.EXAMPLE.ORG", "api.example.org.", "api.example.org:8080", "Api.Example.Org.:80"] {
        assert_eq!(gateway.get("/status", &[("Host", host)]).status, 200, "{host}");
    }
    for host in ["example.org", "api.example.org.evil", "xapi.example.org"] {
        gateway.get("/status", &[("Host", host)]).refused(404, "route_not_found");
    }
}
