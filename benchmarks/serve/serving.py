"""A server to measure and the program that loads it."""
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))


def fail(message):
    sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {message}")


class Server:
    """`cortex serve` on a free port and a Unix socket, ready once the object is there."""

    def __init__(self, cortex, model, *flags):
        self._folder = tempfile.TemporaryDirectory()
        self.unix = "unix:" + str(pathlib.Path(self._folder.name) / "cortex.sock")
        # One client sends all there is: it may send as fast as it likes.
        command = [cortex, "serve", "--model", model, "--port", "0", "--unix",
                   self.unix[len("unix:"):], "--max-rate", "0", *map(str, flags)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self._process.stdout:
            if line.startswith("cortex: serving "):
                self.what = line[len("cortex: serving "):].rpartition(" on ")[0]
                self.url = line.split()[-1]
                break
        else:
            fail(f"{shlex.join(command)} ended with {self._process.wait()}")

    def rss_bytes(self):
        with open(f"/proc/{self._process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self):
        """Drains; fails where the server does not end well."""
        self._process.terminate()
        if (code := self._process.wait(30)) != 0:
            fail(f"cortex serve ended with {code}")
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


class MemoryWatch:
    """Samples a server's resident memory for as long as it is loaded: not while the answers are
    verified afterwards."""

    def __init__(self, server, seconds):
        self._server = server
        self._every_s = max(0.1, seconds / 360)
        self._most = max(1, int(seconds / self._every_s))
        self.samples = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self):
        while len(self.samples) < self._most and not self._done.wait(self._every_s):
            self.samples.append(self._server.rss_bytes())

    def __enter__(self):
        self.samples.append(self._server.rss_bytes())
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def report(self):
        """Growth: from the mean of the second tenth of the samples to that of the last tenth (the
        first tenth warms up)."""
        tenth = max(1, len(self.samples) // 10)
        early = self.samples[tenth:2 * tenth] or self.samples[:1]
        late = self.samples[-tenth:]
        mean = lambda values: sum(values) / len(values)  # noqa: E731
        return {"samples": len(self.samples), "early_mib": mean(early) / 2**20,
                "late_mib": mean(late) / 2**20, "most_mib": max(self.samples) / 2**20,
                "growth": mean(late) / mean(early) - 1}


def load(cortex, *flags, quiet=False):
    """The report of `cortex load`, which also goes to standard error."""
    command = [cortex, "load", *map(str, flags), "--json"]
    ran = subprocess.run(command, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL if quiet else None, text=True)
    if ran.returncode != 0:
        fail(f"{shlex.join(command)}: ended with {ran.returncode}")
    report = json.loads(ran.stdout.strip().splitlines()[-1])
    report["flags"] = shlex.join(map(str, flags))
    return report


def sessions_capacity(cortex, server, sessions, seconds, events):
    """Steps a second with every session sending the next one when one is answered."""
    return load(cortex, "--url", server.unix, "--sessions", sessions, "--rate", "max", "--seconds",
                seconds, "--events", events, quiet=True)["answered_hz"]


def windows_capacity(cortex, server, connections, seconds, events):
    return load(cortex, "--url", server.unix, "--windows", "--connections", connections,
                "--seconds", seconds, "--events", events, quiet=True)["answered_hz"]


def say(text):
    print(text, file=sys.stderr, flush=True)


