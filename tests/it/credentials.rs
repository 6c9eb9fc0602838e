//! What counts as a credential, what is said to who has none, and that nothing of it travels on.

use octroi::model::Change;
use octroi::model::change::NewKey;

use crate::support::{Gateway, Upstream};

#[test]
fn t001_without_a_credential_the_upstream_sees_nothing() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let answer = gateway.get("/v1/sensors", &[]);
    answer.refused(401, "key_missing");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"octroi\""));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_key_is_taken_from_each_place_and_removed_from_all() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    let bearer = format!("Bearer {}", holder.value);
    let query = format!("/v1/sensors/7?a=%20&api_key={}&b=2", holder.value);
    for (target, headers) in [
        ("/v1/sensors/7?a=%20&b=2", vec![("Authorization", bearer.as_str())]),
        ("/v1/sensors/7?a=%20&b=2", vec![("authorization", bearer.as_str()), ("X-API-KEY", &holder.value)]),
        ("/v1/sensors/7?a=%20&b=2", vec![("X-API-Key", &holder.value)]),
        (&query, vec![]),
        (&query, vec![("Authorization", &bearer), ("X-API-Key", &holder.value)]),
    ] {
        let answer = gateway.get(target, &headers);
        assert_eq!((answer.status, &*answer.body), (200, &b"hello"[..]), "{target} {headers:?}");
        let seen = upstream.received().pop().unwrap();
        assert_eq!(seen.line, "GET /v1/sensors/7?a=%20&b=2 HTTP/1.1");
        assert_eq!((seen.all("authorization").len(), seen.all("x-api-key").len()), (0, 0));
    }
    assert!(!String::from_utf8_lossy(&upstream.raw()).contains(&holder.value));
}

#[test]
fn t006_t009_odd_credentials_are_refused_whatever_stands_first() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let good = gateway.holder("caller").value;
    let other = gateway.holder("other").value;
    let unknown = octroi_value_of_nobody();
    let bearer = |value: &str| format!("Bearer {value}");
    let (b_good, b_other, b_unknown) = (bearer(&good), bearer(&other), bearer(&unknown));
    let (two, padded, lower) = (format!("{good}, {good}"), format!("Bearer  {good}"), format!("bearer {good}"));
    let mut typo = good.clone();
    typo.replace_range(20..21, if &good[20..21] == "x" { "y" } else { "x" });
    let long = "k".repeat(12_000);
    type Case<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);
    let cases: &[Case<'_>] = &[
        (&[("X-API-Key", "")], 401, "key_missing"),
        (&[("Authorization", "Basic YTpi")], 401, "key_missing"),
        (&[("Authorization", "Token abc")], 401, "key_missing"),
        (&[("Authorization", "Bearer")], 401, "key_malformed"),
        (&[("Authorization", "Bearer ")], 401, "key_malformed"),
        (&[("Authorization", &padded)], 401, "key_malformed"),
        (&[("X-API-Key", &two)], 401, "key_malformed"),
        (&[("X-API-Key", &typo)], 401, "key_malformed"),
        (&[("X-API-Key", &long)], 401, "key_malformed"),
        (&[("X-API-Key", "pk_prod_\u{e9}")], 401, "key_malformed"),
        (&[("X-API-Key", &unknown)], 401, "key_unknown"),
        (&[("Authorization", &b_unknown)], 401, "key_unknown"),
        (&[("X-API-Key", &good), ("X-API-Key", &good)], 400, "key_ambiguous"),
        (&[("X-API-Key", &good), ("X-API-Key", "bad")], 400, "key_ambiguous"),
        (&[("X-API-Key", "bad"), ("X-API-Key", &good)], 400, "key_ambiguous"),
        (&[("X-API-Key", &good), ("Authorization", &b_other)], 400, "key_ambiguous"),
        (&[("X-API-Key", &unknown), ("Authorization", &b_good)], 400, "key_ambiguous"),
        (&[("Authorization", &b_good), ("Authorization", &b_good)], 400, "key_ambiguous"),
        (&[("Authorization", &lower)], 200, ""),
    ];
    for (headers, status, code) in cases {
        let answer = gateway.get("/v1/sensors", headers);
        assert_eq!(answer.status, *status, "{headers:?}");
        if *status != 200 {
            answer.refused(*status, code);
        }
    }
    assert_eq!(upstream.received().len(), 1, "only the last case passes");
}

/// A value of the right shape that no gateway ever made.
fn octroi_value_of_nobody() -> String {
    let fill = |bytes: &mut [u8]| {
        bytes.fill(7);
        Ok::<_, ()>(())
    };
    octroi::model::Secret::generate("pk", &octroi::model::Environment::default(), fill).unwrap().reveal().to_string()
}

