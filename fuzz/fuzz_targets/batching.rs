//! Whatever happens to a batcher, in whatever order: every request is answered once, with its own answer, and counted once.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| jitney::batch::simulation::play(script));
