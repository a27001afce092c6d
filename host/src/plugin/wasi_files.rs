//! Reports what WASI refuses a plugin in its directories: changing one that it may only read, and leaving them.
//!
//! Guarantees: each function answers as WASI's own does, and the log says what was refused, once for each version and kind.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, Host, HostDescriptor, OpenFlags, PathFlags,
};

use super::log::Denied;
use super::state::State;

/// As `wasmtime-wasi` links it: plugins that import an older 0.2 find this one.
const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

/// Replaces WASI's own functions, which are linked already.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(INTERFACE)?;
    macro_rules! report_refused {
        ($name:literal, $method:ident($($argument:ident: $kind:ty),*), changes: $changes:expr) => {
            interface.func_wrap_async(
                concat!("[method]descriptor.", $name),
                |mut store: StoreContextMut<'_, State>,
                 (at, $($argument),*): (Resource<Descriptor>, $($kind),*)| {
                    Box::new(async move {
                        let changes = $changes;
                        let answer = store.data_mut().filesystem().$method(at, $($argument),*).await;
                        store.data_mut().report_refused(answer, changes)
                    })
                },
            )?;
        };
    }
    report_refused!(
        "open-at",
        open_at(links: PathFlags, path: String, how: OpenFlags, flags: DescriptorFlags),
        changes: is_to_change(how, flags)
    );
    report_refused!("create-directory-at", create_directory_at(path: String), changes: true);
    report_refused!("remove-directory-at", remove_directory_at(path: String), changes: true);
    report_refused!("unlink-file-at", unlink_file_at(path: String), changes: true);
    report_refused!("rename-at", rename_at(path: String, to: Resource<Descriptor>, new: String), changes: true);
    report_refused!("link-at", link_at(links: PathFlags, path: String, to: Resource<Descriptor>, new: String), changes: true);
    report_refused!("symlink-at", symlink_at(path: String, new: String), changes: true);
    Ok(())
}

/// Whether a file is opened in order to create or change it.
fn is_to_change(how: OpenFlags, flags: DescriptorFlags) -> bool {
    how.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE)
        || flags.intersects(DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY)
}

impl State {
    fn report_refused<T>(&mut self, answer: FsResult<T>, changes: bool) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
        let error = match answer {
            Ok(value) => return Ok((Ok(value),)),
            Err(error) => error,
        };
        if matches!(error.downcast_ref(), Some(ErrorCode::NotPermitted)) {
            let reads_only = self.sandbox.grants.directories.iter().any(|directory| !directory.writable);
            match changes && reads_only {
                true => self.sandbox.denied(Denied::Writing, "it may only read there"),
                false => self.sandbox.denied(Denied::Outside, "it may not leave its directories"),
            }
        }
        Ok((Err(self.filesystem().convert_error_code(error)?),))
    }
}
