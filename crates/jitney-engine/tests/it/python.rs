//! Models in Python, in real worker processes.

mod faults;
mod loading;
mod modes;
mod support;
