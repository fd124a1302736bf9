"""Files of benchmarks/results: who measured what, where, when."""
import datetime
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent


def machine():
    with open("/proc/cpuinfo") as info:
        cpu = next(
            (line.split(": ", 1)[1].strip() for line in info if line.startswith("model name")),
            "unknown",
        )
    return {"cpu": cpu, "cores": os.cpu_count()}


def gpu_names():
    asked = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
                           stdout=subprocess.PIPE, text=True, check=True)
    return asked.stdout.strip().splitlines()


def revision():
    if "CORTEX_REVISION" in os.environ:  # of a tree without its repository
        return os.environ["CORTEX_REVISION"]
    asked = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return asked.stdout.strip() if asked.returncode == 0 else "unknown"


def write_results(path, benchmark, command, results, **more):
    report = {
        "benchmark": benchmark,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "revision": revision(),
        **more,
        "results": results,
    }
    pathlib.Path(path).write_text(json.dumps(report, indent=1) + "\n")
