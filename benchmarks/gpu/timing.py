"""Shared by the GPU peers: timing by graph replays and events, error checks, tables, results files.

A time is a dictionary {"us", "p10", "p90", "n"}: median and spread of n samples, microseconds.
"""
import collections
import contextlib
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import torch
import triton

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import results  # noqa: E402

# Cycles that the device spins before a series of samples, so that the host runs ahead of it and no
# sample holds the time of a launch: about 1 ms.
HEAD_START = 2_000_000


def summary(samples_us):
    ordered = sorted(samples_us)

    def quantile(q):
        return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 3)

    return {"us": quantile(0.5), "p10": quantile(0.1), "p90": quantile(0.9), "n": len(ordered)}


def sample_count(estimate_s, seconds, least, most):
    return max(least, min(most, int(seconds / max(estimate_s, 1e-7))))


def event_times(call, per=1, seconds=0.15, least=20, most=300):
    """Device time of `call`, which does `per` units of work, between events; calls in a queue.

    What the host cannot issue in time (eager mode) counts: the device waits for it."""
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    count = sample_count(time.perf_counter() - start, seconds, least, most)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    torch.cuda._sleep(HEAD_START)
    for before, after in events:
        before.record()
        call()
        after.record()
    torch.cuda.synchronize()
    return summary([before.elapsed_time(after) * 1e3 / per for before, after in events])


def host_times(call, seconds=0.15, least=20, most=300):
    """Time of one `call` on the host's clock until the device has finished it, one at a time."""
    samples, end = [], time.perf_counter() + seconds
    call()
    torch.cuda.synchronize()
    while len(samples) < least or (len(samples) < most and time.perf_counter() < end):
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        samples.append((time.perf_counter() - start) * 1e6)
    return summary(samples)


def capture(call, warm=2):
    """CUDA graph of `call`, which ran `warm` times before on the stream that captures it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph


def l2_bytes():
    return torch.cuda.get_device_properties(0).L2_cache_size


def rotation(bytes_of_one, most=64):
    """Sets of buffers so that a round over them is at least twice the L2."""
    return max(1, min(most, -(-2 * l2_bytes() // bytes_of_one)))


def graph_times(function, sets, calls=20, seconds=0.15):
    """A call's time within one graph of many calls.

    "warm": always on sets[0]. "cold": over all `sets` in turn, each with an output of its own."""
    def chain(chosen, count):
        kept = collections.deque(maxlen=len(chosen))

        def call():
            for i in range(count):
                kept.append(function(*chosen[i % len(chosen)]))

        return capture(call, warm=1)

    graph = chain(sets[:1], calls)
    times = {"warm": event_times(graph.replay, calls, seconds)}
    del graph
    if len(sets) > 1:
        count = -(-calls // len(sets)) * len(sets)
        graph = chain(sets, count)
        times["cold"] = {**event_times(graph.replay, count, seconds), "sets": len(sets)}
        del graph
    return times


def relative_error(out, reference):
    """||out - reference|| / ||reference|| in float64."""
    out, reference = out.double(), reference.double()
    return ((out - reference).norm() / reference.norm()).item()


def reason(fault):
    return f"{type(fault).__name__}: {fault}".splitlines()[0][:120]


@contextlib.contextmanager
def limit(seconds):
    """TimeoutError within, once `seconds` have passed."""
    def stop(signum, frame):
        raise TimeoutError(f"over {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def device():
    properties = torch.cuda.get_device_properties(0)
    asked = shutil.which("nvidia-smi") and subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True, text=True)
    return {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "driver": asked.stdout.split()[0] if asked and asked.stdout else "unknown",
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def save(path, benchmark, rows, **more):
    """Writes a results file with the device that `rows` were measured on."""
    command = " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])
    results.write_results(path, benchmark, command, rows, device=device(), **more)


def cell(value):
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{value['us']:.2f} ({value['p10']:.2f}-{value['p90']:.2f})"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def print_table(title, rows, columns):
    """`columns` of `rows`, dictionaries; a time is shown as median (p10-p90)."""
    lines = [list(columns)] + [[cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    print(f"\n{title}")
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    sys.stdout.flush()
