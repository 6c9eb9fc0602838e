//! What a caller is told about its limits: the `RateLimit` and `RateLimit-Policy` fields of the IETF httpapi draft,
//! which are structured fields (RFC 9651): lists of strings with integer parameters.

use bytes::{BufMut, BytesMut};

use crate::model::Window;

/// One window as a call left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowState {
    pub window: Window,
    /// Calls per window.
    pub quota: u32,
    /// Seconds that the current window has: 82 800, 86 400 or 90 000 for a day.
    pub length: u32,
    /// Calls that would be let in now, one after the other.
    pub remaining: u32,
    /// Seconds, rounded up, until `remaining` grows; 0 when nothing is used.
    pub more_in: u32,
}

const NOTHING: WindowState = WindowState { window: Window::Second, quota: 0, length: 0, remaining: 0, more_in: 0 };

/// All windows of a tier after a judgement, shortest first; none for a tier without limits.
#[derive(Clone, Debug)]
pub struct Charged {
    windows: [WindowState; Window::ALL.len()],
    len: u8,
    /// The day and the month that the call was counted in.
    pub(super) periods: [i32; 2],
}

impl Charged {
    pub(super) fn new(periods: [i32; 2]) -> Charged {
        Charged { windows: [NOTHING; Window::ALL.len()], len: 0, periods }
    }

    /// A tier names each window at most once, so there is always room.
    pub(super) fn push(&mut self, window: WindowState) {
        if let Some(free) = self.windows.get_mut(usize::from(self.len)) {
            *free = window;
            self.len += 1;
        }
    }

    pub fn windows(&self) -> &[WindowState] {
        &self.windows[..usize::from(self.len)]
    }

    /// The window with the least left, of several the one that frees up last: what the `X-RateLimit-*` fields show.
    pub fn tightest(&self) -> Option<&WindowState> {
        self.windows().iter().min_by_key(|w| (w.remaining, std::cmp::Reverse(w.more_in)))
    }

    /// `"minute";q=60;w=60, "day";q=10000;w=86400`
    pub fn write_policy(&self, into: &mut BytesMut) {
        self.write(into, |window, into| {
            parameter(into, b";q=", window.quota);
            parameter(into, b";w=", window.length);
        });
    }

    /// `"minute";r=41;t=1, "day";r=8210;t=40321`
    pub fn write_limit(&self, into: &mut BytesMut) {
        self.write(into, |window, into| {
            parameter(into, b";r=", window.remaining);
            parameter(into, b";t=", window.more_in);
        });
    }

    fn write(&self, into: &mut BytesMut, parameters: impl Fn(&WindowState, &mut BytesMut)) {
        for (place, window) in self.windows().iter().enumerate() {
            if place > 0 {
                into.put_slice(b", ");
            }
            into.put_u8(b'"');
            into.put_slice(window.window.name().as_bytes());
            into.put_u8(b'"');
            parameters(window, into);
        }
    }
}

impl PartialEq for Charged {
    fn eq(&self, other: &Charged) -> bool {
        self.windows() == other.windows()
    }
}

impl Eq for Charged {}

fn parameter(into: &mut BytesMut, name: &[u8], value: u32) {
    into.put_slice(name);
    into.put_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charged(windows: &[(Window, u32, u32, u32, u32)]) -> Charged {
        let mut charged = Charged::new([0, 0]);
        for &(window, quota, length, remaining, more_in) in windows {
            charged.push(WindowState { window, quota, length, remaining, more_in });
        }
        charged
    }

    #[test]
    fn the_fields_are_written_as_published() {
        let (mut policy, mut limit) = (BytesMut::new(), BytesMut::new());
        let both = charged(&[(Window::Minute, 60, 60, 41, 1), (Window::Day, 10_000, 86_400, 8_210, 40_321)]);
        both.write_policy(&mut policy);
        both.write_limit(&mut limit);
        assert_eq!(policy, r#""minute";q=60;w=60, "day";q=10000;w=86400"#);
        assert_eq!(limit, r#""minute";r=41;t=1, "day";r=8210;t=40321"#);
    }

    #[test]
    fn a_tier_without_limits_writes_nothing() {
        let mut text = BytesMut::new();
        charged(&[]).write_policy(&mut text);
        charged(&[]).write_limit(&mut text);
        assert!(text.is_empty() && charged(&[]).tightest().is_none());
    }

    #[test]
    fn the_tightest_window_has_the_least_left_and_frees_up_last() {
        for (windows, tightest) in [
            (vec![(Window::Minute, 60, 60, 41, 1), (Window::Day, 100, 86_400, 40, 9)], Window::Day),
            (vec![(Window::Minute, 60, 60, 3, 1), (Window::Day, 100, 86_400, 40, 9)], Window::Minute),
            (vec![(Window::Minute, 60, 60, 0, 1), (Window::Day, 100, 86_400, 0, 9)], Window::Day),
        ] {
            assert_eq!(charged(&windows).tightest().unwrap().window, tightest);
        }
    }
}
