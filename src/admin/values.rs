//! How single values of the admin API are written, and what is said when they are not.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;

use super::catalogue::Catalogue;
use super::fields::{Faults, Read, kind};
use super::wire::FieldError;
use crate::model::operator::OperatorStatus;
use crate::model::secret::masked;
use crate::model::{Environment, KeyId, MachineId, OperatorId, Organizations, PermissionSet, Right, Rights, TierName, Timestamp};

/// Longest texts, in characters.
const MAX_NAME: usize = 200;
const MAX_DESCRIPTION: usize = 2_000;
const MAX_CONTACT: usize = 200;
const MAX_REASON: usize = 500;
/// The longest id of an organization, in bytes.
const MAX_ORGANIZATION: usize = 128;
/// The most entries in one list of a machine or key: a registry holds a million of them in memory.
const MAX_ENTRIES: usize = 1_000;
/// A hundred years: beyond it somebody mistook the unit.
const MAX_SPAN: Duration = Duration::from_secs(100 * 366 * 86_400);

/// The name of a machine or operator or the label of a key: one line, not blank, and not taken for an id where either can stand.
pub fn name(value: Value) -> Read<String> {
    let text = string(value)?;
    if text.trim().is_empty() {
        return Err("must not be blank".into());
    }
    if text.trim() != text {
        return Err("must not begin or end with white space".into());
    }
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".into());
    }
    if text.parse::<MachineId>().is_ok() || text.parse::<KeyId>().is_ok() || text.parse::<OperatorId>().is_ok() {
        return Err("must not be an id: commands take either, and would find another one by it".into());
    }
    at_most(text, MAX_NAME)
}

/// Free text; line ends are welcome.
pub fn description(value: Value) -> Read<String> {
    let text = string(value)?;
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err("must not hold control characters other than line ends and tabs".into());
    }
    at_most(text, MAX_DESCRIPTION)
}

pub fn contact(value: Value) -> Read<String> {
    one_line(value, MAX_CONTACT)
}

/// Why a change is made, as the journal keeps it.
pub fn reason(value: Value) -> Read<String> {
    one_line(value, MAX_REASON)
}

pub fn boolean(value: Value) -> Read<bool> {
    value.as_bool().ok_or_else(|| format!("must be true or false, not {}", kind(&value)).into())
}

pub fn environment(value: Value) -> Read<Environment> {
    Environment::parse(&string(value)?).ok_or_else(|| "must be 2 to 12 of a-z and 0-9, for example prod or staging".into())
}

pub fn permissions(value: Value, catalogue: &Catalogue) -> Read<PermissionSet> {
    list(value, |text| catalogue.permission(&text).map_err(Faults::from)).map(PermissionSet::from_iter)
}

/// What an operator may do: at least one right, since a token without any opens nothing.
pub fn rights(value: Value) -> Read<Rights> {
    let known = || Right::ALL.map(Right::as_str).join(", ");
    let right = |text: String| Right::parse(&text).ok_or_else(|| Faults::from(format!("no right is named {text:?}; known: {}", known())));
    match list(value, right)? {
        rights if rights.is_empty() => Err(format!("must name at least one right; known: {}", known()).into()),
        rights => Ok(Rights::from_iter(rights)),
    }
}

pub fn operator_status(text: String) -> Read<OperatorStatus> {
    let known = [OperatorStatus::Active, OperatorStatus::Disabled, OperatorStatus::Expired];
    let status = known.into_iter().find(|status| status.as_str() == text);
    status.ok_or_else(|| format!("{text:?} is no status; known: {}", known.map(OperatorStatus::as_str).join(", ")).into())
}

pub fn organizations(value: Value) -> Read<Organizations> {
    list(value, organization_id).map(Organizations::from_iter)
}

/// The id of one organization.
pub fn organization(value: Value) -> Read<String> {
    string(value).and_then(organization_id)
}

fn organization_id(text: String) -> Read<String> {
    match text.len() {
        1..=MAX_ORGANIZATION => Ok(text),
        _ => Err(format!("must be 1 to {MAX_ORGANIZATION} bytes long").into()),
    }
}

pub fn tier(value: Value, catalogue: &Catalogue) -> Read<TierName> {
    catalogue.tier(&string(value)?).map_err(Faults::from)
}

pub fn networks(value: Value) -> Read<Vec<IpNet>> {
    let mut nets = list(value, |text| network(&text))?;
    if nets.is_empty() {
        return Err("would let no address in; null lets every address in, and deactivating the key stops it".into());
    }
    nets.sort();
    nets.dedup();
    Ok(nets)
}

fn network(text: &str) -> Read<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        // Calls over IPv4 are seen by their IPv4 address, however a listener writes it.
        return Ok(address.to_canonical().into());
    }
    let net: IpNet =
        text.parse().map_err(|_| format!("{text:?} is neither an address nor a range; write 192.0.2.7, 10.0.0.0/8 or fd00::/8"))?;
    match net.trunc() {
        trunc if trunc == net => plain(net),
        trunc => {
            Err(format!("{text:?} has bits beyond its prefix; for the whole range write {trunc}, for one address {}", net.addr()).into())
        }
    }
}

