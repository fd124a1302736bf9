#!/usr/bin/env python3
"""Times the window decoder in PyTorch, bf16, dense attention: the peer of our CUDA engine.

    peers_windows.py [--presets cortex-s] [--batches 1,8,32] [--modes eager,graph,..] --out FILE
    peers_windows.py --weights MODEL.safetensors ...
    peers_windows.py --check FOLDER     parity with config.json, model.safetensors and cases.json

device:  from integer events in device memory to outputs there, between events, calls in a queue
latency: the same on the host's clock, one call at a time, until the device has finished
host:    from events in pinned host memory to outputs in host memory, likewise

Modes, in the order they run: eager; graph (eager under one CUDA graph); compile-graph
(torch.compile, captured likewise); reduce-overhead and max-autotune (torch.compile's own graphs);
max-autotune-graph (max-autotune's kernels under one graph of ours, asked for by name alone).
Attention is scaled_dot_product_attention with whichever backend is fastest at that size. `error` is
||y - ref|| / ||ref|| against the same weights in float32.
"""
import argparse
import json
import math
import pathlib
import struct
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import timing

DEVICE = "cuda"
PRESETS = {  # D, layers, heads, latents
    "cortex-xs": (256, 5, 4, 128), "cortex-s": (512, 7, 8, 256), "cortex-m": (768, 11, 12, 384)}
MODES = {  # torch.compile's mode, or None; whether a graph of ours is captured around it
    "eager": (None, False), "graph": (None, True), "compile-graph": ("default", True),
    "reduce-overhead": ("reduce-overhead", False), "max-autotune": ("max-autotune", False),
    "max-autotune-graph": ("max-autotune-no-cudagraphs", True)}
OWN_GRAPHS = ("reduce-overhead", "max-autotune")
SDPA = ("flash", "cudnn", "mem_efficient")
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I8": torch.int8}
WINDOW_BINS = 120  # of 5 ms: as long as a real window


def preset(name):
    dim, layers, heads, latents = PRESETS[name]
    return {"preset": name, "norm": "rmsnorm", "dim": dim, "layers": layers, "heads": heads,
            "latents": latents, "max_neurons": 512, "max_bins": 1024, "value_buckets": 8,
            "outputs": 2}


class LayerNorm(nn.LayerNorm):
    def __init__(self, dim):
        super().__init__(dim, eps=1e-5)


