#!/usr/bin/env python3
"""Compiles the kernels in cuda/ and holds the registers and spilled bytes of each against cuda/ptxas-limits.txt.

    scripts/check-ptxas.py            fails where a kernel takes more than its limit, or is new, or missing
    scripts/check-ptxas.py --update   makes what the kernels take now the limits

Needs nvcc: scripts/cuda-toolkit.sh gets one. Another release of nvcc allocates registers differently, so the limits
hold for the release that they name.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

CUDA = pathlib.Path(__file__).resolve().parent.parent / "cuda"
LIMITS = CUDA / "ptxas-limits.txt"
ARCHITECTURES = ["sm_80", "sm_90"]

FUNCTION = re.compile(r"Function properties for (\w+)")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def compile_one(job):
    """What ptxas says about the kernels of one file on one architecture: {(architecture, kernel): numbers}."""
    architecture, source = job
    command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-Xptxas", "-v", "-cubin", "-o", os.devnull, source]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{run.stdout}{run.stderr}")
    used, kernel, spilled = {}, None, None
    for line in run.stderr.splitlines() + run.stdout.splitlines():
        if match := FUNCTION.search(line):
            kernel = match[1]
        elif match := SPILLS.search(line):
            spilled = int(match[1]), int(match[2])
        elif match := REGISTERS.search(line):
            used[architecture, kernel] = (int(match[1]), *spilled)
    if not used:
        sys.exit(f"no kernel in {source} for {architecture}:\n{run.stdout}{run.stderr}")
    return used


def release():
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release [\d.]+", text)[0]


def write_limits(used):
    lines = [
        f"# nvcc {release()}: the most that each kernel may take. Written by scripts/check-ptxas.py --update",
        f"# {'kernel':<46} {'registers':>9} {'spill stores':>13} {'spill loads':>12}",
    ]
    for (architecture, kernel), (registers, stores, loads) in sorted(used.items()):
        lines.append(f"{architecture} {kernel:<42} {registers:>9} {stores:>13} {loads:>12}")
    LIMITS.write_text("\n".join(lines) + "\n")


def read_limits():
    limits = {}
    for line in LIMITS.read_text().splitlines():
        if line and not line.startswith("#"):
            architecture, kernel, *numbers = line.split()
            limits[architecture, kernel] = tuple(map(int, numbers))
    return limits


def complaints(used, limits):
    for key in sorted(used.keys() | limits.keys()):
        name = " ".join(key)
        if key not in limits:
            yield f"{name}: has no limit"
        elif key not in used:
            yield f"{name}: has a limit, but there is no such kernel"
        elif any(now > most for now, most in zip(used[key], limits[key])):
            yield f"{name}: registers, spill stores, spill loads are {used[key]}, the limits {limits[key]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the limits instead of checking them")
    arguments = parser.parse_args()

    jobs = [(architecture, source) for architecture in ARCHITECTURES for source in sorted(CUDA.glob("*.cu"))]
    used = {}
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        for result in pool.map(compile_one, jobs):
            used.update(result)

    if arguments.update:
        write_limits(used)
        print(f"{LIMITS.name}: {len(used)} limits written")
        return
    if (named := LIMITS.read_text().splitlines()[0]) and f"{release()}:" not in named:
        print(f"warning: {LIMITS.name} is of another release of nvcc than this {release()}", file=sys.stderr)
    found = list(complaints(used, read_limits()))
    if found:
        sys.exit("\n".join([*found, f"Where that is wanted: scripts/check-ptxas.py --update, and say why."]))
    print(f"{len(used)} kernels within {LIMITS.name}")


if __name__ == "__main__":
    main()
