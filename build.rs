//! Compiles the kernels in `cuda/` for the features that run them; without these it does nothing.

#[cfg(feature = "cuda")]
#[path = "build/cuda.rs"]
mod cuda;
#[cfg(feature = "simt")]
#[path = "build/simt.rs"]
mod simt;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda::build();
    #[cfg(feature = "simt")]
    simt::build();
}
