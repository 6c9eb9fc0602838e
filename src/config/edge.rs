//! The sections about the gateway's own doors: listeners, trusted proxies, admin, telemetry, connections.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::finding::quoted;
use super::reader::{Section, Value};
use super::settings::{Admin, AdminTls, Connections, Listener};
use super::values;

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// The path of a Unix socket has 108 bytes in the kernel's structure, one of which ends it.
const MAX_SOCKET_PATH: usize = 107;

/// The addresses that are taken so far, with who took them.
#[derive(Default)]
pub(super) struct Taken(Vec<(SocketAddr, String)>);

impl Taken {
    /// Takes `bind` for `owner`, or answers who has it. On Linux two sockets that share a port by `SO_REUSEPORT` would
    /// both start and steal each other's connections.
    fn take(&mut self, bind: SocketAddr, owner: &str) -> Result<(), String> {
        match self.0.iter().find(|(other, _)| collide(bind, *other)) {
            Some((_, owner)) => Err(format!("collides with {owner}; choose another port")),
            None => {
                self.0.push((bind, owner.to_owned()));
                Ok(())
            }
        }
    }

    /// Takes the address that `value` holds, or reports who has it.
    fn take_for(&mut self, bind: SocketAddr, value: &Value<'_>) {
        if let Err(message) = self.take(bind, &value.path) {
            value.refuse(format!("{} {message}", value.shown()));
        }
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let everywhere = |ip: IpAddr| ip.is_unspecified();
    a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (a.ip() == b.ip() || everywhere(a.ip()) || everywhere(b.ip()))
}

pub(super) fn listeners(root: &mut Section<'_>, taken: &mut Taken) -> Vec<Listener> {
    let default = Listener { name: "public".to_owned(), bind: SocketAddr::from(([0, 0, 0, 0], 8080)) };
    let Some(value) = root.field("listeners") else {
        // Nobody can have taken it yet.
        let _ = taken.take(default.bind, "the default listener");
        return vec![default];
    };
    let entries = value.entries("listeners", "write at least one, public: {bind: 0.0.0.0:8080}").unwrap_or_default();
    entries.into_iter().filter_map(|(name, value)| listener(name, &value, taken)).collect()
}

fn listener(name: &str, value: &Value<'_>, taken: &mut Taken) -> Option<Listener> {
    let name = check_name(name, value);
    let bind = value.section(|fields| {
        let value = fields.required("bind", "write the address to listen on, for example bind: 0.0.0.0:8080")?;
        let bind = value.parse(values::bind)?;
        taken.take_for(bind, &value);
        Some(bind)
    })??;
    Some(Listener { name: name?, bind })
}

/// Checks the name that an operator gave a listener, upstream or route.
pub(super) fn check_name(name: &str, value: &Value<'_>) -> Option<String> {
    values::name(name).map_err(|message| value.refuse_name(format!("{} {message}", quoted(name)))).ok()
}

pub(super) fn trusted_proxies(root: &mut Section<'_>) -> Vec<IpNet> {
    let proxy = |value: &Value<'_>| {
        let net = value.parse(values::network)?;
        if net.prefix_len() == 0 {
            value.warn(format!("{net} is everybody, so that any client can choose the address it is seen by; name your proxies"));
        }
        Some(net)
    };
    root.read("trusted_proxies", Vec::new(), |value| Some(value.items("")?.iter().filter_map(proxy).collect()))
}

pub(super) fn admin(root: &mut Section<'_>, store: &Path, folder: &Path, taken: &mut Taken) -> Admin {
    let value = root.field("admin");
    let fields = value.as_ref().and_then(|value| value.section(|fields| AdminFields::take(fields, folder))).unwrap_or_default();
    let section = value.as_ref().unwrap_or(&root.value);
    let path = fields.socket.as_ref().and_then(|value| value.parse(|text| Ok(folder.join(text))));
    let path = path.unwrap_or_else(|| store.join("admin.sock"));
    check_socket(&path, fields.socket.as_ref().unwrap_or(section));
    let bind = admin_bind(fields.bind, section, fields.tls.is_some(), taken);
    check_encryption(bind, fields.tls.as_ref(), &fields.hosts);
    Admin { bind, socket: path, tls: fields.tls.and_then(|(_, tls)| tls), hosts: fields.hosts }
}

/// What stands below `admin`.
#[derive(Default)]
struct AdminFields<'a> {
    bind: Option<Value<'a>>,
    socket: Option<Value<'a>>,
    /// Where it stands, and what was read of it.
    tls: Option<(Value<'a>, Option<AdminTls>)>,
    hosts: Vec<String>,
}

impl<'a> AdminFields<'a> {
    fn take(fields: &mut Section<'a>, folder: &Path) -> AdminFields<'a> {
        AdminFields {
            bind: fields.field("bind"),
            socket: fields.field("socket"),
            tls: fields.field("tls").map(|value| {
                let tls = value.section(|fields| admin_tls(fields, folder)).flatten();
                (value, tls)
            }),
            hosts: fields
                .read("hosts", Vec::new(), |value| Some(value.items("")?.iter().filter_map(|host| host.parse(values::host)).collect())),
        }
    }
}

fn admin_tls(fields: &mut Section<'_>, folder: &Path) -> Option<AdminTls> {
    let path = |value: Value<'_>| value.parse(|text| Ok(folder.join(text)));
    let certificate = fields.required("certificate", "name the PEM file with the listener's certificate and its chain").and_then(path);
    let private_key = fields.required("private_key", "name the PEM file with the certificate's private key").and_then(path);
    let client_ca = fields.field("client_ca").map(path);
    Some(AdminTls { certificate: certificate?, private_key: private_key?, client_ca: client_ca.map_or(Some(None), |path| path.map(Some))? })
}

fn admin_bind(written: Option<Value<'_>>, section: &Value<'_>, encrypted: bool, taken: &mut Taken) -> Option<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], 8090));
    match written {
        Some(value) => {
            let bind = value.parse_or_off("127.0.0.1:8090", if encrypted { values::bind } else { loopback })??;
            taken.take_for(bind, &value);
            Some(bind)
        }
        None => {
            if let Err(message) = taken.take(default, "admin.bind (by default)") {
                section.refuse_name(format!("admin.bind is missing, and its default {default} {message}, or write admin: {{bind: false}}"));
            }
            Some(default)
        }
    }
}