/// A range of IPv4-mapped addresses is one of IPv4: in its long form no call would ever be in it.
fn plain(net: IpNet) -> Read<IpNet> {
    let IpNet::V6(v6) = net else { return Ok(net) };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => Ipv4Net::new(v4, length).map(IpNet::V4).map_err(|error| error.to_string().into()),
        _ => Ok(net),
    }
}

/// A date, RFC 3339 with an offset.
pub fn timestamp(value: Value) -> Read<Timestamp> {
    let text = string(value)?;
    Timestamp::parse(&text).ok_or_else(|| format!("{text:?} is not a time; write RFC 3339, for example 2027-01-31T00:00:00Z").into())
}

/// A length of time: a whole number and its unit, `90d`.
pub fn span(value: Value) -> Read<Duration> {
    let text = string(value)?;
    parse_span(&text).ok_or_else(|| {
        format!("{text:?} is not a length of time; write a whole number and s, m, h or d, for example 24h or 90d, at most 36600d").into()
    })
}

/// A moment of the past: a time, a date (its beginning in UTC), or how long ago.
pub fn since(text: &str, now: Timestamp) -> Read<Timestamp> {
    moment(text, |span| Timestamp(now.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX))))
}

/// A moment of the future: a time, a date (its beginning in UTC), or how long from now.
pub fn before(text: &str, now: Timestamp) -> Read<Timestamp> {
    moment(text, |span| now.plus(span))
}

fn moment(text: &str, at: impl FnOnce(Duration) -> Timestamp) -> Read<Timestamp> {
    let date = || Timestamp::parse(&format!("{text}T00:00:00Z"));
    let found = Timestamp::parse(text).or_else(date).or_else(|| parse_span(text).map(at));
    found.ok_or_else(|| {
        format!("{text:?} is neither a date, a time nor a length of time; write 2027-01-31, 2027-01-31T00:00:00Z or 30d").into()
    })
}

fn parse_span(text: &str) -> Option<Duration> {
    let unit = match text.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3_600,
        b'd' => 86_400,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    Some(Duration::from_secs(seconds)).filter(|span| *span <= MAX_SPAN)
}

fn one_line(value: Value, most: usize) -> Read<String> {
    let text = string(value)?;
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".into());
    }
    at_most(text, most)
}

fn at_most(text: String, most: usize) -> Read<String> {
    match text.chars().count() {
        count if count > most => Err(format!("is {count} characters long; the most is {most}").into()),
        _ => Ok(text),
    }
}

/// No text that is kept, shown or told back may hold a value: somebody who reports a leak pastes it all too easily.
pub fn string(value: Value) -> Read<String> {
    match value {
        Value::String(text) if matches!(masked(text.as_bytes()), Cow::Owned(_)) => {
            Err("holds the value of a key, which is kept nowhere; a key is named by its label, its id or its last four characters".into())
        }
        Value::String(text) => Ok(text),
        other => Err(format!("must be a string, not {}", kind(&other)).into()),
    }
}

