#!/usr/bin/env python3
"""Measures the scan against what JAX and Torch offer on the CPU, on the same cores, and prints a Markdown table.

    cargo build --release --example bandwidth
    scripts/compare.py --cores 0,1 --keep-memory

Runs `bandwidth --table against` first, and then, on the same shapes, whatever of these Python has installed:

- JAX's `lax.scan` over time, compiled, its arguments time-major so that it need not transpose them;
- JAX's `lax.associative_scan`, compiled;
- Torch, step by step, as a reference implementation does it.

Each gets arguments of the same size and distribution, carries its state in f32, and returns `y` and, for "both", the
gradients of all four arguments for a given gradient of `y`. Before it is measured, each is held to plain loops in f64.
What is measured is a median of calls after the first ones, which compile; their arguments rotate through more than the
caches hold. A call that takes long is repeated less often.
"""

import argparse
import importlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLD_BYTES = 256 << 20
WORKS = ("forward", "both")
# no block of memory has a mapping of its own, and none goes back to the system
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(256 << 20)}


def main():
    args = arguments()
    if args.keep_memory and not KEEP_MEMORY.items() <= os.environ.items():
        # glibc reads them when a program starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    if args.cores:
        os.sched_setaffinity(0, args.cores)
    threads = len(os.sched_getaffinity(0))
    for name in ("RAYON_NUM_THREADS", "CANDLE_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"

    ours, problems = bandwidth(args)
    contenders, versions = [], {}
    for library, make in (("jax", jax_contenders), ("torch", torch_contenders)):
        try:
            module = importlib.import_module(library)
        except ImportError as error:
            print(f"{library}: left out, {error}")
            continue
        versions[library] = module.__version__
        contenders += make(module, threads)
    np = importlib.import_module("numpy") if contenders else None
    for contender in contenders:
        check(np, contender)

    names = [*next(iter(ours.values())), *(contender.name for contender in contenders)]
    about = ", ".join(f"{library} {version}" for library, version in versions.items())
    memory = "kept" if args.keep_memory else "as the system's allocator has it"
    print(f"CPU, {threads} threads, memory {memory}{about and ', ' + about}")
    print("ms, and in brackets as a multiple of the first\n")
    print(f"| work | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    rows = []
    for work, dtype, shape in problems:
        ms = dict(ours[work, dtype, shape])
        for contender in contenders:
            ms[contender.name] = measure(np, contender, work, dtype, shape, args)
        label = f"{work} {dtype} {str(list(shape)).replace(' ', '')}"
        print(f"| {label} | {' | '.join(cells(list(ms.values())))} |", flush=True)
        rows.append({"work": label, "ms": ms})
    if args.json:
        about = {"threads": threads, "keep_memory": args.keep_memory, "versions": versions, "rounds": args.rounds}
        result = {**about, "rows": rows}
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    cores = lambda text: {int(core) for core in text.split(",")}
    parser.add_argument("--bandwidth", type=pathlib.Path, default=target / "release/examples/bandwidth", metavar="FILE",
                        help="the example, built (default: where cargo puts it)")
    parser.add_argument("--cores", type=cores, metavar="N,N,..",
                        help="cores to use, for all alike (default: all there are)")
    parser.add_argument("--dtype", action="append", choices=["f32", "bf16"], help="any number of times (default: both)")
    parser.add_argument("--shape", action="append", default=[], metavar="B,L,D", help="any number of times")
    parser.add_argument("--rounds", type=int, default=9, help="calls of each (default: 9)")
    parser.add_argument("--seconds", type=float, default=3, help="longest time for all calls of one (default: 3)")
    parser.add_argument("--keep-memory", action="store_true",
                        help="let glibc keep freed memory, for all alike: else the first touch of fresh pages counts")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results to a JSON file")
    return parser.parse_args()


def bandwidth(args):
    """What the example measured: milliseconds by name, for each (work, dtype, shape), and these in order."""
    if not args.bandwidth.exists():
        sys.exit(f"{args.bandwidth}: not there; cargo build --release --example bandwidth makes it")
    command = [args.bandwidth, "--cpu", "--table", "against", "--rounds", str(args.rounds)]
    for dtype in args.dtype or ["f32", "bf16"]:
        command += ["--dtype", dtype]
    for shape in args.shape:
        command += ["--shape", shape]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "against.json"
        subprocess.run([*command, "--json", path], check=True, stdout=subprocess.DEVNULL)
        table = json.loads(path.read_text())
    results = {}
    for row in table["rows"]:
        work, dtype, shape = re.fullmatch(r"(\w+) (\w+) \[(.*)\]", row["work"]).groups()
        if work in WORKS:
            key = work, dtype, tuple(int(size) for size in shape.split(","))
            results[key] = dict(zip(table["contenders"], row["ms"]))
    return results, list(results)


class Contender:
    """An implementation: `place` makes its tensor from f32 numbers `[B, L, D]`, `numbers` does the reverse, and `run`
    computes `y`, or for "both" `y` and four gradients, and waits for them."""

    def __init__(self, name, place, numbers, run):
        self.name, self.place, self.numbers, self.run = name, place, numbers, run


def jax_contenders(jax, _threads):
    jnp, lax = jax.numpy, jax.lax
    wide = lambda t: t.astype(jnp.float32)

    def scan(x, a, b, c):
        def step(h, at):
            x, a, b, c = at
            h = a * h + b * x
            return h, c * h

        start = jnp.zeros(x.shape[1:], jnp.float32)
        # converted as a whole: within the steps half precision takes fifty times as long
        return lax.scan(step, start, tuple(map(wide, (x, a, b, c))))[1].astype(x.dtype)

    def associative(axis):
        def scan(x, a, b, c):
            then = lambda first, second: (first[0] * second[0], second[0] * first[1] + second[1])
            _, h = lax.associative_scan(then, (wide(a), wide(b) * wide(x)), axis=axis)
            return (wide(c) * h).astype(x.dtype)

        return scan

    def contender(name, scan, time_axis):
        def both(x, a, b, c, g):
            y, pull = jax.vjp(scan, x, a, b, c)
            return (y, *pull(g))

        compiled = {"forward": jax.jit(scan), "both": jax.jit(both)}

        def place(values, dtype):
            values = values.swapaxes(0, 1) if time_axis == 0 else values
            return jnp.asarray(values, {"f32": jnp.float32, "bf16": jnp.bfloat16}[dtype])

        def numbers(t):
            values = jax.device_get(t.astype(jnp.float32))
            return values.swapaxes(0, 1) if time_axis == 0 else values

        def run(work, tensors):
            tensors = tensors[:4] if work == "forward" else tensors
            return jax.block_until_ready(compiled[work](*tensors))

        return Contender(name, place, numbers, run)

    return [contender("JAX lax.scan", scan, 0), contender("JAX associative_scan", associative(1), 1)]


def torch_contenders(torch, threads):
    torch.set_num_threads(threads)

    def scan(x, a, b, c):
        steps = zip(a.float().unbind(1), (b.float() * x.float()).unbind(1))
        h, states = torch.zeros_like(x[:, 0], dtype=torch.float32), []
        for gate, input in steps:
            h = torch.addcmul(input, gate, h)
            states.append(h)
        return (c.float() * torch.stack(states, 1)).to(x.dtype)

    def run(work, tensors):
        *inputs, g = tensors
        if work == "forward":
            with torch.no_grad():
                return scan(*inputs)
        inputs = [t.detach().requires_grad_() for t in inputs]
        y = scan(*inputs)
        return (y.detach(), *torch.autograd.grad(y, inputs, g))

    def place(values, dtype):
        return torch.tensor(values).to({"f32": torch.float32, "bf16": torch.bfloat16}[dtype])

    return [Contender("Torch, step by step", place, lambda t: t.float().numpy(), run)]


def data(np, shape, seed):
    """`x, a, b, c` and the gradient of `y`: `a` in [0, 1), the others in [-1, 1)."""
    rng = np.random.default_rng(seed)
    uniform = lambda: rng.random(shape, dtype=np.float32)
    x, a, b, c, g = uniform(), uniform(), uniform(), uniform(), uniform()
    return [2 * x - 1, a, 2 * b - 1, 2 * c - 1, 2 * g - 1]


def check(np, contender):
    """Holds `y` and the gradients to those of loops in f64."""
    shape = (2, 7, 3)
    arguments = data(np, shape, 1)
    x, a, b, c, g = (t.astype(np.float64) for t in arguments)
    h = np.zeros((shape[0], shape[1] + 1, shape[2]))
    for t in range(shape[1]):
        h[:, t + 1] = a[:, t] * h[:, t] + b[:, t] * x[:, t]
    dh, z = np.zeros(shape), np.zeros((shape[0], shape[2]))
    for t in reversed(range(shape[1])):
        dh[:, t] = c[:, t] * g[:, t] + z
        z = a[:, t] * dh[:, t]
    want = c * h[:, 1:], b * dh, h[:, :-1] * dh, x * dh, g * h[:, 1:]
    tensors = [contender.place(t, "f32") for t in arguments]
    got = [contender.run("forward", tensors), *contender.run("both", tensors)]
    for name, got, want in zip(("y", "y", "dx", "da", "db", "dc"), got, (want[0], *want)):
        error = np.abs(contender.numbers(got) - want).max()
        if not error < 1e-5:
            sys.exit(f"{contender.name}: {name} is off by {error}")


def measure(np, contender, work, dtype, shape, args):
    """Median milliseconds of a call."""
    size = {"f32": 4, "bf16": 2}[dtype]
    sets = min(-(-COLD_BYTES // (5 * size * shape[0] * shape[1] * shape[2])), 16)
    tensors = [[contender.place(t, dtype) for t in data(np, shape, seed)] for seed in range(sets)]

    def seconds(call):
        start = time.perf_counter()
        contender.run(work, tensors[call % sets])
        return time.perf_counter() - start

    seconds(0)  # compiles
    warm = seconds(1)
    rounds = max(1, min(args.rounds, int(args.seconds / warm)))
    return statistics.median(seconds(2 + call) for call in range(rounds)) * 1e3


def cells(ms):
    for n, value in enumerate(ms):
        ratio = f" ({value / ms[0]:.2f})" if value is not None and n > 0 else ""
        yield "-" if value is None else f"{value:.3f}{ratio}"


if __name__ == "__main__":
    main()