fn is_loopback(bind: SocketAddr) -> bool {
    bind.ip().to_canonical().is_loopback()
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let bind = values::bind(text)?;
    if is_loopback(bind) {
        return Ok(bind);
    }
    Err(format!(
        "is open to other machines, and the admin listener has no TLS; add tls: {{certificate: FILE, private_key: FILE}} beside it, \
         or write 127.0.0.1:{} and reach it through a tunnel",
        bind.port()
    ))
}

/// Says what of `tls` and `hosts` cannot have been meant.
fn check_encryption(bind: Option<SocketAddr>, tls: Option<&(Value<'_>, Option<AdminTls>)>, hosts: &[String]) {
    let Some((value, _)) = tls else { return };
    match bind {
        None => value.refuse_name("encrypts nothing: the socket needs no TLS, and admin.bind is off; write a bind, or remove tls"),
        Some(bind) if !is_loopback(bind) && hosts.is_empty() => value.warn(
            "other machines reach the admin listener, and it answers to localhost alone; name it as they do, admin.hosts: [admin.example.org]",
        ),
        Some(_) => {}
    }
}

fn check_socket(path: &Path, value: &Value<'_>) {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        value.refuse_name(format!(
            "the path of the socket has {length} bytes and the system takes {MAX_SOCKET_PATH}; set admin.socket to a shorter one"
        ));
    }
}

pub(super) fn telemetry(root: &mut Section<'_>, taken: &mut Taken) -> Option<SocketAddr> {
    root.field("telemetry")?.section(|fields| {
        let value = fields.field("bind")?;
        let bind = value.parse_or_off("127.0.0.1:9464", values::bind)??;
        taken.take_for(bind, &value);
        Some(bind)
    })?
}

pub(super) fn connections(root: &mut Section<'_>) -> Connections {
    let defaults = Connections {
        workers: None,
        max: 10_000,
        first_byte: Duration::from_secs(10),
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        body: Duration::from_secs(30),
        write: Duration::from_secs(60),
        drain: Duration::from_secs(30),
        head_size: 32 * 1024,
        uri_size: 8 * 1024,
        header_count: 100,
        body_size: None,
    };
    root.read("connections", defaults.clone(), |value| value.section(|fields| read_connections(fields, defaults.clone())))
}

fn read_connections(fields: &mut Section<'_>, default: Connections) -> Connections {
    let wait = Duration::from_millis(1)..=Duration::from_secs(86_400);
    let read = Connections {
        workers: fields.read("workers", None, workers),
        max: fields.read("max", default.max, |v| to_usize(v.number(1..=1_000_000))),
        first_byte: fields.read("first_byte", default.first_byte, |v| v.duration(wait.clone())),
        head: fields.read("head", default.head, |v| v.duration(wait.clone())),
        idle: fields.read("idle", default.idle, |v| v.duration(wait.clone())),
        body: fields.read("body", default.body, |v| v.duration(wait.clone())),
        write: fields.read("write", default.write, |v| v.duration(wait.clone())),
        drain: fields.read("drain", default.drain, |v| v.duration(Duration::ZERO..=Duration::from_secs(3_600))),
        head_size: fields.read("head_size", default.head_size, |v| to_usize(v.size(8 * KIB..=64 * KIB))),
        uri_size: fields.read("uri_size", default.uri_size, |v| to_usize(v.size(256..=64 * KIB))),
        header_count: fields.read("header_count", default.header_count, |v| to_usize(v.number(10..=200))),
        body_size: fields.read("body_size", None, body_size),
    };
    if read.uri_size > read.head_size {
        let (uri, head) = (values::show_size(read.uri_size as u64), values::show_size(read.head_size as u64));
        fields.value.refuse_name(format!("uri_size ({uri}) is above head_size ({head}), which counts the target too; raise head_size"));
    }
    read
}

fn workers(value: &Value<'_>) -> Option<Option<NonZeroUsize>> {
    if value.is("auto") {
        return Some(None);
    }
    let number = value.parse(|text| match values::whole(text) {
        Ok(number @ 1..=256) => Ok(number),
        _ => Err("is no number of workers; write auto (one for each core) or 1 to 256".to_owned()),
    });
    to_usize(number).map(NonZeroUsize::new)
}

fn body_size(value: &Value<'_>) -> Option<Option<u64>> {
    if value.is("none") {
        return Some(None);
    }
    value.parse(|text| match values::size(text)? {
        0 => Err("would refuse every body; write none for no bound, or a size such as 10MiB".to_owned()),
        bytes if bytes > MIB << 20 => Err("is out of bounds; write at most 1024GiB, or none".to_owned()),
        bytes => Ok(Some(bytes)),
    })
}

fn to_usize(number: Option<u64>) -> Option<usize> {
    number.and_then(|number| usize::try_from(number).ok())
}
