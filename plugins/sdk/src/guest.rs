//! Connects the contract's functions to a [`Transform`]: each instance has one value of the author's type, which
//! `configure` makes.
//!
//! Guarantees: the panic hook and the logger are set before any code of the plugin's author runs.

use std::cell::RefCell;
use std::panic::PanicHookInfo;

use crate::bindings::reduct_sink::transform::host;
use crate::{Failure, Host, Label, Message, Record, Transform, Verdict, config};

/// Makes a type that implements [`Transform`] the plugin that this crate builds. Call it once in a crate.
#[macro_export]
macro_rules! plugin {
    ($plugin:ty) => {
        const _: () = {
            ::std::thread_local! {
                static PLUGIN: ::std::cell::RefCell<::std::option::Option<$plugin>> =
                    const { ::std::cell::RefCell::new(::std::option::Option::None) };
            }

            struct Component;

            impl $crate::bindings::exports::reduct_sink::transform::transformer::Guest for Component {
                fn configure(config: ::std::string::String) -> ::std::result::Result<(), ::std::string::String> {
                    PLUGIN.with(|plugin| $crate::guest::configure(plugin, &config))
                }

                fn transform(message: $crate::Message) -> ::std::result::Result<$crate::Verdict, $crate::Failure> {
                    PLUGIN.with(|plugin| $crate::guest::transform(plugin, &message))
                }
            }

            #[cfg(target_arch = "wasm32")]
    $crate::bindings::export_transformer!(Component with_types_in $crate::bindings);
        };
    };
}

#[doc(hidden)]
pub fn configure<T: Transform>(plugin: &RefCell<Option<T>>, config: &str) -> Result<(), String> {
    std::panic::set_hook(Box::new(|panic| host::log(host::Level::Error, &described(panic))));
    if log::set_logger(&HostLog).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    let configured = T::configure(config::parse(config)?)?;
    plugin.replace(Some(configured));
    Ok(())
}

/// The panic's text and place on one line, which the host makes the reason of the failure.
fn described(panic: &PanicHookInfo<'_>) -> String {
    let text = panic.payload_as_str().unwrap_or("a value that is no text").replace('\n', " ");
    match panic.location() {
        Some(place) => format!("panic: {text} ({}:{})", place.file(), place.line()),
        None => format!("panic: {text}"),
    }
}

#[doc(hidden)]
pub fn transform<T: Transform>(plugin: &RefCell<Option<T>>, message: &Message) -> Result<Verdict, Failure> {
    match plugin.borrow_mut().as_mut() {
        Some(plugin) => plugin.transform(&Record::new(message, &Imports)),
        None => Err(Failure::Reject("the plugin was not configured before its first record".into())),
    }
}

/// The host's functions, as a component imports them.
struct Imports;

impl Host for Imports {
    fn payload(&self) -> Vec<u8> {
        host::payload()
    }

    fn read(&self, offset: u64, length: u32) -> Vec<u8> {
        host::read(offset, length)
    }

    fn entry(&self) -> String {
        host::entry()
    }

    fn labels(&self) -> Vec<Label> {
        host::labels()
    }

    fn content_type(&self) -> String {
        host::content_type()
    }
}

/// A logger that writes the messages of the crate `log` to the host's log.
struct HostLog;

impl log::Log for HostLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Debug
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => host::Level::Error,
            log::Level::Warn => host::Level::Warn,
            log::Level::Info => host::Level::Info,
            log::Level::Debug | log::Level::Trace => host::Level::Debug,
        };
        if self.enabled(record.metadata()) {
            host::log(level, &record.args().to_string());
        }
    }

    fn flush(&self) {}
}
