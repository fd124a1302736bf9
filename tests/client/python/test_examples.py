"""The examples do what their first lines say."""
import os
import pathlib
import subprocess
import sys
import unittest

from servers import Server

PYTHON_EXAMPLE = pathlib.Path(os.environ["CORTEX_CLIENTS"]) / "python" / "example.py"


class Examples(unittest.TestCase):
    def run_example(self, *command):
        with Server() as server:
            ran = subprocess.run([*command, server.url, "20"], capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        lines = ran.stdout.splitlines()
        self.assertEqual(len(lines), 21, ran.stdout)
        self.assertTrue(lines[-1].startswith("20 decoded"), lines[-1])
        self.assertTrue(lines[0].startswith("0 ") and lines[0].endswith("mm/s"), lines[0])

    def test_python(self):
        self.run_example(sys.executable, str(PYTHON_EXAMPLE))

    def test_cpp(self):
        self.run_example(os.environ["CORTEX_CLIENT_EXAMPLE"])

    def test_without_a_server_they_say_so(self):
        for command in ([sys.executable, str(PYTHON_EXAMPLE)],
                        [os.environ["CORTEX_CLIENT_EXAMPLE"]]):
            ran = subprocess.run([*command, "http://127.0.0.1:1"], capture_output=True, text=True)
            self.assertEqual(ran.returncode, 1)
            self.assertIn("cannot connect to http://127.0.0.1:1", ran.stderr)


if __name__ == "__main__":
    unittest.main()
