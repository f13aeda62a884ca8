//! `QuickSsm::load` of any bytes.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/fuzz_bodies/mod.rs"]
mod fuzz_bodies;
mod seeds;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write("load", fuzz_bodies::load::seeds()), |data: &[u8]| fuzz_bodies::load::run(data));
