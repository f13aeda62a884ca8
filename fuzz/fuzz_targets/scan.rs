//! `Scan` of any arguments and options.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/fuzz_bodies/mod.rs"]
mod fuzz_bodies;
mod seeds;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write("scan", fuzz_bodies::scan::seeds()), |data: &[u8]| fuzz_bodies::scan::run(data));
