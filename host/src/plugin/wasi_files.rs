//! Reports what WASI refuses a plugin in its directories: changing one that it may only read, and leaving them. Refuses
//! what WASI doesn't: more open files and longer lists than [`super::open_files`] allows.
//!
//! Guarantees: each function answers as WASI's own does otherwise, and the log says what was refused, once for each version
//! and kind.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, Host, HostDescriptor, OpenFlags, PathFlags,
};

use super::log::Denied;
use super::open_files::{MOST_LISTED, is_too_long};
use super::state::State;
use super::waits::until;

/// As `wasmtime-wasi` links it: plugins that import an older 0.2 find this one.
pub(super) const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

/// Replaces WASI's own functions, which are linked already.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(INTERFACE)?;
    macro_rules! report_refused {
        ($name:literal, $method:ident($($argument:ident: $kind:ty),*), changes: $changes:expr $(, unless: $full:ident)?) => {
            interface.func_wrap(
                concat!("[method]descriptor.", $name),
                |mut store: StoreContextMut<'_, State>,
                 (at, $($argument),*): (Resource<Descriptor>, $($kind),*)| {
                    let (changes, state) = ($changes, store.data_mut());
                    $(if state.sandbox.$full() {
                        return Ok((Err(ErrorCode::Quota),));
                    })?
                    let answer = until(state.deadline, state.filesystem().$method(at, $($argument),*))?;
                    state.report_refused(answer, changes)
                },
            )?;
        };
    }
    report_refused!(
        "open-at",
        open_at(links: PathFlags, path: String, how: OpenFlags, flags: DescriptorFlags),
        changes: is_to_change(how, flags),
        unless: refuses_file
    );
    report_refused!("create-directory-at", create_directory_at(path: String), changes: true);
    report_refused!("remove-directory-at", remove_directory_at(path: String), changes: true);
    report_refused!("unlink-file-at", unlink_file_at(path: String), changes: true);
    report_refused!("rename-at", rename_at(path: String, to: Resource<Descriptor>, new: String), changes: true);
    report_refused!("link-at", link_at(links: PathFlags, path: String, to: Resource<Descriptor>, new: String), changes: true);
    report_refused!("symlink-at", symlink_at(path: String, new: String), changes: true);
    interface.func_wrap(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, State>, (at,): (Resource<Descriptor>,)| {
            let state = store.data_mut();
            let deadline = state.deadline;
            if until(deadline, state.refuses_list_of(&at))?? {
                return Ok((Err(ErrorCode::Quota),));
            }
            let answer = until(deadline, state.filesystem().read_directory(at))?;
            state.report_refused(answer, false)
        },
    )?;
    Ok(())
}

/// Whether a file is opened in order to create or change it.
fn is_to_change(how: OpenFlags, flags: DescriptorFlags) -> bool {
    how.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE)
        || flags.intersects(DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY)
}

impl State {
    /// WASI reads the whole directory into the host's memory when a list is asked for.
    async fn refuses_list_of(&mut self, at: &Resource<Descriptor>) -> wasmtime::Result<bool> {
        if self.sandbox.refuses_list() {
            return Ok(true);
        }
        let directory = match self.sandbox.wasi().table.get(at)? {
            Descriptor::Dir(directory) => Arc::clone(&directory.dir),
            Descriptor::File(_) => return Ok(false),
        };
        let found = tokio::task::spawn_blocking(move || is_too_long(&directory)).await;
        // What can't be looked at isn't read either.
        let refused = !matches!(found, Ok(Ok(false)));
        if refused {
            self.sandbox.log.warn_once(
                "list",
                &format!(
                    "the plugin asked for the list of a directory that has more than {MOST_LISTED} entries; it got none"
                ),
            );
        }
        Ok(refused)
    }

    fn report_refused<T>(&mut self, answer: FsResult<T>, changes: bool) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
        if let Err(error) = &answer
            && matches!(error.downcast_ref(), Some(ErrorCode::NotPermitted))
        {
            let reads_only = self.sandbox.grants.directories.iter().any(|directory| !directory.writable);
            match changes && reads_only {
                true => self.sandbox.denied(Denied::Writing, "it may only read there"),
                false => self.sandbox.denied(Denied::Outside, "it may not leave its directories"),
            }
        }
        Ok((self.file_answer(answer)?,))
    }

    pub(super) fn file_answer<T>(&mut self, answer: FsResult<T>) -> wasmtime::Result<Result<T, ErrorCode>> {
        match answer {
            Ok(value) => Ok(Ok(value)),
            Err(error) => Ok(Err(self.filesystem().convert_error_code(error)?)),
        }
    }
}
