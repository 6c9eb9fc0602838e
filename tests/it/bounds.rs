//! Nothing waits for ever and nothing grows without bound, whatever clients and upstreams leave undone.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::support::client::{Connection, eventually};
use crate::support::{Gateway, Reply, Upstream};

/// An upstream whose connections `serve` has to itself.
fn upstream(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads a head, and what came with it, from the gateway.
fn head(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => bytes.extend(&buffer[..read]),
            _ => return bytes,
        }
    }
    bytes
}

/// Whether the other side ended the connection, in whatever way, before the stream's own time ran out.
fn ends(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

#[test]
fn an_upload_that_an_early_answer_made_pointless_is_given_up_on_both_sides() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let address = upstream(move |mut stream| {
        head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        // It takes nothing of the upload until the client has had time to fill every buffer on the way.
        let _ = tell.lock().unwrap().send(stream);
    });
    let gateway = Gateway::on_real_time(address);
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.write_all(b"POST /status HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let mut held = told.recv_timeout(Duration::from_secs(20)).unwrap();
    // The upload goes on after the answer, for as long as anybody takes it.
    let mut sender = client.try_clone().unwrap();
    let upload = std::thread::spawn(move || {
        let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
        while sender.write_all(chunk.as_bytes()).is_ok() {}
    });
    assert!(ends(&mut client), "the client's connection is not kept for an upload that nobody takes");
    upload.join().unwrap();
    assert!(ends(&mut held), "nor the upstream's");
}

#[test]
fn a_cut_upload_never_looks_whole() {
    // The upstream sends without end while the client sends without end and takes nothing: the gateway cuts.
    let seen = Arc::new(std::sync::Mutex::new(None));
    let slot = seen.clone();
    let address = upstream(move |mut stream| {
        let mut got = head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let mut writer = stream.try_clone().unwrap();
        let answering = std::thread::spawn(move || {
            let chunk = format!("8000\r\n{}\r\n", "y".repeat(0x8000));
            while writer.write_all(chunk.as_bytes()).is_ok() {}
        });
        let mut buffer = [0; 64 * 1024];
        while let Ok(read) = stream.read(&mut buffer) {
            if read == 0 {
                break;
            }
            got.extend(&buffer[..read]);
        }
        let _ = stream.shutdown(Shutdown::Both);
        answering.join().unwrap();
        *slot.lock().unwrap() = Some(got);
    });
    let gateway = Gateway::on_real_time(address);
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.write_all(b"POST /status HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let mut sent = 0;
    while client.write_all(b"1\r\nx\r\n").is_ok() && sent < 1_000_000 {
        sent += 1;
        if seen.lock().unwrap().is_some() {
            break;
        }
        std::thread::yield_now();
    }
    let got = eventually("the end of the upload", || seen.lock().unwrap().take());
    assert!(!got.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&got[got.len().saturating_sub(40)..]));
    assert_eq!(gateway.log_lines(1)[0]["verdict"], "client_closed");
}

#[test]
fn a_client_that_reads_slowly_slows_the_upstream_down() {
    let written = Arc::new(AtomicU64::new(0));
    let counted = written.clone();
    let (stopped, stalls) = mpsc::channel();
    let stopped = std::sync::Mutex::new(stopped);
    let address = upstream(move |mut stream| {
        head(&mut stream);
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
        let chunk = vec![b'y'; 256 * 1024];
        while let Ok(n) = stream.write(&chunk) {
            counted.fetch_add(n as u64, Ordering::Relaxed);
        }
        let _ = stopped.lock().unwrap().send(());
    });
    let gateway = Gateway::on_real_time(address);
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut connection = gateway.connect();
        connection.request("GET", "/status", &[], None);
        connections.push(connection);
    }
    for _ in 0..20 {
        stalls.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    // What the kernel's buffers of two sockets take, and little more, of twenty gigabytes.
    let mib = written.load(Ordering::Relaxed) / (1024 * 1024);
    assert!(mib < 20 * 64, "{mib} MiB");
    eventually("the stalled clients' end", || {
        let lines = std::fs::read_to_string(gateway.dir().join("access.log")).unwrap_or_default();
        (lines.lines().count() == 20).then_some(())
    });
    for line in gateway.log_lines(20) {
        assert_ne!(line["verdict"], "ok", "{line}");
    }
}

#[test]
fn interim_answers_without_end_are_no_answer() {
    let address = upstream(|mut stream| {
        head(&mut stream);
        let storm = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n".repeat(100);
        while stream.write_all(storm.as_bytes()).is_ok() {}
    });
    let gateway = Gateway::on_real_time(address);
    let mut connection = gateway.connect();
    connection.request("POST", "/status", &[], Some(b"x"));
    connection.answer().refused(504, "upstream_timeout");
    // The worker serves others meanwhile.
    let mut connection = gateway.connect();
    connection.request("GET", "/nowhere", &[], None);
    connection.answer().refused(404, "route_not_found");
}

#[test]
fn t079_extensions_and_trailers_without_end_are_refused() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let endless: [(&str, String); 5] = [
        ("", format!("1;{}", "a".repeat(20_000))),
        ("", "1;a=b\r\nx\r\n".repeat(20_000)),
        ("0\r\n", "X: y\r\n".repeat(20_000)),
        ("0\r\n", format!("X: {}\r\n", "y".repeat(200_000))),
        ("0\r\n", format!("{}: y\r\n", "y".repeat(200_000))),
    ];
    for (begin, rest) in &endless {
        let mut connection = gateway.connect();
        connection.send(format!("POST /status HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{begin}"));
        connection.try_send(rest);
        connection.answer().refused(400, "bad_request");
    }
    assert_eq!(upstream.received().len(), 0);
}

