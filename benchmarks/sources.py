#!/usr/bin/env python3
"""Digest of the CUDA sources, and whether the GPU results in benchmarks/results were measured with
these.

    sources.py        prints the digest
    sources.py --check    names each GPU result file that is older than src/kernels/cuda; exits 77
"""
import hashlib
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STALE = 77  # ctest counts it as skipped, and says so


def cuda_digest():
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src/kernels/cuda").iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def main():
    if sys.argv[1:] != ["--check"]:
        print(cuda_digest())
        return 0
    now = cuda_digest()
    stale = []
    for path in sorted((ROOT / "benchmarks/results").glob("gpu_*.json")):
        measured = json.loads(path.read_text()).get("cuda_sources")
        if measured != now:
            stale.append(path.name)
            print(f"STALE: {path.relative_to(ROOT)} was measured with src/kernels/cuda {measured}, "
                  f"which is {now} now: run `make bench-gpu` on a machine with a GPU")
    return STALE if stale else 0


if __name__ == "__main__":
    sys.exit(main())
