//! The admin plane on a thread and runtime of its own, so that nothing an operator asks holds up a call.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::StartError;
use crate::admin::{self, Admin, AdminSocket, Tls};
use crate::config::Settings;

pub struct AdminThread {
    /// Where it listens besides the socket, port resolved.
    pub address: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl AdminThread {
    /// Binds the socket and what the settings ask for besides, and serves until stopped.
    pub fn start(admin: Admin, settings: &Settings) -> Result<AdminThread, StartError> {
        let bind = |what: &'static str, address: Option<SocketAddr>| {
            let listener = address.map(|address| {
                TcpListener::bind(address).map_err(|source| StartError::Io { what: format!("{what}: cannot bind {address}"), source })
            });
            listener.transpose()
        };
        let tls = settings.admin.tls.as_ref().map(Tls::load).transpose()?;
        let tcp = bind("admin.bind", settings.admin.bind)?;
        let telemetry = bind("telemetry.bind", settings.telemetry)?;
        let address = tcp.as_ref().and_then(|listener| listener.local_addr().ok());
        let listeners = admin::Listeners { socket: Some(AdminSocket::bind(&settings.admin.socket)?), tcp, tls, telemetry };

        let (stop, stopped) = oneshot::channel::<()>();
        let io = |source| StartError::Io { what: "cannot start the admin thread".into(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let serve = move || {
            let stopped = async {
                // Either the word or the end of whoever could say it.
                let _ = stopped.await;
            };
            if let Err(error) = runtime.block_on(admin::serve(Arc::new(admin), listeners, stopped)) {
                tracing::error!(%error, "the admin plane stopped");
            }
        };
        let thread = std::thread::Builder::new().name("octroi-admin".into()).spawn(serve).map_err(io)?;
        Ok(AdminThread { address, stop, thread })
    }

    /// Lets open requests finish, and waits for that.
    pub fn stop(self) {
        drop(self.stop);
        // A panic of the thread was reported when it happened.
        let _ = self.thread.join();
    }
}
