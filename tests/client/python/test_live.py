"""The Python client against `cortex serve`, killed and started again."""
import shutil
import ssl
import tempfile
import threading
import time
import unittest

from servers import Server, events_of, make_certificate, socket_path

from cortex_client import (InvalidArgument, LiveSession, Options, OutOfOrder, SessionLost,
                           StreamClient, TooLarge, Unavailable)


def uninterrupted(url, steps):
    """Answers of one session that nothing happens to; steps not in `steps` are silent."""
    outputs, expected = {}, 0
    with StreamClient(url, frames="json") as client:
        client.open(Options(best_effort=True))
        for n in steps:
            outputs[n] = client.step(n, events_of(n), gap=n - expected).behavior
            expected = n + 1
    return outputs


class Rig:
    def __init__(self, url, frames, **options):
        # No answer is withheld for its deadline on a busy machine.
        self.session = LiveSession(url, Options(best_effort=True), frames=frames,
                                   connect_timeout_s=30.0, **options)
        self.outputs = {}

    def step(self, n=None):
        gap = 0 if n is None else n - self.session.next_step
        number = self.session.next_step + gap
        answer = self.session.step(events_of(number), gap=gap)
        if not answer.is_lost:
            self.outputs[number] = answer.behavior
        return answer

    def run(self, end):
        while self.session.next_step < end:
            self.step()


