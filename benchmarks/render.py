#!/usr/bin/env python3
"""Renders BENCHMARKS.md and its plots from benchmarks/results and from nothing else.

    render.py --results benchmarks/results --plots benchmarks/plots --out BENCHMARKS.md
"""
import argparse
import json
import os
import pathlib
import sys

import plot
import render_gpu
import render_serve

PRECISIONS = ("fp32", "bf16", "int8")
PROGRAMS = ("cortex", "onnxruntime", "libtorch", "onednn")


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def time_of(us):
    """Milliseconds from one on, else microseconds."""
    return f"{us / 1000:.3g} ms" if us >= 1000 else f"{us:.3g} us"


def source(report, path):
    cores = report["machine"]["cores"]
    return (f"`{report['command']}`, {report['date']}, {report['machine']['cpu']}, {cores} cores, "
            f"revision {report['revision']}: [{path.name}]({path.as_posix()})\n")


class Document:
    def __init__(self, results, plots, out):
        self.results, self.plots = results, plots
        self.base = out.parent
        self.parts = [
            "# Benchmarks\n",
            "Written by `benchmarks/render.py` from the files named below; `make bench` measures "
            "again and renders. A floor is the least time that the machine's ceilings, measured in "
            "the same run, leave a forward: arithmetic at the peak of its precision, or the bytes "
            "of weights, K and V at the read bandwidth of where they lie, whichever is longer. Red "
            "marks in the plots are floors.\n",
        ]

    def load(self, name):
        path = self.results / name
        if not path.exists():
            return None, None
        with open(path) as file:
            return json.load(file), pathlib.Path(os.path.relpath(path, self.base))

    def plot(self, name, title, unit, rows):
        if rows:
            self.picture(name, title, plot.bars(title, unit, rows))

    def picture(self, name, title, svg):
        self.plots.mkdir(parents=True, exist_ok=True)
        (self.plots / name).write_text(svg)
        link = pathlib.Path(os.path.relpath(self.plots / name, self.base)).as_posix()
        self.parts.append(f"![{title}]({link})\n")

    def ceilings(self):
        report, path = self.load("cpu_ceilings.json")
        if not report:
            return
        columns = report["results"]
        plural = lambda n: f"{n} thread" + ("s" if n > 1 else "")  # noqa: E731
        rows = [
            [label] + [number(c[key]) for c in columns]
            for label, key in (("fp32 FMA, GFLOP/s", "fp32_gflops"),
                               ("bf16 dot product, GFLOP/s", "bf16_gflops"),
                               ("int8 dot product, GOP/s", "int8_gops"))
        ]
        for i, read in enumerate(columns[0]["reads"]):
            rows.append([f"read {read['level']}, GB/s"] + [number(c["reads"][i]["gb_s"])
                                                           for c in columns])
        isa = columns[0]["isa"]
        self.parts += ["## The machine's ceilings\n", source(report, path),
                       table([isa] + [plural(c["threads"]) for c in columns], rows)]

    def decode_row(self, r):
        return [
            r["model"], r["precision"], str(r["batch"]), str(r["threads"]),
            f"{r['evict_mb']:g}", time_of(r["p50_us"]), time_of(r["p99_us"]), time_of(r["min_us"]),
            f"{r['gflops']:.0f}", time_of(r["floor_us"]), f"{100 * r['fraction_of_floor']:.0f}%"]

    def decode(self):
        report, path = self.load("cpu_decode.json")
        if not report:
            return
        header = ["model", "precision", "batch", "threads", "evicted MB", "p50", "p99", "min",
                  "GFLOP/s", "floor", "of floor"]
        for kind, title in (("window", "Windows, a whole forward"),
                            ("stream", "Streams, a step with its whole context live")):
            chosen = [r for r in report["results"] if r["kind"] == kind]
            if not chosen:
                continue
            events = sorted({r["events"] for r in chosen})
            note = (f"{'/'.join(map(str, events))} events a "
                    f"{'window' if kind == 'window' else 'step'}, random weights. Evicted: other "
                    "memory streamed over before each forward, so that weights come from far.\n")
            self.parts += [f"## {title}\n", source(report, path), note,
                           table(header, map(self.decode_row, chosen))]
            threads = max(r["threads"] for r in chosen)
            for model in sorted({r["model"] for r in chosen}):
                rows = [
                    (f"{r['precision']}, " + (f"{r['evict_mb']:g} MB evicted" if r["evict_mb"]
                                              else "warm"),
                     r["p50_us"] / 1000, (r["min_us"] / 1000, r["p99_us"] / 1000),
                     r["floor_us"] / 1000, PRECISIONS.index(r["precision"]))
                    for r in chosen
                    if r["model"] == model and r["threads"] == threads and r["batch"] == 1
                ]
                self.plot(f"cpu_{model}.svg",
                          f"{model}, batch 1, {threads} threads: p50, from min to p99", "ms", rows)

    def peers(self):
        report, path = self.load("cpu_peers.json")
        if not report:
            return
        rows = []
        for r in report["results"]:
            if "ratio" not in r:
                continue
            error = r.get("output_error")
            rows.append([
                r["preset"], r["name"] + ("" if r["what"] == "window" else ", linears alone"),
                r["precision"], time_of(r["ours_p50_us"]), time_of(r["p50_us"]),
                f"**{r['ratio']:.2f}** ({r['ratio_min']:.2f} to {r['ratio_max']:.2f})",
                "" if error is None else f"{error:.1g}"])
        self.parts += [
            "## Peers\n", source(report, path),
            f"The same weights, one window of {report['events']} events, {report['threads']} "
            f"threads, {report['rounds']} rounds in which every program has its turn. A ratio is "
            "ours over theirs within a round (median, least, most): below 1 ours is faster. Output "
            "error: against our float32, relative. ONNX Runtime is driven through Node.js, which "
            "adds tens of microseconds a call; LibTorch's bf16 is autocast over bf16 weights; "
            "oneDNN runs the linears alone, its int8 without quantising activations.\n",
            table(["model", "peer", "precision", "ours", "theirs", "ratio", "output error"], rows)]
        for preset in dict.fromkeys(r["preset"] for r in report["results"]):
            bars = [
                (f"{r['name'].replace('cortex ', 'ours, ')} {r['precision']}", r["p50_us"] / 1000,
                 (r["p50_us_min"] / 1000, r["p50_us_max"] / 1000), None,
                 PROGRAMS.index(r["program"]))
                for r in sorted(report["results"], key=lambda r: PRECISIONS.index(r["precision"]))
                if r["preset"] == preset and r["what"] == "window"
            ]
            self.plot(f"cpu_peers_{preset}.svg",
                      f"{preset}, one window: median of rounds, least to most", "ms", bars)

    def operations(self):
        report, path = self.load("cpu_ops.json")
        if not report:
            return
        rows = [[r["operation"], r["preset"], r["precision"], r["shape"], time_of(r["us"]),
                 time_of(r["floor_us"]), f"{100 * r['fraction']:.0f}%", r["bound"]]
                for r in report["results"]]
        self.parts += [
            "## Operations\n", source(report, path),
            f"{report['threads']} threads, weights and activations warm. Bound: which ceiling makes "
            "the floor.\n",
            table(["operation", "preset", "precision", "shape", "time", "floor", "of floor",
                   "bound"], rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=pathlib.Path, required=True)
    parser.add_argument("--plots", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    document = Document(args.results, args.plots, args.out)
    try:
        document.ceilings()
        document.decode()
        document.peers()
        document.operations()
        render_gpu.sections(document, table)
        render_serve.sections(document, table)
    except (KeyError, ValueError) as fault:
        sys.exit(f"render: a results file in {args.results} lacks or garbles {fault}")
    args.out.write_text("\n".join(document.parts))


if __name__ == "__main__":
    main()
