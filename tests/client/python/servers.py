"""`cortex serve` as a process, to be killed."""
import atexit
import os
import pathlib
import random
import subprocess

CORTEX = os.environ["CORTEX_BINARY"]
MODEL = os.environ["CORTEX_MODEL"]
UNITS, BINS = 96, 1  # of the committed model


class Server:
    """Ready once the object is there."""

    def __init__(self, *flags, port="0", model=MODEL):
        self._process = subprocess.Popen(
            [CORTEX, "serve", "--model", model, "--port", port, "--device", "cpu", *flags],
            stdout=subprocess.PIPE, text=True)
        atexit.register(self.kill)  # whatever becomes of the test
        for line in self._process.stdout:
            if line.startswith("cortex: serving "):
                self.url = line.split()[-1]
                return
        raise RuntimeError(f"cortex serve ended with {self._process.wait()}")

    @property
    def port(self):
        return self.url.rpartition(":")[2]

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def events_of(step):
    """The same at every call: (unit, bin, value) each."""
    chance = random.Random(step)
    return [(chance.randrange(UNITS), step * BINS + chance.randrange(BINS), 1 + (chance.random() < .1))
            for _ in range(chance.randrange(20))]


def make_certificate(folder):
    """Of 127.0.0.1, signed by itself: the paths of the certificate and of its key."""
    cert, key = (str(pathlib.Path(folder) / name) for name in ("cert.pem", "key.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj",
                    "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key,
                    "-out", cert], check=True, capture_output=True)
    return cert, key


def socket_path(folder):
    return str(pathlib.Path(folder) / "cortex.sock")
