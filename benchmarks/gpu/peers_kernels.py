#!/usr/bin/env python3
"""Times peers of our CUDA kernels: PyTorch, torch.compile and Triton, and the device's ceilings.

    peers_kernels.py [--only ceilings,tokenizer,attention,linear] [--full] [--flex] --out FILE

A time is of one call within a CUDA graph of 20 or more, its node included: `warm` on the same
buffers again and again, `cold` over sets of buffers that are together twice the L2 (none where one
set alone is). `eager` is outside a graph. `error` is ||out - ref|| / ||ref|| against float64.
"""
import argparse
import math
import sys
import time
import traceback

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import timing
import triton_kernels

DEVICE = "cuda"
NEURONS, BINS, VALUES = 512, 1024, 8
HEAD = 64
WINDOW_BINS = 120  # of 5 ms
DENSITIES = (1.0, 0.5, 0.25)
ATTENTION = ((1, 8, 256, 512), (8, 8, 256, 512), (32, 8, 256, 2048))  # B, H, L, E
LINEARS = ((256, 1536, 512), (8192, 1536, 512), (8192, 2048, 512), (2048, 2048, 512),
           (4, 1536, 512), (64, 1536, 512))  # M, N, K
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION, "default": None}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
EPS = 1e-6
TOLERANCE = 1e-2  # of a row that counts: rounding to bf16 is a quarter of it


class Bench:
    """Rows of one results file; a peer that fails leaves its reason and does not stop the rest."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.rows = []
        self.generator = torch.Generator(device=DEVICE).manual_seed(1)

    def normal(self, *shape, dtype=torch.float32, scale=1.0):
        x = torch.randn(*shape, generator=self.generator, device=DEVICE)
        return (x * scale).to(dtype)

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.generator, device=DEVICE,
                             dtype=torch.int32)

    def add(self, case, peer, function, sets, reference=None, eager=False, work=None, **more):
        """`work`: {"bytes": .., "flops": ..} of a call, the least that any version must do."""
        row = {**case, "peer": peer}
        try:
            if reference is not None:
                row["error"] = timing.relative_error(function(*sets[0]), reference)
                if not row["error"] < TOLERANCE:
                    raise ValueError(f"wrong by {row['error']:.2g}")
            row.update(timing.graph_times(function, sets, seconds=self.seconds))
            if eager:
                row["eager"] = timing.event_times(
                    lambda: [function(*sets[0]) for _ in range(20)], 20, self.seconds)
            seconds = row.get("cold", row["warm"])["us"] * 1e-6
            if work and "bytes" in work:
                row["gb_per_s"] = round(work["bytes"] / seconds / 1e9)
            if work and "flops" in work:
                row["tflops"] = round(work["flops"] / seconds / 1e12, 1)
        except Exception as fault:
            traceback.print_exc(limit=3, file=sys.stderr)
            row["failed"] = timing.reason(fault)
            torch.cuda.synchronize()
        row.update(more)
        self.rows.append(row)
        print(*case.values(), peer, row.get("failed") or row["warm"]["us"], file=sys.stderr)
        return row


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def chosen(kernel):
    """What the autotuner took last."""
    return str(getattr(kernel, "best_config", None))


# --- Ceilings ---

def ceilings(bench):
    big = bench.normal(1 << 29)
    other = torch.empty_like(big)
    copy = timing.event_times(lambda: other.copy_(big), seconds=bench.seconds)
    moved = 2 * big.numel() * 4
    bench.rows.append({"op": "copy", "shape": f"{moved >> 30} GiB read and written", "time": copy,
                       "rate": moved / copy["us"] / 1e3, "unit": "GB/s"})
    del big, other
    a, b = (bench.normal(8192, 8192, dtype=torch.bfloat16) for _ in range(2))
    product = timing.event_times(lambda: a @ b, seconds=2 * bench.seconds)
    bench.rows.append({"op": "matmul", "shape": "8192^3 bf16", "time": product,
                       "rate": 2 * 8192**3 / product["us"] / 1e6, "unit": "TFLOP/s"})
    del a, b
    x = bench.normal(1)
    for name, node in (("empty kernel", lambda: triton_kernels.empty_kernel[(1,)](x)),
                       ("x += 1, one element", lambda: x.add_(1))):
        count = 1000
        graph = timing.capture(lambda: [node() for _ in range(count)], warm=1)
        bench.rows.append({"op": "graph node", "shape": name, "unit": "us",
                           "time": timing.event_times(graph.replay, count, bench.seconds)})
    graph = timing.capture(lambda: x.add_(1))
    bench.rows.append({"op": "graph of one node", "shape": "launch to finish, host clock",
                       "time": timing.host_times(graph.replay, bench.seconds), "unit": "us"})


# --- Tokenizer ---

def plain_tokenizer(neuron, time, value, neuron_table, time_table, value_table):
    value = value.clamp(max=value_table.shape[0] - 1)
    return (F.embedding(neuron, neuron_table) + F.embedding(time, time_table)
            + F.embedding(value, value_table))


def tokenizer(bench, full):
    dims = (128, 256, 512, 768) if full else (512,)
    for dtype in (torch.float32, torch.bfloat16):
        for dim in dims:
            tables = [bench.normal(n, dim, dtype=dtype) for n in (NEURONS, BINS, VALUES)]
            for events in (512, 16384, 65536):
                # Indices and the output rotate; tables are shared, as in an engine.
                moved = events * (dim * dtype.itemsize + 12)
                sets = [(bench.integers(0, NEURONS, events), bench.integers(0, BINS, events),
                         bench.integers(0, VALUES + 4, events), *tables)
                        for _ in range(timing.rotation(moved))]
                wide = [table.double() for table in tables]
                case = {"op": "tokenizer", "dtype": NAMES[dtype], "D": dim, "E": events}
                reference = plain_tokenizer(*sets[0][:3], *wide)
                more = {"reference": reference, "work": {"bytes": moved}}
                row = bench.add(case, "triton", triton_kernels.tokenizer, sets, eager=True, **more)
                row["config"] = chosen(triton_kernels.tokenizer_kernel)
                bench.add(case, "torch", plain_tokenizer, sets, eager=True, **more)
                bench.add(case, "torch.compile", compiled(plain_tokenizer), sets, **more)


# --- Cross-attention ---

def reach_of(density, bins):
    """Reach in bins at which query and event times, both uniform over a window of `bins`, are
    within reach with probability `density`: 2 f - f^2 = density at reach f * bins."""
    return bins * (1 - math.sqrt(1 - density))


def reference_attention(q, kv, items, bins=None, reach=0.0):
    """q [L, H, 64], kv [B E, 2, H, 64], bins [B E] -> [B, L, H, 64] in float64."""
    k, v = kv.double().view(items, -1, *kv.shape[1:]).permute(2, 0, 3, 1, 4)
    scores = q.double().transpose(0, 1) @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if bins is not None:
        scores = scores.masked_fill(~band(q.shape[0], bins.view(items, 1, 1, -1), reach),
                                    -math.inf)
    return (scores.softmax(-1).nan_to_num(0.0) @ v).transpose(1, 2)


def band(queries, bins, reach):
    """Which of `bins` [.., E] each query sees, [.., L, E]."""
    centre = torch.arange(queries, device=bins.device, dtype=torch.float64) * WINDOW_BINS / queries
    return (centre[:, None] - bins.double()).abs() <= reach


def dense_attention(backend):
    def run(q, kv):
        k, v = kv.permute(2, 0, 3, 1, 4)
        if backend is None:
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return run


def flex(items, queries, bins, reach):
    """flex_attention behind the same band; its block mask is made beforehand, not timed."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    by_item = bins.view(items, -1)

    def sees(b, h, i, j):
        return (i * (WINDOW_BINS / queries) - by_item[b, j]).abs() <= reach

    mask = create_block_mask(sees, items, None, queries, by_item.shape[1], device=DEVICE)
    run = compiled(flex_attention)

    def attend(q, kv):
        k, v = kv.permute(2, 0, 3, 1, 4)
        return run(q, k, v, block_mask=mask).transpose(1, 2)
    return attend