class RmsNorm(nn.RMSNorm):
    def __init__(self, dim):
        super().__init__(dim, eps=1e-6)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def attend(q, k, v):
    """[B, H, Q, d], [B, H, K, d], [B, H, K, d] -> [B, Q, H d]."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def add_product(z, x, weight):
    """z + x W^T into z [B, L, D]: the residual costs no kernel of its own."""
    z.view(-1, z.shape[-1]).addmm_(x.view(-1, x.shape[-1]), weight.t())


class Tokenizer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.neuron_emb = nn.Embedding(c["max_neurons"], c["dim"])
        self.time_emb = nn.Embedding(c["max_bins"], c["dim"])
        self.value_emb = nn.Embedding(c["value_buckets"], c["dim"])

    def forward(self, events):
        neuron, time_bin, value = events
        value = value.clamp(max=self.value_emb.num_embeddings - 1)
        return self.neuron_emb(neuron) + self.time_emb(time_bin) + self.value_emb(value)


class CrossAttention(nn.Module):
    def __init__(self, c, norm):
        super().__init__()
        self.heads = c["heads"]
        self.norm_q, self.norm_kv = norm(c["dim"]), norm(c["dim"])
        self.q_proj = linear(c["dim"], c["dim"])
        self.kv_proj = linear(c["dim"], 2 * c["dim"])
        self.out_proj = linear(c["dim"], c["dim"])

    def fold(self, latents):
        """The query [1, H, L, d] holds no input."""
        q = self.q_proj(self.norm_q(latents)).unflatten(-1, (self.heads, -1))
        self.register_buffer("query", q.transpose(0, 1)[None].contiguous(), persistent=False)

    def forward(self, z, tokens):
        kv = self.kv_proj(self.norm_kv(tokens)).unflatten(-1, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        q = self.query.expand(tokens.shape[0], -1, -1, -1)
        add_product(z, attend(q, k, v), self.out_proj.weight)


class Block(nn.Module):
    def __init__(self, c, norm):
        super().__init__()
        dim = c["dim"]
        self.heads = c["heads"]
        self.norm_attn, self.norm_mlp = norm(dim), norm(dim)
        self.qkv_proj, self.out_proj = linear(dim, 3 * dim), linear(dim, dim)
        self.mlp = nn.Sequential(linear(dim, 4 * dim), nn.GELU(), linear(4 * dim, dim))

    def forward(self, z):
        qkv = self.qkv_proj(self.norm_attn(z)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        add_product(z, attend(q, k, v), self.out_proj.weight)
        add_product(z, self.mlp[1](self.mlp[0](self.norm_mlp(z))), self.mlp[2].weight)


class Encoder(nn.Module):
    def __init__(self, c, norm):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(c["latents"], c["dim"]))
        self.cross_attn = CrossAttention(c, norm)
        self.self_attn_blocks = nn.ModuleList(Block(c, norm) for _ in range(c["layers"]))
        self.final_norm = norm(c["dim"])

    def forward(self, tokens):
        z = self.latents.repeat(tokens.shape[0], 1, 1)
        self.cross_attn(z, tokens)
        for block in self.self_attn_blocks:
            block(z)
        return self.final_norm(z)


class BehaviorHead(nn.Module):
    def __init__(self, c, norm):
        super().__init__()
        self.heads = c["heads"]
        self.norm = norm(c["dim"])
        self.query = nn.Parameter(torch.empty(c["outputs"], c["dim"]))
        self.q_proj = linear(c["dim"], c["dim"])
        self.kv_proj = linear(c["dim"], 2 * c["dim"])
        self.out_proj = linear(c["dim"], 1)

    def fold(self):
        q = self.q_proj(self.query).unflatten(-1, (self.heads, -1))
        self.register_buffer("projected", q.transpose(0, 1)[None].contiguous(), persistent=False)

    def forward(self, z):
        k, v = self.kv_proj(self.norm(z)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = self.projected.expand(z.shape[0], -1, -1, -1)
        return self.out_proj(attend(q, k, v)).squeeze(-1)


class WindowDecoder(nn.Module):
    """Events int32 [3, B, E] (neuron, time bin, value) -> behaviour float32 [B, outputs]."""

    def __init__(self, c):
        super().__init__()
        norm = LayerNorm if c["norm"] == "layernorm" else RmsNorm
        self.tokenizer = Tokenizer(c)
        self.encoder = Encoder(c, norm)
        self.behavior_head = BehaviorHead(c, norm)

    def fold(self):
        """What no input changes is computed once."""
        self.encoder.cross_attn.fold(self.encoder.latents)
        self.behavior_head.fold()
        return self

    def forward(self, events):
        return self.behavior_head(self.encoder(self.tokenizer(events))).float()


def random_weights(model, seed=1):
    """Linears, embeddings, latents and queries N(0, 0.02), as our engine's random models."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "norm" not in name:
            weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))


def read_safetensors(path):
    """Tensors by name, and the metadata."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        part = torch.frombuffer(bytearray(data[begin:end]), dtype=DTYPES[entry["dtype"]])
        tensors[name] = part.view(entry["shape"])
    for name in [n for n in tensors if n.endswith(".scale")]:
        weight = name.removesuffix(".scale")
        tensors[weight] = tensors[weight].float() * tensors.pop(name)[:, None]
    return tensors, metadata


def load(path, config=None):
    """Model in float32 on the device, and its config: the file's own unless one is given."""
    tensors, metadata = read_safetensors(path)
    if config is None:
        config = json.loads(metadata["cortex.config"])
        config["outputs"] = tensors["behavior_head.query"].shape[0]
    model = WindowDecoder(config)
    absent = model.load_state_dict(tensors, strict=False).missing_keys
    if absent:
        raise SystemExit(f"{path}: tensor '{absent[0]}' is missing")
    return model.to(DEVICE).fold(), config


