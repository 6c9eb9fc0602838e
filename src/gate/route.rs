//! Which route a request takes: a segment tree for each host.
//!
//! A route is a candidate when host, path and method all match. Among candidates an exact host beats none; then, segment by segment from
//! the left, a literal beats a parameter beats a rest (which also matches nothing); then listed methods beat any. The tree is walked
//! in that order and the first hit wins, going back where a branch leads nowhere.

use std::collections::HashMap;

use http::Method;

use crate::config::{Route, Segment};
use crate::model::Refusal;

/// The routes of the settings, named by their index there.
pub struct Routes {
    by_host: HashMap<String, Node>,
    any_host: Node,
}

#[derive(Default)]
struct Node {
    literals: HashMap<String, Node>,
    parameter: Option<Box<Node>>,
    /// Routes whose pattern ends here.
    end: Methods,
    /// Routes whose pattern ends here in a rest.
    rest: Methods,
}

/// The routes at one end of the tree, by method.
#[derive(Default)]
struct Methods {
    listed: Vec<(Method, usize)>,
    any: Option<usize>,
}

impl Routes {
    pub fn new(routes: &[Route]) -> Routes {
        let mut tree = Routes { by_host: HashMap::new(), any_host: Node::default() };
        for (index, route) in routes.iter().enumerate() {
            let root = match &route.host {
                Some(host) => tree.by_host.entry(host.clone()).or_default(),
                None => &mut tree.any_host,
            };
            root.insert(&route.pattern.segments, route.methods.as_deref(), index);
        }
        tree
    }

    /// The index of the route for a request; `path` is in its one form.
    pub fn find(&self, host: Option<&str>, path: &str, method: &Method) -> Result<usize, Refusal> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let exact = host.and_then(|host| self.by_host.get(host));
        let mut allowed = Vec::new();
        exact
            .into_iter()
            .chain([&self.any_host])
            .find_map(|root| root.find(Some(path), method, &mut allowed))
            .ok_or(if allowed.is_empty() { Refusal::RouteNotFound } else { Refusal::MethodNotAllowed(sorted(allowed)) })
    }
}

impl Node {
    fn insert(&mut self, segments: &[Segment], methods: Option<&[Method]>, index: usize) {
        match segments {
            [] => self.end.add(methods, index),
            [Segment::Rest(_), ..] => self.rest.add(methods, index),
            [Segment::Literal(text), tail @ ..] => self.literals.entry(text.clone()).or_default().insert(tail, methods, index),
            [Segment::Parameter(_), tail @ ..] => self.parameter.get_or_insert_default().insert(tail, methods, index),
        }
    }

    /// `path` is what is left of it, without its leading slash; `None` when nothing is left. Methods of routes that match but for the
    /// method are added to `allowed`.
    fn find(&self, path: Option<&str>, method: &Method, allowed: &mut Vec<Method>) -> Option<usize> {
        let Some(path) = path else {
            return self.end.find(method, allowed).or_else(|| self.rest.find(method, allowed));
        };
        let (segment, left) = match path.split_once('/') {
            Some((segment, left)) => (segment, Some(left)),
            None => (path, None),
        };
        if let Some(index) = self.literals.get(segment).and_then(|node| node.find(left, method, allowed)) {
            return Some(index);
        }
        if let Some(index) = self.parameter.as_ref().filter(|_| !segment.is_empty()).and_then(|node| node.find(left, method, allowed)) {
            return Some(index);
        }
        self.rest.find(method, allowed)
    }
}

impl Methods {
    fn add(&mut self, methods: Option<&[Method]>, index: usize) {
        match methods {
            Some(methods) => self.listed.extend(methods.iter().map(|method| (method.clone(), index))),
            None => self.any = Some(index),
        }
    }

    fn find(&self, method: &Method, allowed: &mut Vec<Method>) -> Option<usize> {
        let found = self.listed(method).or_else(|| self.head_as_get(method)).or(self.any);
        if found.is_none() {
            allowed.extend(self.listed.iter().map(|(method, _)| method.clone()));
        }
        found
    }

    fn listed(&self, method: &Method) -> Option<usize> {
        self.listed.iter().find(|(listed, _)| listed == method).map(|(_, index)| *index)
    }

    /// HEAD is GET without the body (RFC 9110 section 9.3.2): a route that lists GET takes it, unless HEAD is listed.
    fn head_as_get(&self, method: &Method) -> Option<usize> {
        (method == Method::HEAD).then(|| self.listed(&Method::GET)).flatten()
    }
}