def attention(bench, with_flex):
    for items, heads, queries, events in ATTENTION:
        dtype, keys = torch.bfloat16, items * events
        moved = 2 * heads * HEAD * (2 * keys + items * queries) + 2 * queries * heads * HEAD
        work = {"bytes": moved, "flops": 4 * items * heads * queries * events * HEAD}
        count = timing.rotation(moved)
        queried = bench.normal(queries, heads, HEAD, dtype=dtype)
        packed = [bench.normal(keys, 2, heads, HEAD, dtype=dtype) for _ in range(count)]
        indptr = torch.arange(items + 1, device=DEVICE, dtype=torch.int32) * events
        bins = bench.integers(0, WINDOW_BINS, items, events).sort(1).values.flatten().contiguous()
        item_bins = torch.full((items,), float(WINDOW_BINS), device=DEVICE)
        case = {"op": "cross-attention", "dtype": "bf16", "B": items, "H": heads, "L": queries,
                "E": events}
        reference = reference_attention(queried, packed[0], items)

        each = queried.transpose(0, 1).repeat(items, 1, 1, 1)  # [B, H, L, 64]
        dense = [(each, kv.view(items, events, 2, heads, HEAD)) for kv in packed]
        first = len(bench.rows)
        for name, backend in BACKENDS.items():
            bench.add({**case, "density": 1.0}, f"sdpa {name}", dense_attention(backend), dense,
                      reference, work=work)
        timed = [row for row in bench.rows[first:] if "warm" in row]
        if timed:  # the one to beat
            min(timed, key=lambda row: row.get("cold", row["warm"])["us"])["best_dense"] = True

        for name, spans in (("", True), (", one loop", False)):
            ragged = [(queried, kv, indptr, events, None, None, 0.0, spans) for kv in packed]
            row = bench.add({**case, "density": 1.0}, f"triton, no mask{name}",
                            triton_kernels.cross_attention, ragged, reference, work=work)
            row["config"] = chosen(triton_kernels.cross_attention_kernel)
        for density in DENSITIES:
            reach = reach_of(density, WINDOW_BINS)
            reference = reference_attention(queried, packed[0], items, bins, reach)
            seen = band(queries, bins.view(items, 1, -1), reach).double().mean().item()
            about = {"reach_bins": reach, "window_bins": WINDOW_BINS, "seen": round(seen, 4),
                     "reach_formula": "reach = window_bins * (1 - sqrt(1 - density)); query i sees "
                                      "key j if |i * window_bins / L - bin_j| <= reach; bins "
                                      "uniform in [0, window_bins), ascending"}
            for name, spans in (("", True), (", one loop", False)):
                sparse = [(queried, kv, indptr, events, bins, item_bins, reach, spans)
                          for kv in packed]
                row = bench.add({**case, "density": density}, f"triton block-sparse{name}",
                                triton_kernels.cross_attention, sparse, reference, **about)
                row["config"] = chosen(triton_kernels.cross_attention_kernel)
            if with_flex:
                try:
                    with timing.limit(60):
                        run = flex(items, queries, bins, reach)
                        bench.add({**case, "density": density}, "flex_attention", run, dense,
                                  reference, **about)
                except Exception as fault:
                    print(f"flex_attention: {fault}", file=sys.stderr)