def random_events(c, batch, events, seed=2):
    """int32 [3, B, E] on the host: times in order, of a window of WINDOW_BINS."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return torch.randint(low, high, (batch, events), generator=generator, dtype=torch.int32)

    bins = draw(0, min(WINDOW_BINS, c["max_bins"])).sort(1).values
    return torch.stack([draw(0, c["max_neurons"]), bins, draw(1, c["value_buckets"])])


def use_sdpa(backend):
    for name in SDPA:
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(backend in (name, None))
    torch.backends.cuda.enable_math_sdp(backend is None)


def fastest_sdpa(model, events):
    """The backend whose graph of the whole model is fastest, and each one's device time."""
    times = {}
    for backend in SDPA:
        use_sdpa(backend)
        try:
            graph = timing.capture(lambda: model(events))
            times[backend] = timing.event_times(graph.replay, seconds=0.03)
        except RuntimeError as fault:
            print(f"sdpa {backend}: {str(fault).splitlines()[0]}", file=sys.stderr)
            torch.cuda.synchronize()
    if not times:
        raise RuntimeError("no attention backend ran")
    best = min(times, key=lambda name: times[name]["us"])
    use_sdpa(best)
    return best, times


def callables(mode, model, events, packed, answers):
    """Device call and host call of a mode, compiled or captured, and where outputs lie.

    events: static device ints; packed: pinned host ints; answers: pinned host floats."""
    compile_mode, ours = MODES[mode]
    run = model
    if compile_mode:
        torch._dynamo.reset()
        torch._dynamo.mark_static_address(events)
        run = torch.compile(model, mode=compile_mode, dynamic=False, fullgraph=True)

    def device_call():
        if mode in OWN_GRAPHS:
            torch.compiler.cudagraph_mark_step_begin()
        return run(events)

    def host_call():
        events.copy_(packed, non_blocking=True)
        answers.copy_(device_call(), non_blocking=True)

    for _ in range(4):  # compiles, then records the graphs of torch.compile
        y = device_call()
    y = y.clone()
    torch.cuda.synchronize()
    if not ours:
        return device_call, host_call, y
    return timing.capture(device_call).replay, timing.capture(host_call).replay, y


def measure(mode, model, events, packed, reference, seconds, limit_s):
    row = {"mode": mode}
    answers = torch.empty(reference.shape, pin_memory=True)
    start = time.perf_counter()
    with timing.limit(limit_s):
        device_call, host_call, y = callables(mode, model, events, packed, answers)
    row["prepared_s"] = round(time.perf_counter() - start, 1)
    row["error"] = timing.relative_error(y, reference)
    row["device"] = timing.event_times(device_call, seconds=seconds)
    row["latency"] = timing.host_times(device_call, seconds=seconds)
    answers.fill_(math.nan)
    row["host"] = timing.host_times(host_call, seconds=seconds)
    row["host_error"] = timing.relative_error(answers.to(DEVICE), reference)
    return row


