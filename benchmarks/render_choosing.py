#!/usr/bin/env python3
"""Renders docs/choosing.md from benchmarks/results and from nothing else.

    render_choosing.py --results benchmarks/results --out docs/choosing.md
    render_choosing.py --results benchmarks/results --out docs/choosing.md --check

--check writes nothing and fails where the file is not what it would write.
"""
import argparse
import json
import os
import pathlib
import sys

from render import table

PRECISIONS = ("fp32", "bf16", "int8")
THREADS = 2
EVICTED_MB = 60
BASELINES = ("ridge", "kalman", "gru", "transformer", "possm")


class Results:
    def __init__(self, folder, base):
        self.folder, self.base = folder, base

    def load(self, name):
        with open(self.folder / name) as file:
            return json.load(file)

    def link(self, name):
        path = pathlib.Path(os.path.relpath(self.folder / name, self.base)).as_posix()
        return f"[{name}]({path})"

    def source(self, name, report):
        machine = report["machine"]
        if isinstance(machine, dict):
            machine = f"{machine['cpu']}, {machine['cores']} cores"
        device = report.get("device")
        gpu = f"{device['gpu']}, " if device else ""
        revision = f", revision {report['revision']}" if "revision" in report else ""
        return f"{gpu}{machine}, {report['date']}{revision}: {self.link(name)}\n"


def ms(us):
    return f"{us / 1000:.3g}"


def find(results, **wanted):
    for result in results:
        if all(result.get(key) == value for key, value in wanted.items()):
            return result
    return None


def cells(results, key, shape, **wanted):
    found = [find(results, precision=p, **wanted) for p in PRECISIONS]
    return [shape(r[key]) if r else "" for r in found]


def times(results):
    cpu = results.load("cpu_decode.json")
    parts = ["## Time\n",
             f"p99 of one step or window, alone, in ms, on {THREADS} threads. Cold: after "
             f"{EVICTED_MB} MB of other traffic, as on a machine that has more to do than decode. "
             "Weights are what a forward reads. Steps of 40 events behind a full context, windows "
             "of 512.\n",
             results.source("cpu_decode.json", cpu)]
    rows = []
    models = dict.fromkeys((r["kind"], r["model"]) for r in cpu["results"])
    for kind, model in sorted(models, key=lambda m: m[0]):
        for cold in (False, True):
            common = {"model": model, "threads": THREADS, "batch": 1,
                      "evict_mb": EVICTED_MB if cold else 0}
            if not any(cells(cpu["results"], "p99_us", ms, **common)):
                continue
            rows.append([f"`{model}`" + (", cold" if cold else ""), kind,
                         *cells(cpu["results"], "p99_us", ms, **common),
                         *cells(cpu["results"], "weight_bytes", lambda b: f"{b / 1e6:.3g}",
                                **common)])
    parts.append(table(["preset", "kind", *(f"{p}, ms" for p in PRECISIONS),
                        *(f"{p}, MB" for p in PRECISIONS)], rows))
    for name in ("gpu_streams.json", "gpu_windows.json"):
        gpu = results.load(name)
        rows = []
        for model in dict.fromkeys(r["model"] for r in gpu["results"]):
            row = cells(gpu["results"], "p99_us", ms, model=model, batch=1)
            if any(row):
                rows.append([f"`{model}`", *row])
        parts += ["The same on a GPU, p99 in ms. " + results.source(name, gpu),
                  table(["preset", *PRECISIONS], rows)]
    parts.append("`cortex doctor` measures this table on the machine at hand, adds what the "
                 "machine's own stalls take, and says which preset keeps 10, 20 and 50 ms.\n")
    return parts


def accuracy(results):
    real = results.load("center_out_98.json")
    small = results.load("quantized_center_out_98.json")["quantize"]
    demo = results.load("demo_model.json")
    sessions = [s["r2"] for s in demo["sessions"]]
    ridges = [s["ridge_15_lags_r2"] for s in demo["sessions"]]
    replay = real["replay"]
    rows = [
        [f"ridge, {real['ridge']['lags']} lags", f"{real['ridge']['r2']:.3f}", "", ""],
        ["`stream-nano`", f"{real['evaluate']['r2']:.3f}", f"{real['train']['seconds']:.0f} s",
         f"{small['file_bytes_before'] / 1e6:.2f} MB"],
        [f"`stream-nano`, {small['precision']}", f"{small['r2_after']:.3f}", "",
         f"{small['file_bytes_after'] / 1e6:.2f} MB"],
    ]
    folds = results.load("folds_center_out_98.json")
    compared = folds["comparison"]
    everyone = [[r["model"] if r["model"] in BASELINES else f"`{r['model']}`", f"{r['r2']:.3f}",
                 f"{r['r2_reset_each_trial']:.3f}", f"{r['parameters']:,}"]
                for r in folds["results"]]
    return [
        "## Accuracy\n",
        f"R² of hand velocity, one continuous stream, on {real['recording']}. "
        + results.source("center_out_98.json", real),
        table(["decoder", "R²", "trained in", "file"], rows),
        f"From float32 to {small['precision']} it goes from {small['r2_before']:.5f} to "
        f"{small['r2_after']:.5f}: {results.link('quantized_center_out_98.json')}. Served over a "
        f"socket the same stream took {ms(replay['latency_us']['p50'])} ms at the median and "
        f"{ms(replay['latency_us']['max'])} ms at worst over {replay['steps']:,} steps.\n",
        f"R² of {folds['recording']}, protocol `{compared['protocol']}`, steps of "
        f"{compared['step_ms']:.0f} ms, {compared['folds']} folds by trial, "
        f"{compared['iterations']:,} updates of every network. "
        + results.source("folds_center_out_98.json", folds),
        table(["decoder", "R²", "with a reset at each trial", "parameters"], everyone),
        f"On {len(sessions)} simulated sessions that it never saw the committed `stream-nano` has "
        f"{min(sessions):.3f} to {max(sessions):.3f}, a ridge {min(ridges):.3f} to "
        f"{max(ridges):.3f}. " + results.source("demo_model.json", demo),
    ]


def render(results):
    parts = [
        "# Choosing a decoder\n",
        "Written by `benchmarks/render_choosing.py` from the files named below.\n",
        "- **Stream or window.** A rig that wants a velocity every step takes a stream: it is "
        "causal, it remembers, and a step costs what is new in it. A window decodes one epoch at "
        "a time and costs all of it each time.\n"
        "- **How large.** Begin with `stream-nano`. Take the next one where more data makes it "
        "better on trials held back (`cortex-train compare --folds`), not because there is time "
        "for it; for accuracy alone, and with a GPU to train on, `stream-deep`.\n"
        "- **Which precision.** `cortex quantize` says what int8 costs on your own recording; take "
        "it unless it says too much. bf16 needs no calibration.\n"
        "- **How many trials.** No result here says how many trials a new rig needs; "
        "`cortex-train train --train-trials N` on your own recording does.\n",
    ]
    return "\n".join(parts + times(results) + accuracy(results))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = render(Results(arguments.results, arguments.out.parent))
    if not arguments.check:
        arguments.out.write_text(text)
    elif arguments.out.read_text() != text:
        sys.exit(f"{arguments.out} is not what {sys.argv[0]} writes: run it without --check")


if __name__ == "__main__":
    main()
