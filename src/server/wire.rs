//! The framing guard: the stream that hyper's HTTP/1 server reads from, and what stands between it and the socket. hyper
//! only ever sees whole heads that were judged good, and bodies that are what their heads said.
//!
//! In the common case one read brings one whole head: it is judged where it stands in hyper's buffer. Only the
//! part of a head that a read leaves unfinished is copied out and held until the rest has come.
//!
//! A head that is refused never reaches hyper. A fixed one is delivered in its place, so that the service is called
//! and answers as for any request; nothing is read after it.

mod bytes;
mod chunks;
mod head;
mod host;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::model::Tick;

use super::link::{Link, Order, Phase};
use super::{Anomaly, Stats};
use chunks::{Chunks, Progress};
use head::{Framing, Judge, Ruling};

pub use head::Rules;

/// What hyper reads in the place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: octroi.invalid\r\nconnection: close\r\n\r\n";

/// How much of what a client still sends is thrown away after the last answer, in bytes.
const LINGER_SIZE: usize = 64 * 1024;

/// A byte stream that can also be broken off.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Makes closing a reset that discards what was not sent yet, so that a stalled client holds no kernel memory either, and a half
    /// answer does not end as a whole one would.
    fn abandon(&self);
}

impl Stream for TcpStream {
    fn abandon(&self) {
        // A socket that is gone already needs no abandoning.
        let _ = self.set_zero_linger();
    }
}

/// A guarded stream.
pub struct Wire<I: Stream> {
    stream: I,
    link: Arc<Link>,
    clock: Clock,
    stats: Arc<Stats>,
    rules: Rules,
    place: Place,
    then: Then,
    /// Bytes taken from the socket and not given to hyper: the first `ready` of them are judged and on their way, the
    /// rest is the beginning of a head. Its memory is given back when it is empty.
    held: Vec<u8>,
    given: usize,
    ready: usize,
    /// When the first byte came of the head that is being judged.
    began: Tick,
    /// The client closed its side.
    ended: bool,
    closing: Option<Closing>,
}

/// Where in the stream of requests the next byte stands.
enum Place {
    Head(Judge),
    /// Bytes left of a body with a length.
    Sized(u64),
    Chunked(Chunks),
}

/// What comes after the bytes that were judged good.
#[derive(Clone, Copy)]
enum Then {
    /// More from the socket.
    Read,
    /// The stand-in for a refused head.
    StandIn,
    /// Nothing, and no end either: hyper would take an end for the client's leaving and drop the answer.
    Nothing,
    /// A body's error.
    Fail(Anomaly),
}

/// Our side is closed; so many of the client's bytes were thrown away since.
struct Closing {
    discarded: usize,
}

impl<I: Stream> Wire<I> {
    pub fn new(stream: I, link: Arc<Link>, clock: Clock, stats: Arc<Stats>, rules: Rules) -> Wire<I> {
        Wire {
            stream,
            link,
            clock,
            stats,
            rules,
            place: Place::Head(Judge::default()),
            then: Then::Read,
            held: Vec::new(),
            given: 0,
            ready: 0,
            began: Tick::default(),
            ended: false,
            closing: None,
        }
    }

    /// Gives hyper held bytes that were judged. Whether there were any.
    fn give_held(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let len = (self.ready - self.given).min(buf.remaining());
        buf.put_slice(&self.held[self.given..self.given + len]);
        self.given += len;
        if self.given == self.ready && self.ready > 0 {
            self.held.drain(..self.ready);
            if self.held.is_empty() {
                self.held = Vec::new();
            }
            self.given = 0;
            self.ready = 0;
        }
        len > 0
    }

    /// Judges the bytes that were read into `buf` after its first `before`, and leaves there what hyper may see now.
    fn take(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        self.link.read_moved();
        if self.held.is_empty() {
            let good = self.judge(&buf.filled()[before..]);
            if let Then::Read = self.then {
                self.held.extend_from_slice(&buf.filled()[before + good..]);
            }
            buf.set_filled(before + good);
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(&buf.filled()[before..]);
            buf.set_filled(before);
            self.ready = self.judge(&held);
            if !matches!(self.then, Then::Read) {
                held.truncate(self.ready);
            }
            self.held = held;
        }
    }

