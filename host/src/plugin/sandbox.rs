//! One instance's side of WASI: what its grants open, and what it gets instead of what isn't granted.
//!
//! Guarantees: without a grant there are no files, no environment, no arguments and no network.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView};

use super::http::Gate;
use super::http_client::HttpClient;
use super::log::{Denied, PluginLog};
use super::memory::MAX_HANDLES;
use super::open_files::{MOST_LISTS, MOST_OPEN, OpenFiles, OwnFiles, holds_all_lists};
use super::printout::{LogStream, Printer, Printout};
use crate::config::Grants;

/// The most bytes of randomness that one call gets.
pub(super) const MAX_RANDOM: u64 = 1 << 20;
/// The most bytes of an HTTP message's headers. There may be as many messages as handles.
const HEADER_BYTES: usize = 8 * 1024;

pub(super) struct Sandbox {
    /// The longest that a wait may take: the time limit of the present call.
    pub time_limit: Duration,
    pub grants: Arc<Grants>,
    pub log: Arc<PluginLog>,
    /// What the plugin printed during the present call.
    pub printout: Arc<Printout>,
    /// The time since the instance's start, for a plugin without a real clock.
    pub elapsed: Duration,
    /// Started again with each record.
    pub random: Option<fastrand::Rng>,
    /// The instance isn't configured yet.
    is_starting: bool,
    wasi: WasiCtx,
    resources: ResourceTable,
    http: WasiHttpCtx,
    gate: Gate,
    files: OwnFiles,
}

impl Sandbox {
    /// Fails if something that is granted doesn't exist.
    pub fn new(
        grants: &Arc<Grants>,
        log: &Arc<PluginLog>,
        http_client: Option<&Arc<HttpClient>>,
        files: &Arc<OpenFiles>,
        time_limit: Duration,
    ) -> Result<Self, String> {
        let printout = Arc::new(Printout::new(log.clone()));
        let mut wasi = WasiCtx::builder();
        wasi.stdout(LogStream::new(printout.clone(), Printer::Output))
            .stderr(LogStream::new(printout.clone(), Printer::Error))
            .max_random_size(MAX_RANDOM);
        let denied = log.clone();
        // Names aren't looked up either: that is WASI's own default.
        wasi.socket_addr_check(move |_, _| {
            denied.denied(Denied::Sockets, "it can't connect, bind or listen", false);
            Box::pin(async { false })
        });
        for (name, value) in &grants.environment {
            let value = match value {
                Some(value) => value.to_string(),
                None => std::env::var(name).map_err(|_| format!("the host's environment has no {name}"))?,
            };
            wasi.env(name, value);
        }
        for directory in &grants.directories {
            let permissions = if directory.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(&directory.path, &directory.guest, permissions)
                .map_err(|error| format!("the directory {} can't be opened: {error:#}", directory.path.display()))?;
        }
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(MAX_HANDLES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADER_BYTES);
        Ok(Self {
            time_limit,
            grants: grants.clone(),
            log: log.clone(),
            printout,
            elapsed: Duration::ZERO,
            random: None,
            is_starting: true,
            wasi: wasi.build(),
            resources,
            http,
            gate: Gate::new(grants.clone(), log.clone(), http_client.cloned(), time_limit),
            files: OwnFiles::new(files),
        })
    }

    /// From now on waits are bounded by the time limit of `transform`.
    pub fn started(&mut self, timeout: Duration) {
        self.time_limit = timeout;
        self.gate.time_limit = timeout;
        self.is_starting = false;
    }

    /// Reports what the plugin asked for in vain.
    pub fn denied(&self, what: Denied<'_>, instead: &str) {
        self.log.denied(what, instead, self.is_starting);
    }

    /// The next call is about another record.
    pub fn next_record(&mut self) {
        self.random = None;
        self.files.recount(&mut self.resources);
    }

    /// Whether the plugin has as many files open as it may.
    pub fn refuses_file(&mut self) -> bool {
        let full = !self.files.may_open(&mut self.resources);
        if full {
            self.log.warn_once(
                "files",
                &format!("the plugin's instances have {MOST_OPEN} files open, which are the most; it got no other"),
            );
        }
        full
    }

    /// Whether the plugin holds as many lists of directories as it may.
    pub fn refuses_list(&mut self) -> bool {
        let full = holds_all_lists(&mut self.resources);
        if full {
            self.log.warn_once(
                "lists",
                &format!("the plugin holds {MOST_LISTS} lists of directories, which are the most; it got no other"),
            );
        }
        full
    }

    pub fn wasi(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }

    pub fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.resources, hooks: &mut self.gate }
    }
}
