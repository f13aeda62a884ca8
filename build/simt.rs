//! The kernels and the machine that emulates a GPU for them, compiled by the C++ compiler of this machine.

/// The machine, the kernels with two sets of tiles, and their test in C++.
const SOURCES: [&str; 7] =
    ["simt.cpp", "launch.cpp", "kernels_real.cpp", "kernels_tiny.cpp", "problem.cpp", "check.cpp", "selftest.cpp"];

pub fn build() {
    for watched in ["build/simt.rs", "tests/simt", "cuda"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // more takes longer to compile than the tests take to run
        .opt_level(1)
        // threads switch by longjmp between stacks, which the fortified one takes for an error
        .flag("-U_FORTIFY_SOURCE")
        // kernels leave parameters and variables of some of their forms unused
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-Wno-unused-variable")
        .include("tests/simt")
        .define("QUICK_SSM_SIMT_LIBRARY", None)
        .files(SOURCES.map(|name| format!("tests/simt/{name}")))
        .compile("quick_ssm_simt");
}