/// Reads each entry, and says of each one that is wrong where it stands.
pub fn list<T>(value: Value, read: impl Fn(String) -> Read<T>) -> Read<Vec<T>> {
    let Value::Array(entries) = value else { return Err(format!("must be an array of strings, not {}", kind(&value)).into()) };
    if entries.len() > MAX_ENTRIES {
        return Err(format!("holds {} entries; the most is {MAX_ENTRIES}", entries.len()).into());
    }
    let (mut good, mut bad) = (Vec::with_capacity(entries.len()), Vec::new());
    for (index, entry) in entries.into_iter().enumerate() {
        match string(entry).and_then(&read) {
            Ok(value) => good.push(value),
            Err(Faults(faults)) => bad.extend(faults.into_iter().map(|fault| below(index, fault))),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(Faults(bad)) }
}

fn below(index: usize, fault: FieldError) -> FieldError {
    FieldError { pointer: format!("/{index}{}", fault.pointer), message: fault.message }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::tests::example;
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_one_line_and_not_blank() {
        for good in ["Service de facturation", "計費", "a", &"é".repeat(200)] {
            assert!(name(json!(good)).is_ok(), "{good}");
        }
        for bad in [json!(""), json!("  "), json!(" a"), json!("a\nb"), json!("a\u{0}"), json!("x".repeat(201)), json!(7), json!(["a"])] {
            assert!(name(bad.clone()).is_err(), "{bad}");
        }
        let ids = [MachineId::from_u128(1).to_string(), KeyId::from_u128(1).to_string(), OperatorId::from_u128(1).to_string()];
        for id in ids {
            assert!(name(json!(id)).is_err() && name(json!(format!("{id} of old"))).is_ok(), "{id}");
        }
        assert!(name(json!("mac_mini")).is_ok());
    }

    #[test]
    fn texts_have_a_longest_length_in_characters() {
        type Reader = fn(Value) -> Read<String>;
        let cases: [(Reader, usize); 3] = [(description, 2_000), (contact, 200), (reason, 500)];
        for (read, most) in cases {
            assert!(read(json!("é".repeat(most))).is_ok(), "{most}");
            assert!(read(json!("é".repeat(most + 1))).is_err(), "{most}");
            assert!(read(json!("bell\u{7}")).is_err());
        }
        assert!(description(json!("two\nlines")).is_ok() && contact(json!("two\nlines")).is_err());
    }

    #[test]
    fn no_text_holds_the_value_of_a_key() {
        let leaked = "leaked: pk_prod_vC3L7ESxxpuJNWlD7LukzfZWdAyVtN1eypHk, says the supplier";
        for read in [name, description, contact, reason] {
            let Err(Faults(faults)) = read(json!(leaked)) else { panic!("accepted") };
            assert!(faults[0].message.contains("holds the value of a key") && !faults[0].message.contains("NWlD7Lukzf"), "{:?}", faults[0]);
        }
        assert!(organizations(json!([leaked])).is_err() && span(json!(leaked)).is_err());
    }

    #[test]
    fn each_wrong_entry_is_pointed_at() {
        let Err(Faults(faults)) = permissions(json!(["sensors:read", "nope", 3]), &example()) else { panic!("accepted") };
        let seen: Vec<&str> = faults.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(seen, ["/1", "/2"]);
        assert!(faults[0].message.contains("known: sensors:read, events:read, admin"));
        assert!(organizations(json!(["", "ok"])).is_err() && organizations(json!(["x".repeat(129)])).is_err());
        assert!(organizations(json!([])).is_ok(), "restricted to none at all");
        assert!(permissions(json!([]), &example()).is_ok_and(|set| set.is_empty()));
    }

    #[test]
    fn rights_are_the_known_ones_and_never_none() {
        let granted = rights(json!(["machines:write", "machines:read", "machines:write"])).unwrap();
        assert_eq!(granted.iter().collect::<Vec<_>>(), [Right::MachinesRead, Right::MachinesWrite]);
        for bad in [json!([]), json!(["admin"]), json!("machines:read"), json!([1]), json!({})] {
            assert!(rights(bad.clone()).is_err(), "{bad}");
        }
        let Err(Faults(faults)) = rights(json!(["machines:read", "root"])) else { panic!("accepted") };
        assert!(faults[0].pointer == "/1" && faults[0].message.ends_with("keys:verify, platform:configure"), "{:?}", faults[0]);
    }

    #[test]
    fn addresses_are_ranges_or_single_ones() {
        let nets = networks(json!(["10.0.0.0/8", "192.0.2.7", "fd00::/8", "192.0.2.7/32"])).unwrap();
        let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]);
        let mapped = networks(json!(["::ffff:192.0.2.7", "::ffff:10.0.0.0/104"])).unwrap();
        assert_eq!(mapped.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "192.0.2.7/32"]);
        for bad in [json!(["10.0.0.1/8"]), json!(["10.0.0.0/33"]), json!(["localhost"]), json!([""]), json!([]), json!("10.0.0.0/8")] {
            assert!(networks(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_have_a_unit_and_an_end() {
        let good = [("0s", 0), ("90s", 90), ("15m", 900), ("24h", 86_400), ("90d", 7_776_000), ("36600d", 36_600 * 86_400)];
        for (text, seconds) in good {
            assert_eq!(parse_span(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "d", "90", "-1d", "+1d", "1.5h", "1 d", "36601d", "99999999999999999999d", "1w", "é"] {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_moment_is_a_time_a_date_or_a_distance() {
        let now = Timestamp::parse("2027-02-01T12:00:00Z").unwrap();
        let midnight = Timestamp::parse("2027-01-31T00:00:00Z").unwrap();
        assert_eq!((since("2027-01-31", now), before("2027-01-31T01:00:00+01:00", now)), (Ok(midnight), Ok(midnight)));
        assert_eq!((since("36h", now), before("1d", now)), (Ok(midnight), Ok(Timestamp(now.0 + 86_400_000))));
        for bad in ["", "yesterday", "2027-13-01", "30", "-1d", "1w"] {
            assert!(since(bad, now).is_err() && before(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        assert!(timestamp(json!("2027-01-31T00:00:00+01:00")).is_ok());
        for bad in [json!("2027-01-31"), json!("tomorrow"), json!(1_800_000_000), json!("")] {
            assert!(timestamp(bad.clone()).is_err(), "{bad}");
        }
        assert!(environment(json!("Prod")).is_err() && environment(json!("staging")).is_ok());
    }
}
