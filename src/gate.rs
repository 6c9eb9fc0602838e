//! May this call pass? The decision, told once: find the route, take the credential, identify the key, permit, charge.
//!
//! No sockets and no store in here: what is judged is a request's head, the settings and the registry as they are now.
//! [`Admitted`] has one maker, [`Gate::admit`], and sending a call on demands one, so that a forgotten check does not compile.
//!
//! There are several doors to the one decision: [`Gate::admit`] for calls that are sent on, [`Gate::verify`] for applications that ask
//! about a key instead of being proxied, and [`Gate::explain`] for people who ask why. Who looks on, and whether the decision binds, is a
//! [`Trace`].

mod acceptable;
mod client;
mod credential;
mod explain;
mod permit;
mod route;
mod target;
mod trace;
mod verify;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use http::request::Parts;
use ipnet::IpNet;

use crate::config::{Access, Credentials, Route, Settings};
use crate::limits::{Brake, Bucket, Charged, Refused, TierLimits, charge, foresee};
use crate::model::{Caller, ClientIp, Moment, PeerIp, Refusal, SecretHash, TierName, Timestamp};
use crate::registry::{Entry, MachineState, Registry};
use acceptable::Acceptable;
use credential::Taken;
pub use explain::{Explanation, Finding, Outcome, Presented, Question};
use permit::Demand;
use route::Routes;
use trace::{Binding, Trace};
pub use verify::{CostTooHigh, Verification, Verified};

/// The settings as the gate reads them, compiled once when they load.
pub struct Rules {
    routes: Routes,
    table: Vec<Route>,
    credentials: Credentials,
    acceptable: Acceptable,
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
            acceptable: Acceptable::new(settings),
            trusted_proxies: settings.trusted_proxies.clone(),
            tiers: settings.tiers.iter().map(limits).collect(),
            default_tier: settings.default_tier.clone(),
        }
    }

    /// The route that an [`Admitted`] or a call names.
    pub fn route(&self, index: usize) -> &Route {
        &self.table[index]
    }

    /// The index of the route that a request takes, its target settled.
    fn find<T: Trace>(&self, request: &mut Parts, trace: &mut T) -> Result<usize, Refusal> {
        let settled = target::settle(request);
        let host = settled.and_then(|()| target::host(request));
        trace.target(&host.as_ref().map(|_| ()).map_err(Refusal::clone), request);
        let found = host.and_then(|host| self.routes.find(host.as_deref(), request.uri.path(), &request.method));
        trace.route(&found, self);
        found
    }

    /// Whether what this peer says about a call's origin is believed.
    pub fn trusts(&self, peer: PeerIp) -> bool {
        client::is_trusted(&self.trusted_proxies, peer.0.to_canonical())
    }

    /// What a caller is held to and where it is counted; `None` when the settings no longer name its tier.
    fn limits<'a>(&'a self, entry: &'a Entry, machine: &'a MachineState) -> Option<(&'a TierLimits, &'a Bucket)> {
        let own = entry.narrowed().and_then(|n| n.tier.as_ref());
        let (tier, bucket): (_, &Bucket) = match own {
            Some((tier, bucket)) => (Some(tier), bucket),
            None => (machine.tier.as_ref(), &entry.machine.bucket),
        };
        let limits = self.tiers.get(tier.unwrap_or(&self.default_tier))?;
        Some((limits, bucket))
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
        self.entry.as_deref().map(caller_of)
    }
}

