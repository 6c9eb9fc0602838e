//! May this call pass? The decision, told once: find the route, take the credential, identify the key, permit, charge.
//!
//! No sockets and no store in here: what is judged is a request's head, the settings and the registry as they are now.
//! [`Admitted`] has one maker, [`Gate::admit`], and sending a call on demands one, so that a forgotten check does not compile.

mod client;
mod credential;
mod permit;
mod route;
mod target;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use http::request::Parts;
use ipnet::IpNet;

use crate::config::{Access, Credentials, Route, Settings};
use crate::limits::{Brake, Bucket, Charged, TierLimits, charge};
use crate::model::{Caller, ClientIp, Moment, PeerIp, Refusal, TierName};
use crate::registry::{Entry, MachineState, Registry};
use credential::Taken;
use route::Routes;

/// The settings as the gate reads them, compiled once when they load.
pub struct Rules {
    routes: Routes,
    table: Vec<Route>,
    credentials: Credentials,
    trusted_proxies: Vec<IpNet>,
    tiers: HashMap<TierName, Arc<TierLimits>>,
    default_tier: TierName,
}

impl Rules {
    pub fn new(settings: &Settings) -> Rules {
        let limits = |tier: &crate::config::TierSettings| {
            let limits = TierLimits::new(&tier.tier, settings.limits.timezone.clone());
            (tier.tier.name.clone(), Arc::new(limits))
        };
        Rules {
            routes: Routes::new(&settings.routes),
            table: settings.routes.clone(),
            credentials: settings.credentials.clone(),
            trusted_proxies: settings.trusted_proxies.clone(),
            tiers: settings.tiers.iter().map(limits).collect(),
            default_tier: settings.default_tier.clone(),
        }
    }

    /// The route that an [`Admitted`] or a call names.
    pub fn route(&self, index: usize) -> &Route {
        &self.table[index]
    }

    /// Whether what this peer says about a call's origin is believed.
    pub fn trusts(&self, peer: PeerIp) -> bool {
        client::is_trusted(&self.trusted_proxies, peer.0.to_canonical())
    }

    /// How much a caller of `tier` may do; `None` when the settings no longer name that tier.
    fn limits(&self, tier: Option<&TierName>) -> Option<&Arc<TierLimits>> {
        self.tiers.get(tier.unwrap_or(&self.default_tier))
    }
}

/// What the gate is told of a call, and what it found out on the way, let in or not.
pub struct Call {
    pub now: Moment,
    pub peer: PeerIp,
    /// The peer's until the gate has read what trusted proxies say.
    pub client: ClientIp,
    /// The index of the route, once found.
    pub route: Option<usize>,
    /// Whose value the call carried, even when it did not count.
    pub entry: Option<Arc<Entry>>,
}

impl Call {
    pub fn new(now: Moment, peer: PeerIp) -> Call {
        Call { now, peer, client: ClientIp(peer.0.to_canonical()), route: None, entry: None }
    }

    pub fn caller(&self) -> Option<Caller> {
        let caller = |entry: &Arc<Entry>| Caller {
            key: entry.key,
            machine: entry.machine.id,
            old_value: entry.is_replaced(),
            value: entry.hash.mark(),
        };
        self.entry.as_ref().map(caller)
    }
}

/// A call that may be sent on. Only the gate makes one.
pub struct Admitted {
    route: usize,
    charged: Option<Charged>,
    _made_by_the_gate: (),
}

impl Admitted {
    pub fn route(&self) -> usize {
        self.route
    }

    /// What is left of the caller's limits; `None` on public routes.
    pub fn charged(&self) -> Option<&Charged> {
        self.charged.as_ref()
    }
}

/// A refusal, and for the two limits what to tell in the `RateLimit` fields.
pub struct Turned {
    pub refusal: Refusal,
    pub charged: Option<Box<Charged>>,
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Turned {
        Turned { refusal, charged: None }
    }
}

