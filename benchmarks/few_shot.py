#!/usr/bin/env python3
"""Few labelled trials of a new day: from scratch, adapted from another day, pretrained on spikes.

    few_shot.py --cortex-train build/release/apps/cortex-train --before day1.nwb --day day2.nwb \
        --work few_shot --out benchmarks/results/few_shot.json

Every run is logged, whatever came of it. What `--work` holds already is not run again.
"""
import argparse
import concurrent.futures
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import threading
import time

from results import gpu_names, write_results

MODEL = ["--preset", "stream-nano", "--bin-ms", "100", "--step-ms", "100", "--window-steps", "20"]
LEARN = ["--select", "last", "--split-val", "none", "--quiet"]
METHODS = ["scratch", "adapted", "fine-tuned", "pretrained", "both days", "both days, pretrained",
           "as it is"]


class Runs:
    def __init__(self, args):
        self.args = args
        self.args.work.mkdir(parents=True, exist_ok=True)
        self.log = self.args.work / "runs.json"
        self.rows = json.loads(self.log.read_text()) if self.log.exists() else []
        self.lock = threading.Lock()
        self.pool = concurrent.futures.ThreadPoolExecutor(args.jobs)
        self.begun = []

    def call(self, words):
        words = [str(w) for w in words]
        ran = subprocess.run(
            [self.args.cortex_train, *words, "--threads", str(self.args.threads),
             "--device", self.args.device, "--json"],
            stdout=subprocess.PIPE, text=True)
        if ran.returncode != 0:
            raise RuntimeError(f"{shlex.join(words)}: ended with {ran.returncode}")
        return json.loads(ran.stdout.strip().splitlines()[-1])

    def file(self, name):
        return self.args.work / f"{name}.safetensors"

    def make(self, name, words):
        """A model file that other runs start from."""
        if not self.file(name).exists():
            self.call([*words, "--out", self.file(name), "--resume"])
        return self.file(name)

    def begin(self, method, trials, seed, words, score):
        if method not in self.args.methods:
            return
        name = f"{method}_{trials}_{seed}".replace(" ", "-").replace(",", "")
        if not any(row["name"] == name and "r2" in row for row in self.rows):
            self.begun.append(self.pool.submit(self.run, name, method, trials, seed, words, score))

    def wait(self):
        for run in concurrent.futures.as_completed(self.begun):
            run.result()

    def run(self, name, method, trials, seed, words, score):
        begun = time.monotonic()
        row = {"name": name, "method": method, "trials": trials, "seed": seed,
               "command": self.shown(words)}
        try:
            said = self.call([*words, "--out", self.file(name)])
            row["r2"] = score(said, self.file(name))
        except RuntimeError as failure:
            row["failed"] = str(failure)
        row["seconds"] = round(time.monotonic() - begun, 1)
        with self.lock:
            self.rows = [other for other in self.rows if other["name"] != name] + [row]
            self.log.write_text(json.dumps(self.rows, indent=1))
            print(f"{name}: {row.get('failed') or format(row['r2'], '.4f')}", flush=True)

    def shown(self, words):
        return shlex.join(["cortex-train", *(pathlib.Path(w).name if "/" in str(w) else str(w) for w in words)])

    def evaluated(self, said, model):
        return self.call(["evaluate", "--model", model, "--nwb", self.args.day])["r2"]


def curves(runs):
    args = runs.args
    updates = ["--iterations", args.iterations]
    day = ["train", *MODEL, "--nwb", args.day, *LEARN, *updates]
    before_words = ["train", *MODEL, "--nwb", args.before, *LEARN, *updates]
    making = runs.pool.submit(runs.make, "before", before_words)
    spikes = runs.file("pretrained")
    if any("pretrained" in method for method in args.methods):
        runs.make("pretrained", ["pretrain", *MODEL, "--nwb", f"{args.before},{args.day}",
                                 "--units-by", "session", "--split-val", "none", "--quiet",
                                 *updates])
    before = making.result()
    after = lambda said, model: said["after_r2"]
    some = lambda trials: ["--train-trials", trials] if trials != "all" else []
    both = ["train", *MODEL, "--nwb", f"{args.before},{args.day}", "--units-by", "session", *LEARN,
            "--iterations", args.both_iterations]
    for seed in range(1, args.seeds + 1):
        chance = ["--seed", seed]
        for trials in args.trials:
            adapt = ["adapt", "--model", before, "--nwb", args.day, "--force", "--quiet", *chance,
                     "--trials", trials]
            if trials != "all":
                runs.begin("adapted", trials, seed,
                           [*adapt, "--iterations", args.adapt_iterations], after)
            runs.begin("scratch", trials, seed, [*day, *chance, *some(trials)], runs.evaluated)
            runs.begin("fine-tuned", trials, seed,
                       [*day, *chance, *some(trials), "--init", before, "--lr", "5e-4"],
                       runs.evaluated)
            runs.begin("pretrained", trials, seed,
                       [*day, *chance, *some(trials), "--init", spikes, "--lr", "1e-3"],
                       runs.evaluated)
            few = ["--train-trials", f"0,{0 if trials == 'all' else trials}"]
            runs.begin("both days", trials, seed, [*both, *chance, *few], runs.evaluated)
            runs.begin("both days, pretrained", trials, seed,
                       [*both, *chance, *few, "--init", spikes, "--lr", "1e-3"], runs.evaluated)
    runs.begin("as it is", 0, 1,
               ["adapt", "--model", before, "--nwb", args.day, "--force", "--quiet", "--trials", 1,
                "--iterations", 1],
               lambda said, model: said["before_r2"])
    runs.wait()


def summary(rows):
    rows = [row for row in rows if "r2" in row]
    out = []
    for method, trials in dict.fromkeys((row["method"], row["trials"]) for row in rows):
        scores = [r["r2"] for r in rows if (r["method"], r["trials"]) == (method, trials)]
        out.append({"method": method, "trials": trials, "runs": len(scores),
                    "r2": statistics.fmean(scores), "least": min(scores), "most": max(scores)})
    of = {(row["method"], row["trials"]): row["r2"] for row in out}
    for row in out:
        low, high = of.get(("scratch", row["trials"])), of.get(("scratch", "all"))
        if row["method"] != "scratch" and None not in (low, high) and high > low:
            row["gap_closed"] = (row["r2"] - low) / (high - low)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cortex-train", required=True)
    parser.add_argument("--before", required=True, help="recording of another day")
    parser.add_argument("--day", required=True, help="recording of the new day")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--trials", default="20,all,1,10,100")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--adapt-iterations", type=int, default=300)
    parser.add_argument("--both-iterations", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=1, help="of a run")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, of every run")
    args = parser.parse_args()
    args.trials = [t if t == "all" else int(t) for t in args.trials.split(",")]
    runs = Runs(args)
    curves(runs)
    for row in summary(runs.rows):
        print(row)
    failed = [row["name"] for row in runs.rows if "failed" in row]
    if args.out:
        device = {"device": {"gpu": gpu_names()[0]}} if args.device == "cuda" else {}
        write_results(args.out, "few_shot",
                      "benchmarks/few_shot.py --before DAY1.nwb --day DAY2.nwb",
                      {"summary": summary(runs.rows), "runs": runs.rows},
                      **device, before=pathlib.Path(args.before).name,
                      day=pathlib.Path(args.day).name)
    if failed:
        sys.exit(f"few_shot: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
