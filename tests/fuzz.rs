//! The bodies of the fuzz targets on their seeds, and on many variations of them.

mod common;
mod fuzz_bodies;

use common::rng;
use fuzz_bodies::{load, scan};
use rand::rngs::SmallRng;
use rand::Rng;

/// A seed with some bytes changed, cut out or put in.
fn vary(rng: &mut SmallRng, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..8) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..4) {
            0 => bytes.insert(at, rng.random()),
            1 => bytes.extend((0..rng.random_range(0..32)).map(|_| rng.random::<u8>())),
            _ if at == bytes.len() => {}
            2 => bytes[at] = rng.random(),
            _ => _ = bytes.remove(at),
        }
    }
    bytes
}

/// The same variations in every run.
fn run(target: fn(&[u8]), seeds: &[Vec<u8>], variations: usize) {
    seeds.iter().for_each(|seed| target(seed));
    let mut rng = rng(11);
    for _ in 0..variations {
        let seed = &seeds[rng.random_range(0..seeds.len())];
        target(&vary(&mut rng, seed));
    }
}

#[test]
fn files() {
    let mut seeds = load::seeds();
    run(load::run, &seeds, 200);
    // where most changes are in the header
    seeds.retain(|seed| seed.len() < 1_200);
    run(load::run, &seeds, 2_000);
}

#[test]
fn scans() {
    run(scan::run, &scan::seeds(), 800);
}
