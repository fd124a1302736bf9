#!/usr/bin/env python3
"""A lab's own recordings to a served model: each command of docs/tutorial.md, its seconds and R².

    own_files.py --programs build/release/apps --days monday.nwb tuesday.nwb \\
        --strip center_out.nwb --minutes 2 --work own --out benchmarks/results/own_files.json

--days: two recordings of one animal, both as they are; then the first one's model is adapted to the
second, and the second one's, with a single trial, to its own day, where nothing can be gained.
--strip: a recording without its split, velocity and held-out column, and imported from the CSV and
from the MAT file that it is turned into. What `inspect` says is the training command; --day-flags
stand in for its bins, since two days need the same.

Ends with 1 where a command fails or a flight log is not replayed to the same bits. Needs
python3-h5py and python3-scipy.
"""
import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import time

import recording_variants as variants
from results import write_results

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "serve"))
from serving import Server


class Failed(Exception):
    pass


class Chain:
    """The commands of one recording, in a folder of its name, and what came of each."""

    def __init__(self, programs, folder, rows):
        self.programs = programs
        self.folder = folder
        self.rows = rows
        folder.mkdir(parents=True)

    def run(self, words, keep=(), may_fail=False):
        """The command's JSON. `keep`: what of it goes into the row."""
        words = [str(word) for word in words]
        begun = time.monotonic()
        ran = subprocess.run([self.programs / words[0], *words[1:], "--json"],
                             capture_output=True, text=True)
        row = {"command": shown(words), "seconds": round(time.monotonic() - begun, 1)}
        if ran.returncode != 0:
            row["error"] = ran.stderr.strip().splitlines()[-1].replace(f"{self.folder}/", "")
            if not may_fail or not ran.stdout:
                raise Failed(f"{row['command']}: {row['error']}")
        said = json.loads(ran.stdout.strip().splitlines()[-1])
        row.update({key: said[key] for key in keep})
        self.add(row)
        return said

    def add(self, row):
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def file(self, ending):
        return self.folder / f"{self.folder.name}{ending}"


def shown(words):
    """As a person would type it, where the files are."""
    return shlex.join(pathlib.Path(w).name if "/" in w and "://" not in w else w for w in words)


def training_flags(command):
    """Of the command that `inspect` prints, all that names no file."""
    words = shlex.split(command)[2:]
    pairs = [(words[i], words[i + 1]) for i in range(0, len(words), 2)]
    return [word for pair in pairs if pair[0] not in ("--nwb", "--out") for word in pair]


def serve_own_file(chain, nwb, args, flags=None):
    """From a recording to a served and verified model. Returns the model in float32."""
    model, small = chain.file(".safetensors"), chain.file("-int8.safetensors")
    advice = chain.run(["cortex", "inspect", nwb], ["units", "spikes", "trials", "notes"])
    if flags is None:
        flags = training_flags(advice["train"])
    chain.run(["cortex-train", "train", "--nwb", nwb, *flags, "--minutes", args.minutes,
               *args.threads, "--quiet", "--out", model], ["r2", "iterations"])
    chain.run(["cortex-train", "evaluate", "--model", model, "--nwb", nwb, *args.threads],
              ["r2", "steps"])
    chain.run(["cortex", "quantize", "--model", model, "--calibrate", nwb, "--out", small],
              ["r2_before", "r2_after", "output_error"])
    logs = chain.file(".logs")
    logs.mkdir()
    with Server(chain.programs / "cortex", small, "--record", logs) as server:
        chain.run(["cortex", "replay", "--nwb", nwb, "--url", server.url, "--speed", "max"],
                  ["r2", "steps", "latency_us", "deadline_ms", "missed"])
    chain.run(["cortex", "verify", max(logs.glob("*.cortexlog"))], ["same", "sessions", "lost", "ended"])
    return model


def adapt(chain, model, nwb, trials, args):
    words = ["cortex-train", "adapt", "--model", model, "--nwb", nwb, "--trials", trials,
             "--out", chain.file(".safetensors"), *args.threads, "--quiet"]
    chain.run(words, ["before_r2", "after_r2", "iterations", "written"], may_fail=True)


def measure(args):
    results = {}

    def chain(name):
        return Chain(args.programs, args.work / name, results.setdefault(name, []))

    if args.days:
        before, today = args.days
        models = [serve_own_file(chain(day.stem), day, args, args.day_flags) for day in args.days]
        adapt(chain(f"{today.stem}-adapted"), models[0], today, 20, args)
        adapt(chain(f"{today.stem}-refused"), models[1], today, 1, args)
    if args.strip:
        less = chain(f"{args.strip.stem}-stripped")
        serve_own_file(less, variants.stripped(args.strip, less.file(".nwb")), args)
        for kind, write in (("csv", variants.as_csv), ("mat", variants.as_mat)):
            own = chain(f"{args.strip.stem}-{kind}")
            own.run(["cortex", "import", *write(args.strip, own.folder), "--out", own.file(".nwb")])
            serve_own_file(own, own.file(".nwb"), args)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, type=lambda p: pathlib.Path(p).resolve(),
                        help="folder of cortex and cortex-train")
    parser.add_argument("--days", nargs=2, type=pathlib.Path, metavar=("BEFORE", "TODAY"))
    parser.add_argument("--day-flags", type=shlex.split,
                        default="--bin-ms 100 --step-ms 100 --window-steps 20")
    parser.add_argument("--strip", type=pathlib.Path)
    parser.add_argument("--minutes", default="2", help="of each training")
    parser.add_argument("--threads", type=lambda n: ["--threads", n], default=[],
                        help="of training; default: all cores")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    if not args.days and not args.strip:
        parser.error("which recordings? --days, --strip")
    if args.work.exists():
        parser.error(f"--work {args.work}: is there already")
    try:
        results = measure(args)
    except Failed as failure:
        sys.exit(f"own_files: {failure}")
    if args.out:
        words = ["benchmarks/own_files.py", "--minutes", args.minutes, *args.threads]
        words += ["--days", *(day.name for day in args.days)] if args.days else []
        words += ["--strip", args.strip.name] if args.strip else []
        write_results(args.out, "own_files", shlex.join(words), results)


if __name__ == "__main__":
    main()
