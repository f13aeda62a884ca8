#!/usr/bin/env bash
# Installs a CUDA toolkit (nvcc, headers, libraries to link against) into a folder of its own, from NVIDIA's Python
# wheels: without root, a driver or a GPU. What it gives compiles and links this crate with `--features cuda`.
#
#     eval "$(scripts/cuda-toolkit.sh [FOLDER])"      # default: ~/.cache/cuda-13.0; instant from the second time on
#
# Prints the environment to use it with; CUDA_COMPUTE_CAP is left alone where it is set.
# Needs python3 with pip, gcc and awk.
set -euo pipefail

folder=${1:-$HOME/.cache/cuda-13.0}
toolkit=$folder/nvidia/cu13

# One release of the toolkit: nvcc does not work with the parts of another.
wheels=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-curand==10.4.0.35 nvidia-cublas==13.0.2.14
)

unpack() {
  local wheel library name
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$scratch" "${wheels[@]}"
  mkdir -p "$folder"
  for wheel in "$scratch"/*.whl; do python3 -m zipfile -e "$wheel" "$folder"; done
  # archives of this kind carry no permissions
  chmod +x "$toolkit"/bin/* "$toolkit"/nvvm/bin/*
  ln -sfn lib "$toolkit/lib64"
  # the linker looks for names without versions, which wheels leave out
  for library in "$toolkit"/lib/lib*.so.*; do
    name=$(basename "$library")
    [[ $name == *.alt.* ]] || ln -sf "$name" "$toolkit/lib/${name%%.so.*}.so"
  done
}

# The driver's own library comes with a driver alone. Every call of this one answers CUDA_ERROR_NO_DEVICE (100), so
# that programs link with it, start, and find no device.
make_driver_stub() {
  local header=$toolkit/include/cuda.h stubs=$toolkit/lib/stubs
  mkdir -p "$stubs"
  {
    grep -ohE '\bcu[A-Z][A-Za-z0-9]*(_v[0-9]+|_ptsz|_ptds)*' "$header"
    # bindings also use names that the header makes by macros
    grep -ohE '\bcu[A-Z][A-Za-z0-9]*' "$header" | sed 's/$/_v2/'
  } | sort -u | awk '{ print "int " $1 "(void) { return 100; }" }' >"$scratch/stub.c"
  gcc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$stubs/libcuda.so" "$scratch/stub.c"
  ln -sf libcuda.so "$stubs/libcuda.so.1"
}

if [[ ! -e $folder/.complete ]]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  { unpack && make_driver_stub; } >&2
  touch "$folder/.complete"
fi

cat <<EOF
export CUDA_HOME='$toolkit'
export PATH='$toolkit/bin':"\$PATH"
export LIBRARY_PATH='$toolkit/lib:$toolkit/lib/stubs'\${LIBRARY_PATH:+:"\$LIBRARY_PATH"}
export CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-90}"
EOF