#[test]
fn a_silent_upload_and_a_silent_upstream_both_end() {
    let address = upstream(|mut stream| {
        head(&mut stream);
        let _ = ends(&mut stream);
    });
    let gateway = Gateway::on_real_time(address);
    // A client that sends on while the upstream takes everything and says nothing is bounded by the client's own end.
    let mut connection = gateway.connect();
    connection.send("POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n1234");
    connection.answer().refused(504, "upstream_timeout");
}

#[test]
fn an_upstream_that_takes_no_upload_is_504() {
    let (hold, held) = mpsc::channel();
    let hold = std::sync::Mutex::new(hold);
    let address = upstream(move |stream| drop(hold.lock().unwrap().send(stream)));
    let gateway = Gateway::on_real_time(address);
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.write_all(b"POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n").unwrap();
    let mut sender = client.try_clone().unwrap();
    let upload = std::thread::spawn(move || {
        let chunk = vec![b'x'; 64 * 1024];
        while sender.write_all(&chunk).is_ok() {}
    });
    let answer = String::from_utf8(head(&mut client)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(ends(&mut client));
    upload.join().unwrap();
    assert!(ends(&mut held.recv().unwrap()));
}

#[test]
fn draining_under_load_loses_no_call() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let address = gateway.address();
    let (answered, told_to_close) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (answered, told_to_close) = (answered.clone(), told_to_close.clone());
            std::thread::spawn(move || {
                // Clients go on, each on a new connection when the last was closed, until nobody listens any more.
                while TcpStream::connect(address).is_ok() {
                    let Ok(mut connection) = std::panic::catch_unwind(|| Connection::open(address)) else { return };
                    for call in 0.. {
                        if !connection.try_send("GET /status HTTP/1.1\r\nHost: a\r\n\r\n") && call == 0 {
                            break;
                        }
                        let answer = match connection.try_answer_to("GET") {
                            Some(answer) => answer,
                            // The kernel shook hands for a listener that was closed before it could accept: nobody saw that call.
                            None if call == 0 => break,
                            None => panic!("call {call} of a connection was lost"),
                        };
                        assert_eq!(answer.status, 200);
                        answered.fetch_add(1, Ordering::Relaxed);
                        if answer.header("connection") == Some("close") {
                            told_to_close.fetch_add(1, Ordering::Relaxed);
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    eventually("some load", || (answered.load(Ordering::Relaxed) > 500).then_some(()));
    let cut = gateway.drain().join().unwrap();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(cut, 0);
    assert!(told_to_close.load(Ordering::Relaxed) >= 16);
}

#[test]
fn whatever_way_a_client_leaves_its_call_is_one_line_and_one_count() {
    let upstream = Upstream::answering(|request| match request.line.as_bytes()[5] {
        b'h' => Reply::ThenHang(Vec::new()),
        _ => Reply::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n{}", "z".repeat(3_000_000)).into_bytes()),
    });
    let settings = crate::support::gateway::settings(upstream.address).replace("'/status/{*rest}'", "'/{*rest}'");
    let gateway = Gateway::with(settings, octroi::clock::Clock::system());
    const EACH: usize = 10;
    for _ in 0..EACH {
        for how in ["fin", "reset", "half"] {
            for begun in ["GET /hang HTTP/1.1\r\nHost: a\r\n\r\n", "GET /big HTTP/1.1\r\nHost: a\r\n\r\n", UPLOAD] {
                let mut client = TcpStream::connect(gateway.address()).unwrap();
                client.write_all(begun.as_bytes()).unwrap();
                if begun.contains("big") {
                    // Some of the answer is on its way.
                    let mut byte = [0];
                    client.read_exact(&mut byte).unwrap();
                }
                match how {
                    "reset" => socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap(),
                    "half" => {
                        client.shutdown(Shutdown::Write).unwrap();
                        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                        assert!(ends(&mut client));
                    }
                    _ => {}
                }
            }
        }
    }
    let lines = gateway.log_lines(EACH * 9 - EACH * 2);
    let gone = eventually("all calls", || {
        let metrics = gateway.metrics();
        let counted: f64 = metrics
            .lines()
            .filter(|line| line.starts_with("octroi_requests_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum();
        let lines = std::fs::read_to_string(gateway.dir().join("access.log")).unwrap().lines().count();
        (lines as f64 == counted && lines >= EACH * 7).then_some(lines)
    });
    assert!(gone <= EACH * 9, "{gone} lines");
    for line in lines {
        let verdict = line["verdict"].as_str().unwrap();
        // A half-closed upload is a body that ended too early, which can still be answered.
        assert!(["client_closed", "bad_request", "ok"].contains(&verdict), "{line}");
        assert!(verdict != "ok" || line["sent_bytes"] == 3_000_000, "{line}");
    }
}

const UPLOAD: &str = "POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf";

#[test]
fn t166_the_memory_of_a_process_stays_bounded_under_half_heads() {
    const HEADS: usize = 1_000;
    let site = crate::support::process::Site::new();
    let served = site.start();
    let status = format!("/proc/{}/status", served.id());
    let kib = |field: &str| -> usize {
        let text = std::fs::read_to_string(&status).unwrap();
        text.lines().find_map(|line| line.strip_prefix(field)).and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok()).unwrap()
    };
    let before = kib("VmRSS");
    // Just under the default bound of 32 KiB.
    let half = format!("GET /v1/sensors HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(31 * 1024));
    let mut clients: Vec<Connection> = (0..HEADS).map(|_| Connection::open(served.public)).collect();
    clients.iter_mut().for_each(|client| client.send(&half));
    clients.iter_mut().for_each(|client| client.answer().refused(408, "request_timeout"));
    // 78 KiB each were seen in a debug build, where a head of 31 KiB is held in up to twice its room; ten times that would be another design.
    let grown = kib("VmHWM").saturating_sub(before);
    assert!(grown < HEADS * 780, "{grown} KiB for {HEADS} half heads");
    assert_eq!(Connection::open(served.public).get("/nowhere", &[]).status, 404);
    println!("{grown} KiB for {HEADS} half heads");
}

#[test]
fn t166_half_heads_are_answered_and_given_back() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let half = format!("GET /status HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(15 * 1024));
    let mut clients = Vec::new();
    for _ in 0..1_000 {
        let mut client = Connection::open(gateway.address());
        client.send(&half);
        clients.push(client);
    }
    for client in &mut clients {
        client.answer().refused(408, "request_timeout");
    }
    assert_eq!(gateway.get("/status", &[]).status, 200);
}
