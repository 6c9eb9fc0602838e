//! Fields on their way through: what belongs to one connection stays there, what says who calls is ours alone to say.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderName, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, VIA,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;

use super::ids::{RequestIds, X_REQUEST_ID};
use super::text::{Texts, put_hex};
use crate::config::{HostHeader, IdentityHeaders, Organization, Route, Settings, Target, Underscores};
use crate::gate::Call;
use crate::model::RequestId;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Fields about one connection only (RFC 9110 section 7.6.1). `Trailer` stays: it describes the message.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Fields by which proxies tell of the original request. From whom is not trusted they are lies or leftovers.
const PROXY_TOLD: [&str; 10] = [
    "forwarded",
    "x-real-ip",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-forwarded-uri",
    "x-forwarded-method",
    "x-original-url",
    "x-rewrite-url",
];

/// Fields that some frameworks let overrule the method that was judged.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// What the upstream is told beyond the client's own fields.
pub struct Told<'a> {
    pub settings: &'a Settings,
    pub route: &'a Route,
    pub call: &'a Call,
    pub id: &'a RequestId,
    pub ids: &'a RequestIds,
    pub texts: &'a Texts,
    /// The peer is one of the trusted proxies.
    pub peer_is_trusted: bool,
}

impl Told<'_> {
    /// The field that says for which organization the call was let in.
    fn judged_by(&self) -> Option<&HeaderName> {
        organization_field(self.route)
    }

    /// The field that keys travel in, if they may.
    fn credential(&self) -> Option<&HeaderName> {
        self.route.credentials.header.as_ref()
    }
}

fn organization_field(route: &Route) -> Option<&HeaderName> {
    match &route.organization {
        Organization::Header(name) => Some(name),
        Organization::Any | Organization::None | Organization::Path(_) | Organization::Query(_) => None,
    }
}

/// Makes the client's fields the upstream's.
pub fn to_upstream(head: &mut Parts, told: &Told<'_>) {
    let fields = &mut head.headers;
    let wants_trailers = fields.get_all(TE).iter().any(|value| has_token(value, "trailers"));
    drop_hop_by_hop(fields, told.judged_by());
    drop_untold(fields, told);
    if wants_trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
        fields.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    identity(fields, told);
    forwarded(fields, told);
    fields.insert(X_REQUEST_ID, told.id.header().clone());
    fields.append(VIA, HeaderValue::from_static("1.1 octroi"));
    trace(fields, told);
}

/// What `Host` becomes. HTTP/1.1 upstreams want one, even where an HTTP/1.0 client sent none: then each target is told its own name.
pub fn host_for<'a>(fields: &HeaderMap, wanted: &'a HostHeader) -> &'a HostHeader {
    match wanted {
        HostHeader::Pass if !fields.contains_key(HOST) => &HostHeader::Target,
        wanted => wanted,
    }
}

/// Sets `Host` for one target.
pub fn host(fields: &mut HeaderMap, becomes: &HostHeader, target: &Target) {
    match becomes {
        HostHeader::Pass => {}
        HostHeader::Target => put(fields, HOST, HeaderValue::try_from(target.authority()).ok()),
        HostHeader::Fixed(host) => put(fields, HOST, Some(host.clone())),
    }
}

/// Makes the upstream's fields the client's.
pub fn to_client(fields: &mut HeaderMap) {
    drop_hop_by_hop(fields, None);
}

/// What no trailer may carry: framing, routing, credentials and identity would be judged after they were used.
pub struct NotInTrailers(Vec<HeaderName>);

impl NotInTrailers {
    pub fn new(settings: &Settings) -> NotInTrailers {
        let IdentityHeaders { machine_id, machine_name, key_id, environment } = &settings.identity;
        let ours = [machine_id, machine_name, key_id, environment, &settings.credentials.header];
        let routes = settings.routes.iter().flat_map(|route| [route.credentials.header.as_ref(), organization_field(route)]);
        let always = [
            CONTENT_LENGTH,
            HOST,
            TRAILER,
            AUTHORIZATION,
            COOKIE,
            SET_COOKIE,
            CONTENT_ENCODING,
            CONTENT_TYPE,
            X_REQUEST_ID,
            X_FORWARDED_FOR,
            X_FORWARDED_PROTO,
            X_FORWARDED_HOST,
            VIA,
            TRACEPARENT,
        ];
        let told = PROXY_TOLD.into_iter().chain(METHOD_OVERRIDES).map(HeaderName::from_static);
        let ours = ours.into_iter().map(Option::as_ref).chain(routes).flatten().cloned();
        NotInTrailers(always.into_iter().chain(told).chain(ours).collect())
    }

    fn clean(&self, trailers: &mut HeaderMap) {
        drop_hop_by_hop(trailers, None);
        let is_wrong = |name: &&HeaderName| name.as_str().contains('_') || self.0.contains(name);
        let wrong: Vec<HeaderName> = trailers.keys().filter(is_wrong).cloned().collect();
        wrong.iter().for_each(|name| drop(trailers.remove(name)));
    }

