//! The small API that `octroi demo` puts behind the gateway: a handful of sensors, told in JSON.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Starts the API on a free loopback port and a thread of its own, for as long as the process lives.
pub fn start() -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-sensors".into()).spawn(move || runtime.block_on(run(listener)))?;
    Ok(address)
}

async fn run(listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A connection that the gateway closes is no event here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let caller = request.headers().get("x-machine-name").and_then(|name| name.to_str().ok()).map(str::to_owned);
    let segments: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let (status, body) = match (request.method(), &segments[..]) {
        (&Method::GET, ["status"]) => (StatusCode::OK, json!({"status": "ok"})),
        (&Method::GET, ["v1", "sensors"]) => {
            (StatusCode::OK, json!({"data": (1..=3).map(sensor).collect::<Vec<_>>(), "called_by": caller}))
        }
        (&Method::GET, ["v1", "sensors", id]) => match id.parse().ok().filter(|id| (1..=3).contains(id)) {
            Some(id) => (StatusCode::OK, sensor(id)),
            None => (StatusCode::NOT_FOUND, json!({"error": "no such sensor"})),
        },
        (&Method::PUT, ["v1", "sensors", id, "config"]) => (StatusCode::OK, json!({"id": id, "configured_by": caller})),
        _ => (StatusCode::NOT_FOUND, json!({"error": "nothing here"})),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string() + "\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn sensor(id: u32) -> Value {
    const PLACES: [&str; 3] = ["quay", "bridge", "gate"];
    let place = PLACES[(id as usize) % PLACES.len()];
    json!({"id": id, "place": place, "celsius": 11.5 + f64::from(id)})
}
