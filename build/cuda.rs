//! The kernels in `cuda/` as PTX, for the compute capability of this machine's card or of `CUDA_COMPUTE_CAP`.

use std::env;
use std::fs;
use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use bindgen_cuda::Builder;

/// The first capability with bf16.
const LEAST_CAPABILITY: u32 = 80;

pub fn build() {
    println!("cargo::rerun-if-changed=build/cuda.rs");
    // the folder, so that a new file counts as well
    println!("cargo::rerun-if-changed=cuda");
    for variable in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Err(message) = compile() {
        println!("cargo::error={message}");
    }
}

fn compile() -> Result<(), String> {
    let toolkit = toolkit()?;
    let capability = capability()?;
    // the builder looks for it there, and panics where it does not find it
    env::set_var("CUDA_COMPUTE_CAP", capability.to_string());
    println!("cargo::rustc-env=QUICK_SSM_COMPUTE_CAP={capability}");

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("expected cargo to set OUT_DIR")?);
    remove_ptx(&out).map_err(|error| format!("cannot remove the old PTX in {}: {error}", out.display()))?;
    let mut builder = Builder::default()
        .kernel_paths(files("cu")?)
        .include_paths(files("cuh")?)
        .compute_cap(capability as usize)
        .arg("-std=c++17")
        .arg("-O3");
    builder.cuda_root(toolkit);

    // the builder panics where nvcc fails: nvcc has said why by then
    panic::set_hook(Box::new(|_| {}));
    let compiled = panic::catch_unwind(|| builder.build_ptx().map(drop));
    drop(panic::take_hook());
    if !matches!(compiled, Ok(Ok(()))) {
        println!("cargo::error=nvcc could not compile the kernels in cuda/ for compute capability {capability}");
        process::exit(1);
    }
    write_kernels(&out)
}

/// Writes the list of all kernels, each by its name and in PTX of its own.
///
/// The driver compiles what it loads as a whole: of the dozen kernels of a file a call needs one.
fn write_kernels(out: &Path) -> Result<(), String> {
    let mut list = String::from("const KERNELS: &[(&str, &str)] = &[\n");
    for file in files("cu")? {
        let path = out.join(file.with_extension("ptx").file_name().unwrap_or_default());
        let failed = |what: &str, path: &Path, error| format!("cannot {what} {}: {error}", path.display());
        let ptx = fs::read_to_string(&path).map_err(|error| failed("read", &path, error))?;
        let kernels = kernels(&ptx).filter(|kernels| !kernels.is_empty());
        for (name, ptx) in kernels.ok_or_else(|| format!("expected kernels in {}", path.display()))? {
            let path = out.join(&name).with_extension("ptx");
            fs::write(&path, ptx).map_err(|error| failed("write", &path, error))?;
            list += &format!("    ({name:?}, include_str!({path:?})),\n");
        }
    }
    fs::write(out.join("kernels.rs"), list + "];\n")
        .map_err(|error| format!("cannot write the list of kernels: {error}"))
}

/// The kernels in PTX as nvcc writes it, by their names: each with all that is not a kernel. `None` where one has no end.
fn kernels(ptx: &str) -> Option<Vec<(String, String)>> {
    let (mut shared, mut found) = (String::new(), Vec::new());
    let mut lines = ptx.split_inclusive('\n');
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix(".visible .entry ") else {
            shared += line;
            continue;
        };
        let mut kernel = String::from(line);
        while !kernel.ends_with("\n}\n") {
            kernel += lines.next()?;
        }
        found.push((rest.trim_end().trim_end_matches('(').to_string(), kernel));
    }
    Some(found.into_iter().map(|(name, kernel)| (name, format!("{shared}{kernel}"))).collect())
}

/// Stale PTX looks up to date to the builder, which only compares it with the `.cu` file of its name.
fn remove_ptx(out: &Path) -> io::Result<()> {
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ptx") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The files in `cuda/` with an extension, in the order of their names.
fn files(extension: &str) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("cannot read the folder cuda/: {error}");
    let entries = fs::read_dir("cuda").and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == extension));
    paths.sort();
    Ok(paths)
}

/// The folder of the CUDA toolkit, whose nvcc comes first in `PATH` from here on.
fn toolkit() -> Result<PathBuf, String> {
    let variables = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
    let named = variables.into_iter().filter_map(env::var_os).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    // nvcc may be a link into the toolkit, or in a toolkit spread over the system's folders
    let found = env::split_paths(&path).map(|folder| folder.join("nvcc")).filter(|nvcc| nvcc.is_file());
    let around = found.flat_map(|nvcc| [nvcc.canonicalize().ok(), Some(nvcc)]).flatten();
    let around = around.filter_map(|nvcc| Some(nvcc.parent()?.parent()?.to_path_buf()));
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"].map(PathBuf::from);
    let mut candidates = named.chain(around).chain(usual);
    let root = candidates.find(|root| root.join("include/cuda.h").is_file()).ok_or(
        "the feature cuda needs the CUDA toolkit: no include/cuda.h in CUDA_HOME, CUDA_PATH, around an nvcc in PATH, \
         or in /usr/local/cuda",
    )?;
    let first = env::join_paths([root.join("bin")].into_iter().chain(env::split_paths(&path)));
    env::set_var("PATH", first.map_err(|error| format!("PATH: {error}"))?);
    Ok(root)
}

/// The compute capability to compile for, 90 for 9.0.
fn capability() -> Result<u32, String> {
    let (text, whose) = match env::var("CUDA_COMPUTE_CAP") {
        Ok(text) => (text, "CUDA_COMPUTE_CAP"),
        Err(_) => (card()?, "the compute capability of this machine's card"),
    };
    let wrong = |what: &str| format!("{whose}: expected {what}, got {text}");
    let capability = text.trim().parse().map_err(|_| wrong("a number such as 80 or 90, without a letter"))?;
    if capability < LEAST_CAPABILITY {
        return Err(wrong(&format!("at least {LEAST_CAPABILITY}, which bf16 needs")));
    }
    let supported = supported()?;
    if !supported.contains(&capability) {
        return Err(wrong(&format!("one that this nvcc compiles for, of {supported:?}")));
    }
    Ok(capability)
}

/// That of the first card, as the driver gives it.
fn card() -> Result<String, String> {
    let query = Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output();
    let text =
        query.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    let first = text.as_deref().and_then(|text| text.lines().next()).map(|line| line.trim().replace('.', ""));
    first.filter(|capability| !capability.is_empty()).ok_or_else(|| {
        "the feature cuda needs to know the card: set CUDA_COMPUTE_CAP to its compute capability, such as 80 or 90; \
         nvidia-smi does not give it"
            .into()
    })
}

/// Those that nvcc compiles for.
fn supported() -> Result<Vec<u32>, String> {
    let output = Command::new("nvcc").arg("--list-gpu-code").output();
    let output = output.map_err(|error| format!("the feature cuda needs nvcc, which does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let codes: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("sm_")?.parse().ok()).collect();
    if codes.is_empty() {
        return Err("the feature cuda needs nvcc, which does not say what it compiles for".into());
    }
    Ok(codes)
}
