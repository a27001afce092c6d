//! Outgoing HTTP, to granted hosts only.
//!
//! Guarantees: a request to another host, port or scheme is refused before anything is sent, and reported once for each
//! target; what is granted is sent by [`HttpClient`], which bounds it. Redirects aren't followed: the plugin sees them, and
//! where they lead needs a grant of its own.

use std::sync::Arc;
use std::time::Duration;

use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::http_client::{HttpAnswer, HttpClient, HttpIo, Target, Waits};
use super::log::{Denied, PluginLog};
use crate::config::Grants;

pub(super) struct Gate {
    grants: Arc<Grants>,
    log: Arc<PluginLog>,
    /// `None`: there is no grant for HTTP.
    client: Option<Arc<HttpClient>>,
    pub time_limit: Duration,
}

impl Gate {
    pub fn new(
        grants: Arc<Grants>,
        log: Arc<PluginLog>,
        client: Option<Arc<HttpClient>>,
        time_limit: Duration,
    ) -> Self {
        Self { grants, log, client, time_limit }
    }

    fn is_granted(&self, target: &Target) -> bool {
        let granted = |grant: &String| *grant == target.to_string() || *grant == target.with_scheme();
        self.grants.http.iter().any(granted)
    }
}

/// What the body of a request may hold in the host's memory: chunks (beside the one that is being sent) and their size.
const BODY_CHUNKS: usize = 1;
const BODY_CHUNK_BYTES: usize = 16 * 1024;

impl WasiHttpHooks for Gate {
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: HttpIo,
    ) -> Box<dyn Future<Output = HttpAnswer> + Send> {
        let Some(target) = Target::of(request.uri()) else {
            return Box::new(async { Err(Error::HttpRequestUriInvalid) });
        };
        let client = match &self.client {
            Some(client) if self.is_granted(&target) => Arc::clone(client),
            _ => {
                self.log.denied(Denied::Http(&target.to_string()), "the request was refused", false);
                return Box::new(async { Err(Error::HttpRequestDenied) });
            }
        };
        let time_limit = self.time_limit;
        let wait = |chosen: Option<Duration>| chosen.unwrap_or(time_limit).min(time_limit);
        let chosen = options.unwrap_or_default();
        let waits = Waits {
            whole: time_limit,
            connect: wait(chosen.connect_timeout),
            first_byte: wait(chosen.first_byte_timeout),
            between_bytes: wait(chosen.between_bytes_timeout),
        };
        Box::new(client.send(request, target, waits))
    }
}