class Cases:
    frames = None

    def test_a_stream_is_answered_step_by_step(self):
        with Server() as server, StreamClient(server.url, frames=self.frames) as client:
            info = client.open()
            self.assertEqual((info.kind, info.units, info.bins_per_step), ("stream", 96, 1))
            self.assertEqual(info.outputs[0].unit, "mm/s")
            for n in range(5):
                answer = client.step(n, events_of(n))
                self.assertEqual((answer.step, len(answer.behavior or [0, 0])), (n, 2))
            self.assertEqual(client.close().steps, 5)

    def test_errors_are_typed_and_leave_the_session_usable(self):
        with Server() as server, StreamClient(server.url, frames=self.frames) as client:
            client.open()
            with self.assertRaises(OutOfOrder) as caught:
                client.step(4, [])
            self.assertEqual(caught.exception.expected, 0)
            with self.assertRaises(InvalidArgument) as caught:
                client.step(0, [(96, 0, 1)])
            self.assertIn("96", caught.exception.message)
            self.assertEqual(client.step(0, []).step, 0)
            with self.assertRaises(InvalidArgument):
                StreamClient(server.url, frames=self.frames).open(Options(units=["nobody"]))

    def test_after_a_kill_the_answers_have_the_bits_of_an_uninterrupted_session(self):
        with Server() as server:
            rig = Rig(server.url, self.frames)
            context = rig.session.info.context_steps
            killed = context + 30
            rig.run(killed)
        rig.run(killed + 3)
        with Server(port=server.port) as server:
            answer = rig.step()
            self.assertEqual((answer.is_lost, answer.replayed_steps), (False, context - 1))
            rig.run(killed + 20)
            expected = uninterrupted(server.url, range(killed + 20))
        for n in range(killed, killed + 3):
            del expected[n]
        self.assertEqual(rig.outputs, expected)
        self.assertEqual(rig.session.lost, [(killed, killed + 2)])
        self.assertEqual((rig.session.decoded, rig.session.resumed), (killed + 17, 1))

    def test_silences_and_a_young_stream_are_replayed_too(self):
        steps = [0, 1, 2, 7, 8, 30, 31, 32, 90]
        with Server() as server:
            rig = Rig(server.url, self.frames)
            for n in steps[:5]:
                rig.step(n)
        with Server(port=server.port) as server:
            for n in steps[5:]:
                self.assertFalse(rig.step(n).is_lost)
            self.assertEqual(rig.outputs, uninterrupted(server.url, steps))
        self.assertEqual(rig.session.lost, [])

    def test_a_step_may_wait_for_the_server_to_come_back(self):
        servers = [Server()]
        rig = Rig(servers[0].url, self.frames, reconnect_s=60.0)
        rig.run(5)
        servers[0].kill()
        later = threading.Timer(0.2, lambda: servers.append(Server(port=servers[0].port)))
        later.start()
        rig.run(8)
        later.join()
        self.assertEqual((rig.session.lost, rig.session.resumed), ([], 1))
        servers[1].kill()

    def test_an_expired_session_is_resumed(self):
        with Server("--idle-timeout", "0.2") as server:
            rig = Rig(server.url, self.frames)
            rig.run(8)
            with StreamClient(server.url, frames=self.frames) as client:
                client.open()
                client.step(0, [])
                time.sleep(1)
                # Without a history this is an error: the server invents nothing.
                with self.assertRaises((SessionLost, Unavailable)):
                    client.step(1, [])
            rig.run(12)
            self.assertEqual((rig.session.lost, rig.session.resumed), ([], 1))
            self.assertEqual(rig.outputs, uninterrupted(server.url, range(12)))

    def test_another_model_never_takes_over(self):
        with Server() as server:
            rig = Rig(server.url, self.frames)
            rig.run(3)
        with Server(port=server.port, model="identity"):
            answer = rig.step()
            self.assertIn("another model", str(answer.error))
        self.assertEqual(rig.session.lost, [(3, 3)])

    def test_bad_events_are_the_callers_and_take_nothing(self):
        with Server() as server:
            rig = Rig(server.url, self.frames)
            rig.run(3)
            self.refuses_bad_events(rig.session)
        self.refuses_bad_events(rig.session)
        with Server(port=server.port) as server:
            rig.run(6)
            self.assertEqual(rig.outputs, uninterrupted(server.url, range(6)))

    def refuses_bad_events(self, session):
        for bad in ((96, 3, 1), (-1, 3, 1), (1, 3, 0), (1, 2, 1)):
            with self.assertRaises(InvalidArgument):
                session.step([bad])
        with self.assertRaises(TooLarge):
            session.step([(1, 3, 1)] * 5000)
        self.assertEqual(session.next_step, 3)

    def test_nobody_there_is_said_at_once(self):
        with self.assertRaises(Unavailable):
            LiveSession("http://127.0.0.1:1", frames=self.frames)

    def test_a_unix_socket_does_as_well(self):
        with tempfile.TemporaryDirectory() as folder:
            path = socket_path(folder)
            with Server("--unix", path):
                rig = Rig("unix:" + path, self.frames)
                rig.run(4)
            rig.run(5)
            with Server("--unix", path) as server:
                rig.run(9)
                expected = uninterrupted(server.url, range(9))
        del expected[4]
        self.assertEqual(rig.outputs, expected)


@unittest.skipUnless(shutil.which("openssl"), "no openssl to make a certificate with")
class OverTls(unittest.TestCase):
    def test_a_stream_survives_behind_a_certificate_that_is_trusted(self):
        with tempfile.TemporaryDirectory() as folder:
            cert, key = make_certificate(folder)
            tls = ssl.create_default_context(cafile=cert)
            flags = ("--tls-cert", cert, "--tls-key", key)
            with Server(*flags) as server:
                self.assertTrue(server.url.startswith("https://"), server.url)
                with self.assertRaises(Unavailable):
                    LiveSession(server.url)
                session = LiveSession(server.url, tls=tls, connect_timeout_s=30.0)
                self.assertFalse(session.step(events_of(0)).is_lost)
            self.assertTrue(session.step(events_of(1)).is_lost)
            with Server(*flags, port=server.port):
                answer = session.step(events_of(2))
                self.assertEqual((answer.error, answer.replayed_steps), (None, 2))


class OverJson(Cases, unittest.TestCase):
    frames = "json"


class OverBinary(Cases, unittest.TestCase):
    frames = "binary"


if __name__ == "__main__":
    unittest.main()
