//! The suites, one module each: `tests/run NAME` runs the tests of module NAME.

mod check;
mod dead_letters;
mod faults;
mod languages;
