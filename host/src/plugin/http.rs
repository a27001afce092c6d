//! Outgoing HTTP, to granted hosts only.
//!
//! Guarantees: a request to another host or port is refused before anything is sent, and told once; connecting (TLS
//! included), waiting for the answer's beginning and waiting for its next bytes each end within the call's time limit.
//! Redirects aren't followed: the plugin sees them, and where they lead needs a grant of its own.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, default_send_request};

use super::log::{Denied, PluginLog};
use crate::config::Grants;

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type HttpAnswer = Result<(http::Response<WasiBody>, Io), Error>;

pub(super) struct Gate {
    grants: Arc<Grants>,
    log: Arc<PluginLog>,
    pub time_limit: Duration,
}

impl Gate {
    pub fn new(grants: Arc<Grants>, log: Arc<PluginLog>, time_limit: Duration) -> Self {
        Self { grants, log, time_limit }
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
        _sent: Io,
    ) -> Box<dyn Future<Output = HttpAnswer> + Send> {
        let Some(target) = target(request.uri()) else { return Box::new(async { Err(Error::HttpRequestUriInvalid) }) };
        if !self.grants.http.contains(&target) {
            self.log.denied(Denied::Http(&target), "the request was refused", false);
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        let time_limit = self.time_limit;
        let wait = |chosen: Option<Duration>| Some(chosen.unwrap_or(time_limit).min(time_limit));
        let chosen = options.unwrap_or_default();
        let options = RequestOptions {
            connect_timeout: wait(chosen.connect_timeout),
            first_byte_timeout: wait(chosen.first_byte_timeout),
            between_bytes_timeout: wait(chosen.between_bytes_timeout),
        };
        Box::new(async move {
            let sending = tokio::time::timeout(time_limit, default_send_request(request, Some(options)));
            let (response, io) = sending.await.map_err(|_| Error::ConnectionTimeout)??;
            Ok((response.map(BodyExt::boxed_unsync), Box::new(io) as Io))
        })
    }
}

/// `host:port` in small letters, as grants are written.
fn target(uri: &http::Uri) -> Option<String> {
    let authority = uri.authority()?;
    let port = match (authority.port_u16(), uri.scheme_str()) {
        (Some(port), _) => port,
        (None, Some("https")) => 443,
        (None, _) => 80,
    };
    Some(format!("{}:{port}", authority.host().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_host_and_port() {
        for (uri, expected) in [
            ("https://Example.com/a?b", "example.com:443"),
            ("http://example.com", "example.com:80"),
            ("http://user:secret@example.com:8080/", "example.com:8080"),
            ("https://[::1]:9/", "[::1]:9"),
        ] {
            assert_eq!(target(&uri.parse().unwrap()).as_deref(), Some(expected), "{uri}");
        }
        assert_eq!(target(&"/only/a/path".parse().unwrap()), None);
    }
}
