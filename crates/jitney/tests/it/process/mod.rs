//! Worker processes: real ones, with real signals.

mod faults;
mod leaving;
mod payloads;
mod printing;
mod starting;
mod streams;
mod support;
mod trouble;