/// The one judge, shared by all workers.
pub struct Gate {
    registry: Registry,
    brake: Brake,
}

const ONE: NonZeroU32 = NonZeroU32::MIN;

impl Gate {
    pub fn new(registry: Registry, brake: Brake) -> Gate {
        Gate { registry, brake }
    }

    /// Guesses are forgotten when their time is up: called now and then by whoever keeps time.
    pub fn sweep(&self, now: Moment) {
        self.brake.sweep(now);
    }

    /// Decides. Whatever the outcome, `request` no longer carries the credential afterwards, its target is in the one form
    /// that was judged, and `call` says whose it was. `flaw` is what the caller found wrong with the request: it is told before anything
    /// that depends on the key.
    pub fn admit(&self, rules: &Rules, call: &mut Call, request: &mut Parts, flaw: Option<Refusal>) -> Result<Admitted, Turned> {
        let found = target::settle(request).and_then(|()| {
            let host = target::host(request)?;
            rules.routes.find(host.as_deref(), request.uri.path(), &request.method)
        });
        let route = found.as_ref().ok().map(|index| rules.route(*index));
        call.route = found.as_ref().ok().copied();

        let taken = match route {
            Some(Route { access: Access::Public, credentials, .. }) => credential::clear(credentials, request),
            Some(Route { credentials, .. }) => credential::take(credentials, request),
            None => credential::take(&rules.credentials, request),
        };
        let identified = self.identify(taken, call);
        let client = client::behind_proxies(&rules.trusted_proxies, call.peer, &request.headers);

        // What is wrong with the request itself never depends on the key, though the call is attributed to it.
        call.client = client?;
        let index = found?;
        if let Some(flaw) = flaw {
            return Err(flaw.into());
        }
        let route = rules.route(index);
        if route.access == Access::Public {
            return Ok(Admitted { route: index, charged: None, _made_by_the_gate: () });
        }

        let entry = self.recognise(identified, call)?;
        let machine = entry.machine.state();
        entry.judge(&machine, call.now.wall)?;
        permit::address(&entry, call.client)?;
        permit::permissions(&entry, &machine, route)?;
        permit::organization(&entry, &machine, route, request)?;
        let charged = self.charge(rules, &entry, &machine, call)?;
        Ok(Admitted { route: index, charged: Some(charged), _made_by_the_gate: () })
    }

    fn identify(&self, taken: Taken, call: &mut Call) -> Result<Arc<Entry>, Refusal> {
        let hash = taken.hash()?;
        let entry = self.registry.identify(&hash).ok_or(Refusal::KeyUnknown)?;
        call.entry = Some(entry.clone());
        Ok(entry)
    }

    /// Lets known values through whatever else their address tried; counts guesses, and past the limit says nothing more about
    /// them. A missing key is no guess, but past the limit it is not distinguished from one.
    fn recognise(&self, identified: Result<Arc<Entry>, Refusal>, call: &Call) -> Result<Arc<Entry>, Refusal> {
        identified.map_err(|refusal| {
            if let Some(retry_after) = self.brake.is_past(call.client.0, call.now) {
                return Refusal::TooManyFailures { retry_after };
            }
            if refusal != Refusal::KeyMissing {
                self.brake.count_failure(call.client.0, call.now);
            }
            refusal
        })
    }

    fn charge(&self, rules: &Rules, entry: &Entry, machine: &MachineState, call: &Call) -> Result<Charged, Turned> {
        let own = entry.narrowed().and_then(|n| n.tier.as_ref());
        let (tier, bucket): (_, &Bucket) = match own {
            Some((tier, bucket)) => (Some(tier), bucket),
            None => (machine.tier.as_ref(), &entry.machine.bucket),
        };
        // A tier that the settings lost would be no limit at all: the gate does not guess one.
        let limits = rules.limits(tier).ok_or(Refusal::InternalError)?;
        charge(limits, bucket, ONE, call.now).map_err(|over| Turned { refusal: over.refusal(), charged: Some(over.state) })
    }
}
