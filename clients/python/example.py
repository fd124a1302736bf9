#!/usr/bin/env python3
"""Streams random spikes to `cortex serve` at the model's pace and prints what comes back, through
the server's death: kill it and start it again while this runs.

    example.py URL [STEPS]
"""
import random
import sys
import time

from cortex_client import CortexError, LiveSession


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    with LiveSession(url) as session:
        info = session.info
        start = time.monotonic()
        for n in range(steps):
            # The rig's own clock: step n leaves when its last bin has ended.
            time.sleep(max(0.0, start + (n + 1) * info.step_ms / 1000 - time.monotonic()))
            spikes = [(random.randrange(info.units), n * info.bins_per_step, 1)]
            answer = session.step(spikes)
            if answer.is_lost:
                print(f"{n} lost: {answer.error}")
            elif answer.behavior is not None:
                print(f"{n} {answer.behavior[0]:g} {info.outputs[0].unit}")
    print(f"{session.decoded} decoded, lost {session.lost}, resumed {session.resumed} times")


if __name__ == "__main__":
    try:
        main()
    except CortexError as error:
        sys.exit(str(error))