#[test]
fn t010_a_key_in_trailers_is_none_and_goes_nowhere() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    let mut connection = gateway.connect();
    connection.send(format!(
        "POST /v1/sensors HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-API-Key\r\n\r\n1\r\nx\r\n0\r\nX-API-Key: {}\r\n\r\n",
        holder.value
    ));
    connection.answer().refused(401, "key_missing");

    let mut connection = gateway.connect();
    connection.send(format!(
        "POST /v1/sensors HTTP/1.1\r\nHost: a\r\nX-API-Key: {0}\r\nTransfer-Encoding: chunked\r\nTrailer: X-API-Key, X-Sum\r\n\r\n1\r\nx\r\n0\r\nX-API-Key: {0}\r\nX-Sum: 1\r\n\r\n",
        holder.value
    ));
    assert_eq!(connection.answer().status, 200);
    let seen = upstream.only();
    assert_eq!((seen.body.as_slice(), seen.trailers), (&b"x"[..], vec![("x-sum".to_owned(), "1".to_owned())]));
}

#[test]
fn t025_nothing_of_the_gateway_answers_on_a_public_port() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    for path in ["/metrics", "/healthz", "/livez", "/readyz", "/admin", "/v1/machines", "/.well-known/x", "/debug", "/"] {
        gateway.get(path, &[]).refused(404, "route_not_found");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn t026_each_request_of_a_connection_is_judged_alone() {
    let upstream = Upstream::plain();
    let settings = crate::support::gateway::settings(upstream.address) + "guessing: false\n";
    let gateway = Gateway::with(settings, octroi::clock::Clock::manual(crate::support::gateway::NOON));
    let bearer = format!("Bearer {}", gateway.holder("caller").value);
    let mut connection = gateway.connect();
    for round in 0..250 {
        assert_eq!(connection.get("/v1/sensors", &[("Authorization", &bearer)]).status, 200, "{round}");
        connection.get("/v1/sensors", &[("Authorization", "Bearer nonsense")]).refused(401, "key_malformed");
        assert_eq!(connection.get("/v1/sensors", &[("Authorization", &bearer)]).status, 200);
        connection.get("/v1/sensors", &[]).refused(401, "key_missing");
    }
}

#[test]
fn the_reason_is_told_to_who_holds_the_value_only() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    gateway.commit(Change::RevokeKey(holder.key.id)).unwrap();
    gateway.get_as(&holder, "/v1/sensors").refused(401, "key_revoked");
    // What matches nothing is told apart by nothing but its request id.
    let mut bodies: Vec<String> = (0..2)
        .map(|_| {
            let answer = gateway.get("/v1/sensors", &[("X-API-Key", &octroi_value_of_nobody())]);
            String::from_utf8(answer.body.clone()).unwrap().replace(answer.header("x-request-id").unwrap(), "")
        })
        .collect();
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}

#[test]
fn answers_that_do_not_depend_on_the_key_are_attributed_to_it() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    gateway.get_as(&holder, "/nowhere").refused(404, "route_not_found");
    gateway.get_as(&holder, "/v1//sensors").refused(400, "bad_request");
    let lines = gateway.log_lines(2);
    for line in &lines {
        assert_eq!(line["key.id"], holder.key.id.to_string(), "{line}");
    }
}

#[test]
fn public_routes_need_no_key_and_pass_none_on() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    assert_eq!(gateway.get("/status", &[]).status, 200);
    assert_eq!(gateway.get_as(&holder, "/status/x").status, 200);
    let jwt = "Bearer eyJhbGciOiJub25lIn0.e30.";
    assert_eq!(gateway.get("/status", &[("Authorization", jwt)]).status, 200);
    let seen = upstream.received();
    assert_eq!(seen[1].all("authorization").len(), 0);
    assert_eq!(seen[2].header("authorization"), Some(jwt));
    assert!(seen.iter().all(|request| request.all("x-machine-id").is_empty()));
}

#[test]
fn guessing_from_one_address_is_slowed_and_valid_keys_still_pass() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    for _ in 0..60 {
        gateway.get("/v1/sensors", &[("X-API-Key", "guess")]).refused(401, "key_malformed");
    }
    let slowed = gateway.get("/v1/sensors", &[("X-API-Key", "guess")]);
    slowed.refused(429, "too_many_failures");
    gateway.get("/v1/sensors", &[]).refused(429, "too_many_failures");
    assert_eq!(gateway.get_as(&holder, "/v1/sensors").status, 200);
    let wait = slowed.header("retry-after").unwrap().parse().unwrap();
    gateway.wait(std::time::Duration::from_secs(wait));
    gateway.get("/v1/sensors", &[("X-API-Key", "guess")]).refused(401, "key_malformed");
}

#[test]
fn addresses_narrow_a_key() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], None);
    let here = gateway.key(&machine, NewKey { allowed_ips: Some(vec!["127.0.0.0/8".parse().unwrap()]), ..NewKey::default() });
    let elsewhere = gateway.key(&machine, NewKey { allowed_ips: Some(vec!["192.0.2.0/24".parse().unwrap()]), ..NewKey::default() });
    assert_eq!(gateway.get_as(&here, "/v1/sensors").status, 200);
    gateway.get_as(&elsewhere, "/v1/sensors").refused(403, "address_denied");
    let spoofed =
        gateway.get("/v1/sensors", &[("X-API-Key", &elsewhere.value), ("X-Forwarded-For", "192.0.2.1"), ("X-Real-IP", "192.0.2.1")]);
    spoofed.refused(403, "address_denied");
}
