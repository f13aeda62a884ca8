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
exec valgrind --quiet --error-exitcode=1 "$binary" cpu:: --test-threads 1