# --- RMS norm + linear ---

def norm_then_linear(x, gain, weight, folded):
    return F.linear(F.rms_norm(x, (x.shape[-1],), gain, EPS), weight)


def linear_alone(x, gain, weight, folded):
    return F.linear(x, weight)


def fused(x, gain, weight, folded):
    return triton_kernels.norm_linear(x, folded, EPS)


def linear(bench):
    for m, n, k in LINEARS:
        dtype = torch.bfloat16
        moved = 2 * (m * k + n * k + m * n)
        work = {"bytes": moved, "flops": 2 * m * n * k}
        gain = 1 + bench.normal(k, dtype=dtype, scale=0.1)
        sets = []
        for _ in range(timing.rotation(moved)):
            weight = bench.normal(n, k, dtype=dtype, scale=k**-0.5)
            sets.append((bench.normal(m, k, dtype=dtype), gain, weight,
                         triton_kernels.fold_gain(weight, gain)))
        x, gain, weight = (t.double() for t in sets[0][:3])
        plain = x @ weight.T
        normed = (x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * gain) @ weight.T
        case = {"op": "norm + linear", "dtype": "bf16", "M": m, "N": n, "K": k}
        bench.add(case, "torch pair", norm_then_linear, sets, normed, eager=True, work=work)
        bench.add(case, "torch.compile pair", compiled(norm_then_linear), sets, normed, work=work)
        row = bench.add(case, "triton fused", fused, sets, normed, work=work)
        row["config"] = chosen(triton_kernels.norm_linear_kernel)
        bench.add(case, "F.linear alone", linear_alone, sets, plain, work=work)


COLUMNS = {
    "ceilings": ("op", "shape", "time", "rate", "unit"),
    "tokenizer": ("dtype", "D", "E", "peer", "warm", "cold", "eager", "gb_per_s", "error",
                  "failed"),
    "attention": ("B", "H", "L", "E", "density", "peer", "warm", "cold", "error", "best_dense",
                  "failed"),
    "linear": ("M", "N", "K", "peer", "warm", "cold", "eager", "tflops", "error", "failed"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(COLUMNS), help="parts, apart by commas")
    parser.add_argument("--full", action="store_true", help="tokenizer at D 128 to 768")
    parser.add_argument("--flex", action="store_true", help="flex_attention too")
    parser.add_argument("--seconds", type=float, default=0.1, help="of samples of one time")
    parser.add_argument("--out", help="results file, JSON")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    bench = Bench(args.seconds)
    parts = {"ceilings": ceilings, "tokenizer": lambda b: tokenizer(b, args.full),
             "attention": lambda b: attention(b, args.flex), "linear": linear}
    took = {}
    for part in args.only.split(","):
        first, start = len(bench.rows), time.perf_counter()
        parts[part](bench)
        torch.cuda.empty_cache()
        took[part] = round(time.perf_counter() - start, 1)
        timing.print_table(f"{part}: us, median (p10-p90)  [{took[part]} s]", bench.rows[first:],
                           COLUMNS[part])
        if args.out:
            timing.save(args.out, "GPU kernels, peers", bench.rows, seconds=took)


if __name__ == "__main__":
    main()