/// Whose value it is, for the record of a call.
pub fn caller_of(entry: &Entry) -> Caller {
    Caller { key: entry.key, machine: entry.machine.id, old_value: entry.is_replaced(), value: entry.hash.mark() }
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

impl From<Refused> for Turned {
    fn from(over: Refused) -> Turned {
        Turned { refusal: over.refusal(), charged: Some(over.state) }
    }
}

/// What is asked of a key, once it is known what asks.
struct Asked<'a> {
    now: Moment,
    /// `None` where nobody said; a call always has one.
    client: Option<ClientIp>,
    demand: Demand<'a>,
    cost: NonZeroU32,
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

    /// Another number whenever a change may have ended what was let in; see [`Gate::still_counts`].
    pub fn turn(&self) -> u64 {
        self.registry.turn()
    }

    /// Whether the value of a call that was let in counts at `now`, and if so until when, should no change come first. Everything else
    /// that was judged binds later calls only.
    pub fn still_counts(&self, value: &SecretHash, now: Timestamp) -> Result<Timestamp, Refusal> {
        self.registry.still_counts(value, now)
    }

    /// Decides about a call. Whatever the outcome, `request` no longer carries the credential afterwards, its target is in the one form
    /// that was judged, and `call` says whose it was.
    pub fn admit(&self, rules: &Rules, call: &mut Call, request: &mut Parts) -> Result<Admitted, Turned> {
        let (route, charged) = self.decide(rules, call, request, &mut Binding)?;
        Ok(Admitted { route, charged, _made_by_the_gate: () })
    }

    /// The decision about a request. Answers its route and what is left of the caller's limits, where there is a caller.
    fn decide<T: Trace>(
        &self,
        rules: &Rules,
        call: &mut Call,
        request: &mut Parts,
        trace: &mut T,
    ) -> Result<(usize, Option<Charged>), Turned> {
        let acceptable = rules.acceptable.judge(request);
        let found = rules.find(request, trace);
        let route = found.as_ref().ok().map(|index| rules.route(*index));
        call.route = found.as_ref().ok().copied();
        trace.request(&acceptable);

        let sources = route.map_or(&rules.credentials, |route| &route.credentials);
        trace.places(route, sources, request);
        let taken = match route {
            Some(Route { access: Access::Public, .. }) => credential::clear(sources, request),
            Some(_) | None => credential::take(sources, request),
        };
        let identified = self.identify(trace.presented(taken), call);
        trace.identified(&identified);
        let peer = trace.peer(call);
        let client = peer.map(|peer| client::behind_proxies(&rules.trusted_proxies, peer, &request.headers)).transpose();
        trace.client(&client, peer);

        // What is wrong with the request itself never depends on the key, though the call is attributed to it.
        let client = client?;
        call.client = client.unwrap_or(call.client);
        let index = found?;
        acceptable?;
        let route = rules.route(index);
        if route.access == Access::Public {
            return Ok((index, None));
        }
        let asked = Asked { now: call.now, client, demand: Demand::Request { route, request }, cost: ONE };
        let charged = self.judge(rules, identified, &asked, trace)?;
        Ok((index, charged))
    }

    /// The part of the decision that depends on the key.
    fn judge<T: Trace>(
        &self,
        rules: &Rules,
        identified: Result<Arc<Entry>, Refusal>,
        asked: &Asked<'_>,
        trace: &mut T,
    ) -> Result<Option<Charged>, Turned> {
        let Asked { now, client, demand, .. } = asked;
        let entry = self.recognise(identified, asked, trace)?;
        let machine = entry.machine.state();
        let standing = match T::BINDS {
            true => entry.judge(&machine, now.wall),
            false => entry.foresee(&machine, now.wall, trace.knows_counts()),
        };
        trace.standing(standing, &entry, &machine, now.wall)?;
        trace.address(permit::address(&entry, *client), &entry, *client)?;
        trace.permissions(permit::permissions(&entry, &machine, demand), &entry, &machine, demand)?;
        trace.organization(permit::organization(&entry, &machine, demand), &entry, &machine, demand)?;
        self.charge(rules, &entry, &machine, asked, trace)
    }

    fn identify(&self, taken: Taken, call: &mut Call) -> Result<Arc<Entry>, Refusal> {
        let hash = taken.hash()?;
        let entry = self.registry.identify(&hash).ok_or(Refusal::KeyUnknown)?;
        call.entry = Some(entry.clone());
        Ok(entry)
    }

    /// Lets known values through whatever else their address tried; counts guesses, and past the limit says nothing more about
    /// them. A missing key is no guess, but past the limit it is not distinguished from one.
    fn recognise<T: Trace>(
        &self,
        identified: Result<Arc<Entry>, Refusal>,
        asked: &Asked<'_>,
        trace: &mut T,
    ) -> Result<Arc<Entry>, Refusal> {
        identified.map_err(|refusal| {
            let Some(ClientIp(ip)) = asked.client.filter(|_| trace.knows_counts()) else { return refusal };
            let retry_after = self.brake.is_past(ip, asked.now);
            trace.guessing(retry_after);
            if let Some(retry_after) = retry_after {
                return Refusal::TooManyFailures { retry_after };
            }
            if T::BINDS && refusal != Refusal::KeyMissing {
                self.brake.count_failure(ip, asked.now);
            }
            refusal
        })
    }

    fn charge<T: Trace>(
        &self,
        rules: &Rules,
        entry: &Entry,
        machine: &MachineState,
        asked: &Asked<'_>,
        trace: &mut T,
    ) -> Result<Option<Charged>, Turned> {
        // A tier that the settings lost would be no limit at all: the gate does not guess one.
        let (limits, bucket) = rules.limits(entry, machine).ok_or(Refusal::InternalError)?;
        let charged = match (T::BINDS, trace.knows_counts()) {
            (true, _) => charge(limits, bucket, asked.cost, asked.now).map(Some),
            (false, true) => foresee(limits, bucket, asked.cost, asked.now).map(Some),
            (false, false) => Ok(None),
        };
        trace.limits(&charged);
        Ok(charged?)
    }
}
