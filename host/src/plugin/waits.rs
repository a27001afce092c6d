//! The functions of WASI in which the host may wait on behalf of a plugin: for a file, a timer, an answer over HTTP.
//!
//! Guarantees: each of them ends at the deadline of the call that the plugin is in, and ends the call with it. What it began
//! is abandoned on a thread of [`super::host_calls`]. What is written without waiting for it is bounded for each stream.
//!
//! They are WASI's asynchronous functions, for which the calling thread waits here. WASI's own blocking ones wait without a
//! deadline. Asynchronous calls into the plugin would do as well, but each of them changes to another stack and back, which
//! takes longer than everything else that the host does about a small call.

use std::fmt;
use std::time::Instant;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, DirectoryEntryStream, HostDescriptor, HostDirectoryEntryStream, NewTimestamp, PathFlags,
};
use wasmtime_wasi::p2::bindings::io::poll::{self, HostPollable};
use wasmtime_wasi::p2::bindings::io::streams::{self, HostInputStream, HostOutputStream};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, StreamError};

use super::host_calls;
use super::state::State;
use super::wasi_files;

/// As `wasmtime-wasi` links them: plugins that import an older 0.2 find these.
const POLL: &str = "wasi:io/poll@0.2.12";
const STREAMS: &str = "wasi:io/streams@0.2.12";

/// The most bytes that one `write` hands over: as many as WASI's own streams allow when a plugin asks first. Those of files
/// don't hold a plugin to it, and the bytes lie in the host's memory until the file system has taken them.
const MOST_WRITTEN: usize = 64 * 1024;

/// A host function did not end before the deadline of the call that it was part of.
#[derive(Debug)]
pub(super) struct OutOfTime;

impl fmt::Display for OutOfTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host function that it called did not end in time")
    }
}

impl std::error::Error for OutOfTime {}

/// Waits for what a host function does, as long as the present call may take.
pub(super) fn until<F: Future>(deadline: Instant, future: F) -> wasmtime::Result<F::Output> {
    host_calls::wait(deadline, future).ok_or_else(|| OutOfTime.into())
}

type Call<'a> = StoreContextMut<'a, State>;

/// Replaces WASI's own functions, which are linked already.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    link_poll(linker)?;
    link_streams(linker)?;
    link_files(linker)
}

fn link_poll(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(POLL)?;
    interface.func_wrap("poll", |mut call: Call<'_>, (all,): (Vec<Resource<DynPollable>>,)| {
        let state = call.data_mut();
        Ok((until(state.deadline, poll::Host::poll(state.ctx().table, all))??,))
    })?;
    interface.func_wrap("[method]pollable.block", |mut call: Call<'_>, (one,): (Resource<DynPollable>,)| {
        let state = call.data_mut();
        until(state.deadline, state.ctx().table.block(one))?
    })?;
    interface.func_wrap("[method]pollable.ready", |mut call: Call<'_>, (one,): (Resource<DynPollable>,)| {
        let state = call.data_mut();
        Ok((until(state.deadline, HostPollable::ready(state.ctx().table, one))??,))
    })
}

