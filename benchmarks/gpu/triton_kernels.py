"""Triton versions of three fusions of the window decoder: peers of our CUDA kernels.

Each is autotuned by graph replays, with its inputs in the L2 where they fit.
"""
import torch
import triton
import triton.language as tl


LOG2_E = 1.4426950408889634  # softmax by powers of 2


def replay_times(call, quantiles):
    """Autotuner's benchmark: ms of a call within a graph of 10."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            call()
    times = []
    for _ in range(7):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        graph.replay()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / 10)
    times.sort()
    return [times[int(q * (len(times) - 1))] for q in quantiles]


def config(warps, stages=1, **blocks):
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


@triton.jit
def empty_kernel(x):
    pass


# --- Tokenizer ---

@triton.autotune(
    configs=[config(w, ROWS=r, COLS=c) for r, c, w in (
        (1, 512, 4), (2, 512, 4), (4, 512, 4), (8, 512, 8), (4, 256, 4), (8, 256, 4), (8, 128, 4),
        (16, 128, 4), (4, 1024, 8), (16, 512, 8))],
    key=["events", "DIM"], do_bench=replay_times)
@triton.jit
def tokenizer_kernel(out, neuron, time, value, neuron_table, time_table, value_table, events,
                     buckets, DIM: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    there = row < events
    n = tl.load(neuron + row, there, other=0) * DIM
    t = tl.load(time + row, there, other=0) * DIM
    v = tl.minimum(tl.load(value + row, there, other=0), buckets - 1) * DIM
    mask = there[:, None] & (col < DIM)[None, :]
    col = col[None, :]
    x = tl.load(neuron_table + n[:, None] + col, mask, other=0).to(tl.float32)
    x += tl.load(time_table + t[:, None] + col, mask, other=0).to(tl.float32)
    x += tl.load(value_table + v[:, None] + col, mask, other=0).to(tl.float32)
    tl.store(out + row[:, None] * DIM + col, x.to(out.dtype.element_ty), mask)


def tokenizer(neuron, time, value, neuron_table, time_table, value_table, out=None):
    """Tokens [E, D] = neuron_table[n] + time_table[t] + value_table[min(v, V - 1)].

    neuron, time, value: int32 [E]. Tables [N, D], [T, D], [V, D], float32 or bf16."""
    events, dim = neuron.numel(), neuron_table.shape[1]
    if out is None:
        out = torch.empty(events, dim, dtype=neuron_table.dtype, device=neuron.device)
    tokenizer_kernel[lambda m: (triton.cdiv(events, m["ROWS"]), triton.cdiv(dim, m["COLS"]))](
        out, neuron, time, value, neuron_table, time_table, value_table, events,
        value_table.shape[0], DIM=dim)
    return out


# --- Block-sparse cross-attention ---

@triton.jit
def attend(begin, end, top, total, pooled, queried, k, v, key_bins, centre, kv_stride, column,
           scale, reach, HEAD: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr,
           BANDED: tl.constexpr):
    """Takes the keys [begin, end) into an online softmax. Not MASKED: all are seen, whole tiles."""
    d = tl.arange(0, HEAD)
    for at in range(begin, end, KEYS):
        j = at + tl.arange(0, KEYS)
        place = j[:, None].to(tl.int64) * kv_stride + column + d[None, :]
        if MASKED:
            live = j < end
            keys = tl.load(k + place, live[:, None], other=0)
        else:
            keys = tl.load(k + place)
        score = tl.dot(queried, tl.trans(keys)) * scale
        if MASKED:
            sees = live[None, :]
            if BANDED:
                bin = tl.load(key_bins + j, live, other=0)
                sees = sees & (tl.abs(centre[:, None] - bin[None, :]) <= reach)
            score = tl.where(sees, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp2(top - higher)
        weight = tl.exp2(score - higher[:, None])
        total = total * shrink + tl.sum(weight, 1)
        if MASKED:
            values = tl.load(v + place, live[:, None], other=0)
        else:
            values = tl.load(v + place)
        pooled = tl.dot(weight.to(values.dtype), values, pooled * shrink[:, None])
        top = higher
    return top, total, pooled


@triton.autotune(
    configs=[config(w, s, QUERIES=q, KEYS=k) for q, k, w, s in (
        (16, 64, 4, 3), (32, 64, 4, 3), (64, 32, 4, 3), (64, 64, 4, 3), (64, 128, 4, 2),
        (128, 64, 8, 3), (128, 128, 8, 2))],
    key=["items", "heads", "queries", "most_keys", "reach_key", "SPANS"], do_bench=replay_times)
@triton.jit(do_not_specialize=["items", "heads", "queries", "most_keys", "reach_key"])
def cross_attention_kernel(out, q, k, v, indptr, key_bins, item_bins, q_item, kv_stride, scale,
                           reach, items, heads, queries, most_keys, reach_key,
                           BANDED: tl.constexpr, SPANS: tl.constexpr, HEAD: tl.constexpr,
                           QUERIES: tl.constexpr, KEYS: tl.constexpr):
    item, head = tl.program_id(2), tl.program_id(1)
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    d = tl.arange(0, HEAD)
    dim = heads * HEAD
    begin, end = tl.load(indptr + item), tl.load(indptr + item + 1)
    there = (i < queries)[:, None]
    queried = tl.load(q + item * q_item + i[:, None] * dim + head * HEAD + d[None, :], there,
                      other=0)
    centre = i * 0.0
    seen_from = begin  # of the span of keys that every query of this tile sees
    seen_to = end
    if BANDED:
        # Bins ascend, so what any query of this tile sees, and what all see, is one span each. The
        # margins are for rounding: the mask is exact.
        bins = tl.load(item_bins + item)
        centre = i * bins / queries
        first = tl.program_id(0) * QUERIES * bins / queries
        last = (tl.minimum(tl.program_id(0) * QUERIES + QUERIES, queries) - 1) * bins / queries
        before = 0
        within = 0
        below = 0
        up_to = 0
        for at in range(begin, end, 512):
            j = at + tl.arange(0, 512)
            bin = tl.load(key_bins + j, j < end, other=2147483647)
            before += tl.sum((bin < first - reach - 0.01).to(tl.int32))
            within += tl.sum(((bin <= last + reach + 0.01) & (j < end)).to(tl.int32))
            if SPANS:
                below += tl.sum((bin < last - reach + 0.01).to(tl.int32))
                up_to += tl.sum(((bin <= first + reach - 0.01) & (j < end)).to(tl.int32))
        seen_from = begin + below
        seen_to = tl.maximum(begin + up_to, seen_from)
        end = begin + within
        begin = begin + before
    top = tl.full([QUERIES], -1e30, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    pooled = tl.zeros([QUERIES, HEAD], tl.float32)
    if SPANS:
        seen_to = seen_from + (seen_to - seen_from) // KEYS * KEYS
        if BANDED:
            top, total, pooled = attend(begin, seen_from, top, total, pooled, queried, k, v,
                                        key_bins, centre, kv_stride, head * HEAD, scale, reach,
                                        HEAD, KEYS, True, BANDED)
        top, total, pooled = attend(seen_from, seen_to, top, total, pooled, queried, k, v, key_bins,
                                    centre, kv_stride, head * HEAD, scale, reach, HEAD, KEYS, False,
                                    BANDED)
        begin = seen_to
    top, total, pooled = attend(begin, end, top, total, pooled, queried, k, v, key_bins, centre,
                                kv_stride, head * HEAD, scale, reach, HEAD, KEYS, True, BANDED)
    pooled = pooled / tl.where(total > 0, total, 1.0)[:, None]  # nothing in reach: 0
    place = (item * queries + i[:, None]).to(tl.int64) * dim + head * HEAD + d[None, :]
    tl.store(out + place, pooled.to(out.dtype.element_ty), there)


def cross_attention(q, kv, indptr, most_keys, key_bins=None, item_bins=None, reach=0.0, spans=True,
                    out=None):
    """Attention [B, L, H, 64] of L queries an item over its own span of packed keys.

    q: bf16 [L, H, 64], shared, or [B, L, H, 64]. kv: bf16 [keys, 2, H, 64]. indptr: int32 [B + 1].
    With key_bins (int32 [keys], ascending within an item) and item_bins (float32 [B]), query i sees
    key j only if |i * item_bins / L - key_bins[j]| <= reach; tiles of keys that no query of a block
    reaches are not read, and the mask within a tile is per key. spans: keys that all queries of a
    block see go through a loop without masks."""
    queries, heads, head = q.shape[-3:]
    items, banded = indptr.numel() - 1, key_bins is not None
    if out is None:
        out = torch.empty(items, queries, heads, head, dtype=q.dtype, device=q.device)
    unused = indptr  # a pointer that is never followed
    cross_attention_kernel[lambda m: (triton.cdiv(queries, m["QUERIES"]), heads, items)](
        out, q, kv[:, 0], kv[:, 1], indptr, key_bins if banded else unused,
        item_bins if banded else unused, queries * heads * head if q.dim() == 4 else 0,
        kv.stride(0), LOG2_E / head**0.5, float(reach), items, heads, queries, most_keys,
        round(100 * reach) if banded else -1, BANDED=banded, SPANS=spans, HEAD=head)
    return out


# --- RMS norm + linear ---

def fitting(configs, args, **more):
    """Tiles that are neither far larger than the matrix nor far too many."""
    rows = args["rows"]
    return [c for c in configs
            if c.kwargs["ROWS"] <= max(16, rows) and c.kwargs["ROWS"] >= min(rows, 64) // 2]


@triton.autotune(
    configs=[config(w, s, ROWS=m, COLS=n, DEPTH=k) for m, n, k, w, s in (
        (16, 16, 256, 4, 2), (16, 32, 128, 4, 4), (16, 64, 128, 4, 3), (32, 32, 128, 4, 4),
        (32, 64, 128, 4, 3), (64, 32, 128, 4, 3), (64, 64, 128, 4, 3), (64, 128, 64, 4, 4),
        (128, 128, 64, 4, 3), (128, 128, 64, 8, 4), (128, 256, 64, 8, 3))],
    key=["rows", "cols", "depth"], prune_configs_by={"early_config_prune": fitting},
    do_bench=replay_times)
@triton.jit(do_not_specialize=["rows"])
def norm_linear_kernel(out, x, weight, rows, cols, depth, eps, ROWS: tl.constexpr,
                       COLS: tl.constexpr, DEPTH: tl.constexpr):
    # Blocks of 8 tiles of rows go together, so that they share columns of the weight in the L2.
    tiles, wide = tl.cdiv(rows, ROWS), tl.cdiv(cols, COLS)
    group = tl.program_id(0) // (8 * wide)
    height = tl.minimum(tiles - group * 8, 8)
    inside = tl.program_id(0) % (8 * wide)
    row = (group * 8 + inside % height) * ROWS + tl.arange(0, ROWS)
    col = (inside // height) * COLS + tl.arange(0, COLS)
    at = tl.arange(0, DEPTH)
    x_from = x + (row % rows)[:, None] * depth + at[None, :]
    w_from = weight + (col % cols)[:, None] * depth + at[None, :]
    # A loop of its own: with both uses of a tile in one pipelined loop, Triton 3.6 gave wrong rows
    # on an H200 (tiles of 128 x 128).
    squares = tl.zeros([ROWS], tl.float32)
    for k in range(0, depth, DEPTH):
        part = tl.load(x_from + k).to(tl.float32)
        squares += tl.sum(part * part, 1)
    sums = tl.zeros([ROWS, COLS], tl.float32)
    for k in range(0, depth, DEPTH):
        sums = tl.dot(tl.load(x_from + k), tl.trans(tl.load(w_from + k)), sums)
    y = sums * tl.rsqrt(squares / depth + eps)[:, None]
    place = row[:, None] * cols + col[None, :]
    tl.store(out + place, y.to(out.dtype.element_ty),
             (row < rows)[:, None] & (col < cols)[None, :])


def fold_gain(weight, gain):
    """Weight [N, K] with the norm's gain [K] in it; once, at load."""
    return (weight.float() * gain.float()).to(weight.dtype)


def norm_linear(x, folded, eps=1e-6, out=None):
    """RMSNorm(x) W^T, [M, N], in one pass: 1/rms is a scale per row of the product.

    x: bf16 [M, K]. folded: bf16 [N, K], as fold_gain gives it. K is a multiple of 256."""
    (rows, depth), cols = x.shape, folded.shape[0]
    if depth % 256:
        raise ValueError(f"norm_linear: K is {depth}, not a multiple of 256")
    if out is None:
        out = torch.empty(rows, cols, dtype=x.dtype, device=x.device)
    norm_linear_kernel[lambda m: (triton.cdiv(rows, m["ROWS"]) * triton.cdiv(cols, m["COLS"]),)](
        out, x, folded, rows, cols, depth, eps)
    return out
