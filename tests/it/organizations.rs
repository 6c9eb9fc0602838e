//! For whom and from where: restricted keys pass only for their own organizations, wherever the request names one, and bound keys only from
//! their addresses, whoever tells of them.

use std::net::IpAddr;

use ipnet::IpNet;
use octroi::clock::Clock;
use octroi::model::change::{MachineEdit, NewKey};
use octroi::model::{Change, Organizations};

use crate::support::gateway::{self, Holder, NOON};
use crate::support::{Gateway, Upstream};

const LONG: &str =
    "o-with-an-id-of-more-than-128-bytes-o-with-an-id-of-more-than-128-bytes-o-with-an-id-of-more-than-128-bytes-o-with-an-id-of-more";

fn organizations(ids: &[&str]) -> Organizations {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// A gateway with a route for each place.
fn gateway(upstream: &Upstream) -> Gateway {
    let routes = "
  in_header: {match: {path: '/header/{*rest}'}, permission: any, organization: {header: X-Org}, upstream: api}
  in_query: {match: {path: '/query/{*rest}'}, permission: any, organization: {query: org}, upstream: api}
  whichever: {match: {path: '/whichever/{*rest}'}, permission: any, organization: any, upstream: api}
  deep: {match: {path: '/v2/{region}/orgs/{organization}'}, permission: any, organization: {path: organization}, upstream: api}
connections:";
    Gateway::with(gateway::settings(upstream.address).replace("\nconnections:", routes), Clock::manual(NOON))
}

/// Two keys of one machine without restrictions: one for these organizations, one for any.
fn holders(gateway: &Gateway, ids: &[&str]) -> (Holder, Holder) {
    let machine = gateway.machine("caller", &["sensors:read"], Some("unmetered"));
    let restricted = gateway.key(&machine, NewKey { organizations: Some(organizations(ids)), ..NewKey::default() });
    (restricted, gateway.key(&machine, NewKey::default()))
}

#[test]
fn a_restricted_key_passes_for_its_own_organizations_wherever_they_are_named() {
    let upstream = Upstream::plain();
    let gateway = gateway(&upstream);
    let (restricted, free) = holders(&gateway, &["o1", "A b", "a+b", "é", "50%"]);
    let over_long = format!("/orgs/{LONG}/x");
    const ORG: &str = "X-Org";
    // Target, header fields, the status for the restricted key and for the free one.
    let cases: [(&str, &[(&str, &str)], u16, u16); 63] = [
        ("/orgs/o1/x", &[], 200, 200),
        ("/orgs/%6F1/x", &[], 200, 200),
        ("/orgs/A%20b/x", &[], 200, 200),
        ("/orgs/%41%20b/x", &[], 200, 200),
        ("/orgs/a+b/x", &[], 200, 200),
        ("/orgs/a%2Bb/x", &[], 200, 200),
        ("/orgs/%C3%A9/x", &[], 200, 200),
        ("/orgs/%c3%a9/x", &[], 200, 200),
        ("/orgs/50%25/x", &[], 200, 200),
        ("/orgs/o1", &[], 200, 200),
        ("/v2/o2/orgs/o1", &[], 200, 200),
        ("/orgs/o2/x", &[], 403, 200),
        ("/orgs/O1/x", &[], 403, 200),
        ("/orgs/o1%20/x", &[], 403, 200),
        ("/orgs/o1,o2/x", &[], 403, 200),
        ("/orgs/a%20b/x", &[], 403, 200),
        ("/v2/o1/orgs/o2", &[], 403, 200),
        ("/orgs/o2/x?organization=o1", &[("organization", "o1")], 403, 200),
        (&over_long, &[], 403, 200),
        // What a server could take for another path is nobody's.
        ("/orgs/o1%2f..%2fo2/x", &[], 400, 400),
        ("/orgs/%2f/x", &[], 400, 400),
        ("/orgs/o1/../o2/x", &[], 400, 400),
        ("/orgs/o1%00/x", &[], 400, 400),
        ("/orgs/o%2531/x", &[], 400, 400),
        ("/orgs/o1;o2/x", &[], 400, 400),
        ("/orgs//x", &[], 400, 400),
        ("/orgs/%ff/x", &[], 400, 400),
        ("/header/x", &[(ORG, "o1")], 200, 200),
        ("/header/x", &[("x-ORG", "  o1  ")], 200, 200),
        ("/header/x", &[(ORG, "A b")], 200, 200),
        ("/header/x", &[(ORG, "a+b")], 200, 200),
        ("/header/x", &[], 403, 200),
        ("/header/x", &[(ORG, "")], 403, 200),
        ("/header/x", &[(ORG, "o2")], 403, 200),
        ("/header/x", &[(ORG, "O1")], 403, 200),
        // A field's value is not percent-encoded: the API behind reads these bytes too.
        ("/header/x", &[(ORG, "%6F1")], 403, 200),
        ("/header/x", &[(ORG, "o1, o2")], 403, 200),
        ("/header/x", &[(ORG, "o1"), (ORG, "o1")], 403, 200),
        ("/header/x", &[(ORG, "o1"), (ORG, "o2")], 403, 200),
        ("/header/x", &[(ORG, LONG)], 403, 200),
        ("/header/x?org=o1", &[("Org", "o1")], 403, 200),
        ("/query/x?org=o1", &[], 200, 200),
        ("/query/x?a=1&org=o1&b=2", &[], 200, 200),
        ("/query/x?o%72g=%6f1", &[], 200, 200),
        ("/query/x?org=A%20b", &[], 200, 200),
        ("/query/x?org=a%2Bb", &[], 200, 200),
        ("/query/x?org=%C3%A9", &[], 200, 200),
        ("/query/x", &[], 403, 200),
        ("/query/x?org", &[], 403, 200),
        ("/query/x?org=", &[], 403, 200),
        ("/query/x?org=o2", &[], 403, 200),
        ("/query/x?ORG=o1", &[], 403, 200),
        ("/query/x?org=O1", &[], 403, 200),
        ("/query/x?org=o%2531", &[], 403, 200),
        ("/query/x?org=o1&org=o1", &[], 403, 200),
        ("/query/x?org=o1&org=o2", &[], 403, 200),
        // Some servers would read another organization in these.
        ("/query/x?org=a+b", &[], 403, 200),
        ("/query/x?org=o1;org=o2", &[], 403, 200),
        ("/query/x?a=1;org=o2&org=o1", &[], 403, 200),
        ("/query/x?org=o1&Org=o2", &[], 403, 200),
        ("/query/x?org=o1&org[]=o2", &[], 403, 200),
        ("/whichever/o2", &[], 200, 200),
        ("/any/o1?org=o1", &[(ORG, "o1")], 403, 200),
    ];
    for (target, headers, for_restricted, for_free) in cases {
        for (holder, expected) in [(&restricted, for_restricted), (&free, for_free)] {
            let mut connection = gateway.connect();
            let bearer = format!("Bearer {}", holder.value);
            let answer = connection.get(target, &[headers, &[("Authorization", &bearer)]].concat());
            assert_eq!(answer.status, expected, "{target} {headers:?}");
            if expected == 403 {
                assert_eq!(answer.code(), "organization_denied", "{target} {headers:?}");
            }
        }
    }
}

#[test]
fn machine_and_key_restrict_together() {
    let upstream = Upstream::plain();
    let gateway = gateway(&upstream);
    // Of the machine, of the key, and who passes.
    let cases: [(Option<&[&str]>, Option<&[&str]>, &[&str]); 8] = [
        (None, None, &["o1", "o2", "o3"]),
        (Some(&["o1", "o2"]), None, &["o1", "o2"]),
        (None, Some(&["o1", "o2"]), &["o1", "o2"]),
        (Some(&["o1", "o2"]), Some(&["o2", "o3"]), &["o2"]),
        (Some(&["o1"]), Some(&["o2"]), &[]),
        (Some(&[]), None, &[]),
        (None, Some(&[]), &[]),
        (Some(&[]), Some(&["o1"]), &[]),
    ];
    for (index, (of_machine, of_key, passing)) in cases.into_iter().enumerate() {
        let machine = gateway.machine(&format!("machine {index}"), &[], Some("unmetered"));
        let edit = MachineEdit { organizations: Some(of_machine.map(organizations)), ..MachineEdit::default() };
        gateway.commit(Change::EditMachine(machine.id, edit)).unwrap();
        let holder = gateway.key(&machine, NewKey { organizations: of_key.map(organizations), ..NewKey::default() });
        for id in ["o1", "o2", "o3"] {
            let expected = if passing.contains(&id) { 200 } else { 403 };
            assert_eq!(gateway.get_as(&holder, &format!("/orgs/{id}/x")).status, expected, "{of_machine:?} {of_key:?} {id}");
        }
        // Even a restriction to nothing passes where the route says that it does not matter.
        assert_eq!(gateway.get_as(&holder, "/whichever/x").status, 200, "{of_machine:?} {of_key:?}");
        let unnamed = if of_machine.is_none() && of_key.is_none() { 200 } else { 403 };
        assert_eq!(gateway.get_as(&holder, "/any/x").status, unnamed, "{of_machine:?} {of_key:?}");
    }
}

/// Statuses for a key bound to `nets`, called from this machine with each of these fields, behind `proxies`.
fn statuses(proxies: &str, bind: &str, nets: &[&str], calls: &[&[&str]]) -> Option<Vec<u16>> {
    let listens = std::net::TcpListener::bind(bind.replace('\'', "").parse::<std::net::SocketAddr>().unwrap()).is_ok();
    if !listens {
        return None;
    }
    let upstream = Upstream::plain();
    let settings = gateway::settings(upstream.address).replace("'127.0.0.1:0'}}\nadmin", &format!("{bind}}}}}\nadmin"));
    let gateway = Gateway::with(format!("trusted_proxies: {proxies}\n{settings}"), Clock::manual(NOON));
    let machine = gateway.machine("caller", &["sensors:read"], Some("unmetered"));
    let net = |net: &&str| net.parse::<IpNet>().unwrap_or_else(|_| net.parse::<IpAddr>().unwrap().into());
    let allowed_ips = Some(nets.iter().map(net).collect());
    let holder = gateway.key(&machine, NewKey { allowed_ips, ..NewKey::default() });
    let bearer = format!("Bearer {}", holder.value);
    let status = |lines: &&[&str]| {
        let mut headers: Vec<(&str, &str)> = lines.iter().map(|line| ("X-Forwarded-For", *line)).collect();
        headers.push(("Authorization", &bearer));
        let answer = gateway.get("/any/x", &headers);
        match answer.status {
            200 => {}
            403 => assert_eq!(answer.code(), "address_denied"),
            _ => assert_eq!(answer.code(), "bad_request"),
        }
        answer.status
    };
    Some(calls.iter().map(status).collect())
}

#[test]
fn a_bound_key_passes_only_from_its_addresses() {
    const V4: &str = "'127.0.0.1:0'";
    // Without trusted proxies the socket alone counts, whatever a client tells.
    let untrusted: [(&[&str], u16); 6] =
        [(&["127.0.0.1"], 200), (&["127.0.0.0/8"], 200), (&["0.0.0.0/0"], 200), (&["127.0.0.2"], 403), (&["::/0"], 403), (&["::1"], 403)];
    for (nets, expected) in untrusted {
        let spoofed: [&[&str]; 4] = [&[], &["192.0.2.7"], &["127.0.0.2, ::1"], &["garbage"]];
        assert_eq!(statuses("[]", V4, nets, &spoofed).unwrap(), [expected; 4], "{nets:?}");
    }

    let nets = ["192.0.2.0/24", "2001:db8:1::/48"];
    let behind: [(&[&str], u16); 20] = [
        (&["192.0.2.7"], 200),
        (&["192.0.2.7:4711"], 200),
        (&["::ffff:192.0.2.7"], 200),
        (&["2001:db8:1::9"], 200),
        (&["[2001:DB8:1::9]:443"], 200),
        (&["198.51.100.1, 192.0.2.7"], 200),
        (&["192.0.2.7, 127.0.0.9"], 200),
        (&["garbage, 192.0.2.7"], 200),
        (&["198.51.100.1", "192.0.2.7"], 200),
        // What stands to the left of the last stranger was told by that stranger.
        (&["192.0.2.7, 198.51.100.1"], 403),
        (&["192.0.2.7", "198.51.100.1"], 403),
        (&["192.0.2.7, 198.51.100.1, 127.0.0.9"], 403),
        (&["2001:db8:2::9"], 403),
        (&["127.0.0.9"], 403),
        (&[], 403),
        (&["192.0.2.7, unknown"], 400),
        (&["192.0.2.7,"], 400),
        (&["192.0.2.999"], 400),
        (&["192.0.2.7 198.51.100.1"], 400),
        (&["for=192.0.2.7"], 400),
    ];
    let calls: Vec<&[&str]> = behind.iter().map(|(lines, _)| *lines).collect();
    let expected: Vec<u16> = behind.iter().map(|(_, status)| *status).collect();
    assert_eq!(statuses("[127.0.0.0/8]", V4, &nets, &calls).unwrap(), expected);
}

#[test]
fn addresses_of_both_kinds_are_compared_in_their_plain_form() {
    let cases: [(&str, &[&str], u16); 6] = [
        ("'[::1]:0'", &["::1"], 200),
        ("'[::1]:0'", &["::/0"], 200),
        ("'[::1]:0'", &["127.0.0.0/8", "0.0.0.0/0"], 403),
        ("'[::ffff:127.0.0.1]:0'", &["127.0.0.1"], 200),
        ("'[::ffff:127.0.0.1]:0'", &["127.0.0.0/8"], 200),
        ("'[::ffff:127.0.0.1]:0'", &["::1"], 403),
    ];
    for (bind, nets, expected) in cases {
        match statuses("[]", bind, nets, &[&[]]) {
            Some(seen) => assert_eq!(seen, [expected], "{bind} {nets:?}"),
            None => crate::support::skip("addresses_of_both_kinds_are_compared_in_their_plain_form", "this machine has no IPv6"),
        }
    }
    // Written in its long form, a range of IPv4 is that range.
    let proxied = statuses("['::ffff:127.0.0.0/104']", "'127.0.0.1:0'", &["192.0.2.7"], &[&["192.0.2.7"], &[]]);
    assert_eq!(proxied.unwrap(), [200, 403]);
}