    /// The frame without what no trailer may say; data pass as they are.
    pub fn clean_frame(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                self.clean(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }
}

fn drop_hop_by_hop(fields: &mut HeaderMap, judged_by: Option<&HeaderName>) {
    if fields.contains_key(CONNECTION) {
        drop_nominated(fields, judged_by);
    }
    // One pass over what is there: asking for each of the nine costs a look-up each.
    let present: Vec<HeaderName> = fields.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    present.iter().for_each(|name| drop(fields.remove(name)));
}

/// Fields that `Connection` names go with it, but for those by which the message itself is understood or was let in: a client could
/// otherwise have them removed after they were judged.
fn drop_nominated(fields: &mut HeaderMap, judged_by: Option<&HeaderName>) {
    let lines: Vec<HeaderValue> = fields.get_all(CONNECTION).iter().cloned().collect();
    let tokens = lines.iter().flat_map(|line| line.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    for name in tokens.filter_map(|token| HeaderName::from_bytes(token).ok()) {
        if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER, TE].contains(&name) && Some(&name) != judged_by {
            fields.remove(name);
        }
    }
}

/// One pass: what a client may not say, in any spelling. Several servers read `_` as `-`: to them a key in such a spelling would be a key,
/// and an organization another one than was judged.
fn drop_untold(fields: &mut HeaderMap, told: &Told<'_>) {
    let names_methods = told.route.methods.is_some();
    let mut unwanted = Vec::new();
    for name in fields.keys() {
        let text = name.as_str();
        let has_underscore = text.contains('_');
        let drop = (has_underscore && told.settings.underscores != Underscores::Pass)
            || is_identity(&told.settings.identity, text)
            || (has_underscore
                && [told.credential(), told.judged_by()].into_iter().flatten().any(|ours| ours != name && same_field(ours.as_str(), text)))
            || (!told.peer_is_trusted && PROXY_TOLD.iter().any(|name| same_field(name, text)))
            || (names_methods && METHOD_OVERRIDES.iter().any(|name| same_field(name, text)));
        if drop {
            unwanted.push(name.clone());
        }
    }
    unwanted.iter().for_each(|name| std::mem::drop(fields.remove(name)));
}

fn is_identity(names: &IdentityHeaders, text: &str) -> bool {
    let IdentityHeaders { machine_id, machine_name, key_id, environment } = names;
    [machine_id, machine_name, key_id, environment].into_iter().flatten().any(|name| same_field(name.as_str(), text))
}

fn same_field(name: &str, spelt: &str) -> bool {
    name.len() == spelt.len() && name.bytes().zip(spelt.bytes()).all(|(n, s)| n == s || (n == b'-' && s == b'_'))
}

fn identity(fields: &mut HeaderMap, told: &Told<'_>) {
    let Some(entry) = &told.call.entry else { return };
    let state = entry.machine.state();
    let IdentityHeaders { machine_id, machine_name, key_id, environment } = &told.settings.identity;
    let mut tell = |name: &Option<HeaderName>, value: &dyn Fn() -> Option<HeaderValue>| {
        if let Some((name, value)) = name.as_ref().and_then(|name| Some((name, value()?))) {
            fields.insert(name, value);
        }
    };
    tell(machine_id, &|| Some(state.id_header.clone()));
    tell(machine_name, &|| Some(state.name_header.clone()));
    tell(key_id, &|| shown(told.texts, entry.key));
    tell(environment, &|| shown(told.texts, &entry.environment));
}

/// `X-Forwarded-*`: continued where the peer is a trusted proxy, begun anew where it is not.
fn forwarded(fields: &mut HeaderMap, told: &Told<'_>) {
    let peer = told.call.peer.0.to_canonical();
    let earlier = if told.peer_is_trusted { joined(fields, &X_FORWARDED_FOR) } else { None };
    let chain = match earlier {
        Some(earlier) => shown(told.texts, format_args!("{earlier}, {peer}")),
        None => shown(told.texts, peer),
    };
    put(fields, X_FORWARDED_FOR, chain);
    if !(told.peer_is_trusted && fields.contains_key(X_FORWARDED_PROTO)) {
        fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !(told.peer_is_trusted && fields.contains_key(X_FORWARDED_HOST)) {
        match fields.get(HOST).cloned() {
            Some(host) => fields.insert(X_FORWARDED_HOST, host),
            None => fields.remove(X_FORWARDED_HOST),
        };
    }
}

fn joined(fields: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<&str> = fields.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// A trace that the client began goes on; otherwise one begins here, unsampled (W3C Trace Context section 3.2).
fn trace(fields: &mut HeaderMap, told: &Told<'_>) {
    let mut given = fields.get_all(TRACEPARENT).iter();
    let is_one = given.next().is_some_and(|value| is_traceparent(value.as_bytes())) && given.next().is_none();
    if !is_one {
        // It says more of the trace that was not taken.
        fields.remove(TRACESTATE);
        let begun = told.texts.value(|text| {
            text.put_slice(b"00-");
            put_hex(text, told.ids.short() | 1);
            put_hex(text, told.ids.short());
            text.put_u8(b'-');
            put_hex(text, told.ids.short() | 1);
            text.put_slice(b"-00");
        });
        put(fields, TRACEPARENT, begun);
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zero.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let parts: Vec<&[u8]> = value.split(|b| *b == b'-').collect();
    let [version, trace, span, flags] = parts[..] else { return false };
    (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2)
        && version != b"ff"
        && parts.iter().all(|part| hex(part))
        && [trace, span].iter().all(|id| id.iter().any(|b| *b != b'0'))
}

/// Puts the field in the place of all of its name; without a value there is none left.
fn put(fields: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => fields.insert(name, value),
        None => fields.remove(name),
    };
}

fn shown(texts: &Texts, what: impl std::fmt::Display) -> Option<HeaderValue> {
    texts.value(|text| {
        // Writing to memory cannot fail.
        let _ = write!(text, "{what}");
    })
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|part| {
        let name = part.split(|b| *b == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    })
}
