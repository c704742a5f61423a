//! Models in Python, in real worker processes.

mod batched;
mod faults;
mod loading;
mod modes;
mod streams;
mod support;
