//! No value of a key stands in any log, error, metric, file or upstream request: everything a run leaves behind is searched.

use std::path::Path;

use octroi::model::Change;

use crate::support::{Gateway, Upstream};

#[test]
fn t238_no_value_is_found_in_anything_a_run_leaves_behind() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    let value = holder.value.clone();
    let bearer = format!("Bearer {value}");
    let mut answers = Vec::new();
    for target in ["/v1/sensors", "/v1//sensors", "/nowhere", "/status"].map(String::from).into_iter().chain([
        format!("/v1/sensors?api_key={value}"),
        format!("/v1/sensors?api_key={value}&api_key={value}"),
        format!("/nowhere?api_key={value}"),
        format!("/status?api%5fkey={value}"),
        format!("/v1/sensors?x=%zz&api_key={value}"),
    ]) {
        for headers in [vec![("Authorization", bearer.as_str())], vec![("X-API-Key", value.as_str()), ("Authorization", "Bearer x")]] {
            answers.push(gateway.get(&target, &headers));
        }
    }
    let mut connection = gateway.connect();
    connection.send(format!("GET /v1/sensors HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\nContent-Length: x\r\n\r\n"));
    answers.push(connection.answer());
    let made = gateway.commit(Change::RegenerateKey(holder.key.id, std::time::Duration::ZERO)).unwrap();
    let second = made.secret.unwrap().reveal().to_string();
    gateway.get("/v1/sensors", &[("X-API-Key", &second)]);
    gateway.commit(Change::RevokeKey(holder.key.id)).unwrap();
    answers.push(gateway.get_as(&holder, "/v1/sensors"));
    gateway.log_lines(answers.len());
    let metrics = gateway.metrics();
    gateway.stop();

    let mut everything = vec![("metrics".to_owned(), metrics.into_bytes()), ("upstream".to_owned(), upstream.raw())];
    everything.extend(
        answers.iter().map(|answer| ("answer".to_owned(), format!("{answer:?} {}", String::from_utf8_lossy(&answer.body)).into_bytes())),
    );
    read_all(gateway.dir(), &mut everything);
    assert!(everything.iter().any(|(name, bytes)| name.ends_with("access.log") && !bytes.is_empty()));
    assert!(everything.iter().any(|(name, bytes)| name.contains("journal") && !bytes.is_empty()));
    for secret in [&value, &second] {
        // The random part alone is searched for, so that no encoding of the rest hides it.
        let random = &secret.as_bytes()[secret.len() - 36..secret.len() - 4];
        for (name, bytes) in &everything {
            assert!(!bytes.windows(random.len()).any(|window| window == random), "found in {name}");
        }
    }
}

fn read_all(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else if let Ok(bytes) = std::fs::read(&path) {
            into.push((path.display().to_string(), bytes));
        }
    }
}

#[test]
fn t240_one_request_is_one_line_of_json_whatever_it_says() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let agents = ["\"}{", "${jndi:ldap://x}", "a\tb", "\u{2028}", "\u{e9}\u{ff}", "\\u0000\\"];
    for agent in agents {
        gateway.get("/status/%22%7D", &[("User-Agent", agent)]);
    }
    let lines = gateway.log_lines(agents.len());
    assert_eq!(lines.len(), agents.len());
    for line in lines {
        assert_eq!((&line["verdict"], &line["route"], &line["status"]), (&"ok".into(), &"status".into(), &200.into()), "{line}");
    }
}

#[test]
fn t243_metrics_lines_and_clients_count_the_same() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    let mut by_status = std::collections::BTreeMap::<u16, u64>::new();
    for n in 0..400 {
        let answer = match n % 5 {
            0 => gateway.get("/status", &[]),
            1 => gateway.get_as(&holder, "/v1/sensors"),
            2 => gateway.get("/v1/sensors", &[]),
            3 => gateway.get("/nowhere", &[]),
            _ => gateway.get("/v1/sensors", &[("X-API-Key", "x"), ("X-API-Key", "y")]),
        };
        *by_status.entry(answer.status).or_default() += 1;
    }
    let lines = gateway.log_lines(400);
    let metrics = gateway.metrics();
    for (status, count) in by_status {
        let logged = lines.iter().filter(|line| line["status"] == status).count() as u64;
        let label = format!("status=\"{status}\"");
        let counted: u64 = metrics
            .lines()
            .filter(|line| line.starts_with("octroi_requests_total{") && line.contains(&label))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
            .sum();
        assert_eq!((logged, counted), (count, count), "{status}");
    }
}
