#!/usr/bin/env bash
# The tests of the CPU kernels under valgrind's memcheck, whole scans among them: in plain Rust and with AVX2; valgrind knows no
# AVX-512.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(cargo test --locked --no-run --lib --message-format json |
  python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "quick_ssm":
        print(message["executable"])')
test -n "$binary"
# tiled sequences are long: one dtype of them will do, for the others differ in what short ones read and write as well
skip=(--skip going_through_changes_no_gradient)
for dtype in bf16 f16 f64; do
  skip+=(--skip "kept_terms_change_nothing_in_$dtype")
done
exec valgrind --quiet --error-exitcode=1 "$binary" cpu:: "${skip[@]}" --test-threads 1