fn link_streams(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(STREAMS)?;
    macro_rules! waits {
        ($name:literal, $trait:ident::$method:ident($stream:ty $(, $argument:ident: $kind:ty)*)) => {
            interface.func_wrap($name, |mut call: Call<'_>, (stream, $($argument),*): (Resource<$stream>, $($kind),*)| {
                let state = call.data_mut();
                let answer = until(state.deadline, $trait::$method(state.ctx().table, stream $(, $argument)*))?;
                Ok((state.stream_answer(answer)?,))
            })?;
        };
    }
    waits!("[method]input-stream.blocking-read", HostInputStream::blocking_read(DynInputStream, most: u64));
    waits!("[method]input-stream.blocking-skip", HostInputStream::blocking_skip(DynInputStream, most: u64));
    waits!("[method]output-stream.blocking-write-and-flush", HostOutputStream::blocking_write_and_flush(DynOutputStream, bytes: Vec<u8>));
    waits!("[method]output-stream.blocking-write-zeroes-and-flush", HostOutputStream::blocking_write_zeroes_and_flush(DynOutputStream, length: u64));
    waits!("[method]output-stream.blocking-flush", HostOutputStream::blocking_flush(DynOutputStream));
    waits!("[method]output-stream.blocking-splice", HostOutputStream::blocking_splice(DynOutputStream, from: Resource<DynInputStream>, most: u64));
    interface.func_wrap(
        "[method]output-stream.write",
        |mut call: Call<'_>, (stream, bytes): (Resource<DynOutputStream>, Vec<u8>)| {
            if bytes.len() > MOST_WRITTEN {
                let length = bytes.len();
                return Err(wasmtime::Error::msg(format!(
                    "it wrote {length} bytes to a stream at once; the most are {MOST_WRITTEN}"
                )));
            }
            let state = call.data_mut();
            let answer = HostOutputStream::write(state.ctx().table, stream, bytes);
            Ok((state.stream_answer(answer)?,))
        },
    )?;
    interface.resource("input-stream", ResourceType::host::<DynInputStream>(), |mut call: Call<'_>, number| {
        let state = call.data_mut();
        until(state.deadline, HostInputStream::drop(state.ctx().table, Resource::new_own(number)))?
    })?;
    interface.resource("output-stream", ResourceType::host::<DynOutputStream>(), |mut call: Call<'_>, number| {
        let state = call.data_mut();
        until(state.deadline, HostOutputStream::drop(state.ctx().table, Resource::new_own(number)))?
    })
}

fn link_files(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(wasi_files::INTERFACE)?;
    macro_rules! waits {
        ($name:literal, $method:ident($($argument:ident: $kind:ty),*)) => {
            interface.func_wrap(
                concat!("[method]descriptor.", $name),
                |mut call: Call<'_>, (at, $($argument),*): (Resource<Descriptor>, $($kind),*)| {
                    let state = call.data_mut();
                    let answer = until(state.deadline, state.filesystem().$method(at, $($argument),*))?;
                    Ok((state.file_answer(answer)?,))
                },
            )?;
        };
    }
    waits!("advise", advise(from: u64, length: u64, advice: Advice));
    waits!("get-flags", get_flags());
    waits!("get-type", get_type());
    waits!("metadata-hash", metadata_hash());
    waits!("metadata-hash-at", metadata_hash_at(links: PathFlags, path: String));
    waits!("read", read(length: u64, from: u64));
    waits!("readlink-at", readlink_at(path: String));
    waits!("set-size", set_size(size: u64));
    waits!("set-times", set_times(access: NewTimestamp, change: NewTimestamp));
    waits!("set-times-at", set_times_at(links: PathFlags, path: String, access: NewTimestamp, change: NewTimestamp));
    waits!("stat", stat());
    waits!("stat-at", stat_at(links: PathFlags, path: String));
    waits!("sync", sync());
    waits!("sync-data", sync_data());
    waits!("write", write(bytes: Vec<u8>, from: u64));
    interface.func_wrap(
        "[method]descriptor.is-same-object",
        |mut call: Call<'_>, (one, other): (Resource<Descriptor>, Resource<Descriptor>)| {
            let state = call.data_mut();
            Ok((until(state.deadline, state.filesystem().is_same_object(one, other))??,))
        },
    )?;
    interface.func_wrap(
        "[method]directory-entry-stream.read-directory-entry",
        |mut call: Call<'_>, (list,): (Resource<DirectoryEntryStream>,)| {
            let state = call.data_mut();
            let answer = until(state.deadline, state.filesystem().read_directory_entry(list))?;
            Ok((state.file_answer(answer)?,))
        },
    )
}

impl State {
    fn stream_answer<T>(
        &mut self,
        answer: Result<T, StreamError>,
    ) -> wasmtime::Result<Result<T, streams::StreamError>> {
        match answer {
            Ok(value) => Ok(Ok(value)),
            Err(error) => Ok(Err(streams::Host::convert_stream_error(self.ctx().table, error)?)),
        }
    }
}