/// What `Allow` says: each method once, HEAD where GET is.
fn sorted(mut methods: Vec<Method>) -> Vec<Method> {
    if methods.contains(&Method::GET) {
        methods.push(Method::HEAD);
    }
    methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    methods.dedup();
    methods
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    /// Routes named by what they match: `host path methods`.
    fn routes(rows: &[(&str, Option<&str>, &str, &str)]) -> (Routes, Vec<String>) {
        let mut text = "upstreams: {api: {targets: ['http://127.0.0.1:1']}}\nroutes:\n".to_owned();
        for (name, host, path, methods) in rows {
            let host = host.map_or(String::new(), |host| format!("host: {host}, "));
            let methods = if methods.is_empty() { String::new() } else { format!(", methods: [{methods}]") };
            text += &format!("  {name}: {{match: {{{host}path: '{path}'{methods}}}, permission: any, upstream: api}}\n");
        }
        let settings = config::parse(&text, Path::new("test.yaml"), &|_| None).unwrap_or_else(|findings| panic!("{findings}"));
        (Routes::new(&settings.routes), settings.routes.iter().map(|route| route.name.clone()).collect())
    }

    #[test]
    fn the_most_exact_route_wins() {
        let (tree, names) = routes(&[
            ("hosted", Some("api.test"), "/v1/{*rest}", ""),
            ("list", None, "/v1/sensors", "GET"),
            ("one", None, "/v1/sensors/{id}", ""),
            ("config", None, "/v1/sensors/{id}/config", "PUT, PATCH"),
            ("latest", None, "/v1/sensors/latest", "GET"),
            ("post", None, "/v1/sensors/{id}/config", ""),
            ("rest", None, "/v1/sensors/{*rest}", ""),
            ("deep", None, "/v1/{a}/x/{b}", ""),
            ("slash", None, "/v1/list/", ""),
            ("all", None, "/{*rest}", "GET"),
        ]);
        let found = |host, path, method: &str| match tree.find(host, path, &method.parse().unwrap()) {
            Ok(index) => names[index].clone(),
            Err(Refusal::MethodNotAllowed(methods)) => methods.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(","),
            Err(refusal) => refusal.code().as_str().to_owned(),
        };
        for (host, path, method, expected) in [
            (None, "/v1/sensors", "GET", "list"),
            (None, "/v1/sensors", "HEAD", "list"),
            (None, "/v1/sensors", "POST", "rest"),
            (None, "/v1/sensors/", "POST", "rest"),
            (None, "/v1/sensors/7", "GET", "one"),
            (None, "/v1/sensors/latest", "GET", "latest"),
            (None, "/v1/sensors/latest", "DELETE", "one"),
            (None, "/v1/sensors/latest/config", "PUT", "config"),
            (None, "/v1/sensors/7/config", "PATCH", "config"),
            (None, "/v1/sensors/7/config", "GET", "post"),
            (None, "/v1/sensors/7/other", "GET", "rest"),
            (None, "/v1/sensors/x/y", "GET", "rest"),
            (None, "/v1/cars/x/y", "POST", "deep"),
            (None, "/v1/cars/x/y/z", "GET", "all"),
            (None, "/v1/cars/x/y/z", "POST", "GET,HEAD"),
            (None, "/v1/list/", "PUT", "slash"),
            (None, "/v1/list", "PUT", "GET,HEAD"),
            (None, "/", "GET", "all"),
            (None, "/V1/sensors", "DELETE", "GET,HEAD"),
            (Some("api.test"), "/v1/sensors", "GET", "hosted"),
            (Some("api.test"), "/v2", "GET", "all"),
            (Some("other.test"), "/v1/sensors", "GET", "list"),
        ] {
            assert_eq!(found(host, path, method), expected, "{host:?} {path} {method}");
        }
    }

    #[test]
    fn no_route_is_not_found() {
        let (tree, _) = routes(&[("one", Some("api.test"), "/v1/{id}", "GET")]);
        for (host, path) in [
            (None, "/v1/7"),
            (Some("x.test"), "/v1/7"),
            (Some("api.test"), "/v1"),
            (Some("api.test"), "/v1/"),
            (Some("api.test"), "/v1/7/8"),
        ] {
            assert_eq!(tree.find(host, path, &Method::GET), Err(Refusal::RouteNotFound), "{host:?} {path}");
        }
    }
}