def bench(config, wide, args, deadline):
    """Rows of one model: batches x modes. `wide`: the model in float32 on the device."""
    narrow = WindowDecoder(config).to(DEVICE)
    narrow.load_state_dict(wide.state_dict())
    narrow = narrow.bfloat16().eval().fold()
    inputs = {}
    for batch in args.batches:
        packed = random_events(config, batch, args.events).pin_memory()
        events = packed.to(DEVICE)
        use_sdpa(None)
        reference = wide(events)
        backend, times = fastest_sdpa(narrow, events)
        inputs[batch] = (events, packed, reference, backend, {n: t["us"] for n, t in times.items()})
    rows = []
    for mode in args.modes:  # slow compilers last
        for batch in args.batches:
            events, packed, reference, backend, sdpa_us = inputs[batch]
            left = min(args.limit, deadline - time.perf_counter())
            row = {"model": config.get("preset") or "weights", "B": batch, "E": args.events,
                   "sdpa": backend, "sdpa_graph_us": sdpa_us, "mode": mode}
            try:
                if left < 2:
                    raise TimeoutError("no time left")
                use_sdpa(backend)
                row.update(measure(mode, narrow, events, packed, reference, args.seconds, left))
                row["windows_per_s"] = round(batch / row["device"]["us"] * 1e6)
            except Exception as fault:
                row["failed"] = timing.reason(fault)
                torch.cuda.synchronize()
            rows.append(row)
            print(f"{row['model']} B {batch} {mode}: "
                  f"{row.get('failed') or timing.cell(row['device'])}", flush=True)
    return rows


def check(folder):
    """Relative error, to the largest output, of float32 on the fixture's windows."""
    folder = pathlib.Path(folder)
    published = json.loads((folder / "config.json").read_text())
    model, _ = load(folder / "model.safetensors", {
        "norm": "layernorm", "dim": published["hidden_dim"], "layers": published["num_layers"],
        "heads": published["num_heads"], "latents": published["num_latents"],
        "max_neurons": published["max_neurons"], "max_bins": published["max_time_bins"],
        "value_buckets": published["spike_value_buckets"], "outputs": published["behavior_dim"]})
    worst = 0.0
    for window in json.loads((folder / "cases.json").read_text())["windows"]:
        events = torch.tensor([window[name] for name in ("neuron_id", "time_bin", "value")],
                              dtype=torch.int32, device=DEVICE)[:, None]
        y, expected = model(events)[0], torch.tensor(window["behavior"], device=DEVICE)
        worst = max(worst, ((y - expected).abs().max() / expected.abs().max()).item())
    print(f"parity: {worst:.2e} of the largest output")
    if not worst < 1e-4:
        raise SystemExit("parity: over 1e-4")


def names(text):
    return text.split(",")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", type=names, default=["cortex-s"])
    parser.add_argument("--batches", type=lambda text: [int(n) for n in names(text)],
                        default=[1, 8, 32])
    parser.add_argument("--modes", type=names,
                        default=[mode for mode in MODES if mode != "max-autotune-graph"])
    parser.add_argument("--events", type=int, default=512, help="of a window")
    parser.add_argument("--weights", help="safetensors of a window model, in place of presets")
    parser.add_argument("--check", metavar="FOLDER", help="parity with a fixture, first")
    parser.add_argument("--seconds", type=float, default=0.15, help="of samples of one time")
    parser.add_argument("--limit", type=float, default=60, help="seconds to compile one case")
    parser.add_argument("--budget", type=float, default=150, help="seconds; cases after it fail")
    parser.add_argument("--out", help="results file, JSON")
    args = parser.parse_args()
    deadline = time.perf_counter() + args.budget
    torch.set_grad_enabled(False)
    if args.check:
        check(args.check)
    rows = []
    for name in [args.weights] if args.weights else args.presets:
        if args.weights:
            model, config = load(name)
        else:
            config = preset(name)
            model = WindowDecoder(config)
            random_weights(model)
            model = model.to(DEVICE).fold()
        rows += bench(config, model, args, deadline)
        torch._dynamo.reset()
        if args.out:
            timing.save(args.out, "GPU windows, PyTorch", rows, weights=args.weights or "random")
    timing.print_table("windows: us, median (p10-p90)", rows, (
        "model", "B", "mode", "sdpa", "device", "latency", "host", "error", "prepared_s",
        "failed"))


if __name__ == "__main__":
    main()