    /// How many of the bytes hyper may see. Those after them are the beginning of a head, or of no use to anybody.
    /// `bytes` begin where the last judged byte ended.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.place {
                Place::Head(judge) => {
                    if self.link.phase() != Phase::Head {
                        self.began = self.clock.now().tick;
                    }
                    match judge.advance(rest, &self.rules) {
                        Ruling::Complete { len, framing } => {
                            at += len;
                            self.head_ends(framing);
                        }
                        Ruling::Incomplete => {
                            self.link.enter(Phase::Head);
                            return at;
                        }
                        Ruling::Refused(anomaly) => {
                            self.refuse(anomaly);
                            return at;
                        }
                    }
                }
                Place::Sized(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    at += taken;
                    *left -= taken as u64;
                    if *left == 0 {
                        self.body_ends();
                    }
                }
                Place::Chunked(chunks) => match chunks.advance(rest) {
                    Progress::Open => return bytes.len(),
                    Progress::Done(len) => {
                        at += len;
                        self.body_ends();
                    }
                    Progress::Bad(len, what) => {
                        self.fail(Anomaly::Malformed(what));
                        return at + len;
                    }
                },
            }
        }
        at
    }

    fn head_ends(&mut self, framing: Framing) {
        self.link.head_delivered(self.began);
        let (place, phase) = match framing {
            Framing::Empty => (Place::Head(Judge::default()), Phase::Between),
            Framing::Length(length) => (Place::Sized(length), Phase::Body),
            Framing::Chunked => (Place::Chunked(Chunks::new(self.rules.header_count)), Phase::Body),
        };
        self.place = place;
        self.link.enter(phase);
    }

    fn body_ends(&mut self) {
        self.place = Place::Head(Judge::default());
        self.link.enter(Phase::Between);
    }

    /// Puts the stand-in where the head is.
    fn refuse(&mut self, anomaly: Anomaly) {
        self.link.head_delivered(self.began);
        self.link.head_refused(anomaly);
        self.link.enter(Phase::Refused);
        self.then = Then::StandIn;
    }

    fn fail(&mut self, anomaly: Anomaly) {
        if anomaly != Anomaly::TimedOut {
            self.stats.anomalies.add();
        }
        self.link.enter(Phase::Refused);
        self.then = Then::Fail(anomaly);
    }

    /// Does what the sweep ordered for want of bytes. Whether that changed what hyper is to see.
    fn obey(&mut self) -> bool {
        let order = self.link.order();
        if order == Order::None {
            return false;
        }
        self.link.give(Order::None);
        match (order, self.link.phase()) {
            (Order::CloseFresh, Phase::Fresh) => {
                self.stats.first_byte_timeouts.add();
                self.ended = true;
            }
            (Order::CloseIdle, Phase::Between) => {
                self.stats.idle_timeouts.add();
                self.ended = true;
            }
            (Order::CloseDraining, Phase::Fresh | Phase::Between) => self.ended = true,
            (Order::EndHead, Phase::Head) => {
                self.stats.head_timeouts.add();
                self.held = Vec::new();
                self.refuse(Anomaly::TimedOut);
            }
            (Order::EndBody, Phase::Body) => {
                self.stats.body_timeouts.add();
                self.fail(Anomaly::TimedOut);
            }
            // Bytes came between the order and now.
            _ => return false,
        }
        true
    }
}

impl<I: Stream> AsyncRead for Wire<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let before = buf.filled().len();
        loop {
            if wire.give_held(buf) || wire.ended {
                return Poll::Ready(Ok(()));
            }
            match wire.then {
                Then::Read => {}
                Then::StandIn => {
                    wire.held = STAND_IN.to_vec();
                    wire.ready = STAND_IN.len();
                    wire.then = Then::Nothing;
                    continue;
                }
                Then::Nothing => return Poll::Pending,
                Then::Fail(anomaly) => return Poll::Ready(Err(anomaly.into_io())),
            }
            match Pin::new(&mut wire.stream).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() == before => wire.ended = true,
                Poll::Ready(Ok(())) => wire.take(buf, before),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if wire.obey() => {}
                Poll::Pending => {
                    wire.link.read_waits();
                    return Poll::Pending;
                }
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: Stream> Wire<I> {
    /// Keeps the time for how long the client takes nothing.
    fn written<T>(&self, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match progress {
            Poll::Pending => self.link.write_waits(),
            Poll::Ready(_) => self.link.write_moved(),
        }
        progress
    }

    /// Reads on, for a while, and throws away: a socket that is closed with unread bytes resets the connection, and a
    /// reset can overtake the answer (RFC 9112 section 9.6). Past `LINGER_SIZE` it only waits, so that the client's
    /// sending stalls and it looks for the answer; the sweep ends that.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(closing) = &mut self.closing else { return Poll::Ready(Ok(())) };
        let mut scratch = [0; 4096];
        while closing.discarded < LINGER_SIZE {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => closing.discarded += buf.filled().len(),
                _ => return Poll::Ready(Ok(())),
            }
        }
        Poll::Pending
    }
}

impl<I: Stream> AsyncWrite for Wire<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let progress = Pin::new(&mut wire.stream).poll_write(cx, bytes);
        wire.written(progress)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let progress = Pin::new(&mut wire.stream).poll_write_vectored(cx, parts);
        wire.written(progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.closing.is_none() {
            ready!(Pin::new(&mut wire.stream).poll_shutdown(cx))?;
            wire.closing = Some(Closing { discarded: 0 });
            wire.held = Vec::new();
            wire.link.enter(Phase::Lingering);
        }
        wire.linger(cx)
    }
}

impl<I: Stream> Drop for Wire<I> {
    fn drop(&mut self) {
        if self.link.ends_in_reset() {
            self.stream.abandon();
        }
    }
}
