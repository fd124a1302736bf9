import struct
import unittest

from cortex_client import OutOfOrder, ProtocolError, Refused
from cortex_client.frames import Answer, BinaryFrames, JsonFrames, Options
from cortex_client.websocket import _mask


class Binary(unittest.TestCase):
    def test_a_step_is_the_one_that_the_protocol_spells_out(self):
        self.assertEqual(
            BinaryFrames.step(7, [(3, 29, 2)], 0, None),
            bytes.fromhex("01020000 01000000 0700000000000000"
                          "0000000000000000 0000000000000000"
                          "03000000 02000000 1d00000000000000"))

    def test_an_open_frame_has_every_option(self):
        frame = BinaryFrames.open(Options(units=["u17", "u4"], allow_missing_units=True,
                                          first_step=90, drop_out_of_step=True, deadline_ms=15.5,
                                          best_effort=True, rate_hz=50, model="arm"))
        self.assertEqual(frame, struct.pack("<BBHIqQd", 1, 1, 13, 2, 90, 15500, 50.0)
                         + b"\3\0arm" + b"\3\0u17" + b"\2\0u4")

    def test_an_answer_is_read_to_the_last_field(self):
        frame = struct.pack("<BBHIq qqqq ff", 1, 130, 1, 2, 41, 2500000, 1000000, 500000, 3, 1.5,
                            -2.25)
        self.assertEqual(BinaryFrames.parse(frame),
                         Answer(41, [1.5, -2.25], "late", 2.5, 1.0, 0.5, 3))

    def test_an_error_keeps_its_code_place_and_what_was_expected(self):
        text = b"".join(struct.pack("<H", len(t)) + t
                        for t in (b"out_of_order", b"expected 7", b"sequence_number"))
        error = BinaryFrames.parse(struct.pack("<BBHIqq", 1, 132, 409, 0, 9, 7) + text)
        self.assertIsInstance(error, OutOfOrder)
        self.assertEqual((error.status, error.message, error.field, error.expected),
                         (409, "expected 7", "sequence_number", 7))

    def test_every_bad_frame_is_an_error(self):
        frame = struct.pack("<BBHIq qqqq ff", 1, 130, 0, 2, 41, 1, 1, 1, 0, 1.0, 1.0)
        for bad in [frame[:n] for n in range(len(frame))] + [frame + b"x", b"\2" + frame[1:],
                                                             b"\1\x63" + frame[2:]]:
            with self.assertRaises(ProtocolError):
                BinaryFrames.parse(bad)


class Json(unittest.TestCase):
    def test_frames_are_those_of_the_protocol(self):
        self.assertEqual(
            JsonFrames.step(7, [(3, 29, 2)], 2, 4),
            b'{"sequence_number":7,"events":[{"neuron_id":3,"time_bin":29,"value":2}],'
            b'"gap":2,"deadline_ms":4}')
        self.assertEqual(JsonFrames.open(Options()), b'{"open": {}}')
        self.assertEqual(JsonFrames.open(Options(best_effort=False, rate_hz=50.0)),
                         b'{"open": {"best_effort": false, "rate_hz": 50.0}}')

    def test_an_answer_has_the_bits_of_a_float32(self):
        answer = JsonFrames.parse(b'{"sequence_number":1,"behavior":[0.1],"latency_ms":1}')
        self.assertEqual(answer.behavior, [struct.unpack("<f", struct.pack("<f", 0.1))[0]])

    def test_a_refusal_is_typed(self):
        error = JsonFrames.parse(b'{"error":{"code":"resource_exhausted","message":"full",'
                                 b'"field":"","status":429}}')
        self.assertIsInstance(error, Refused)

    def test_every_bad_frame_is_an_error(self):
        for bad in (b"", b"[", b"{}", b"7", b'{"sequence_number":1,"behavior":["x"]}', b"\xff",
                    b'{"error":1}', b'{"opened":{}}', b'{"closed":{"steps":1}}'):
            with self.assertRaises(ProtocolError, msg=bad):
                JsonFrames.parse(bad)


class Masking(unittest.TestCase):
    def test_it_is_its_own_inverse(self):
        for n in (0, 1, 3, 4, 5, 1000):
            payload = bytes(i % 251 for i in range(n))
            masked = _mask(payload, b"\1\2\3\4")
            self.assertEqual(len(masked), n)
            self.assertEqual(_mask(masked, b"\1\2\3\4"), payload)
        self.assertEqual(_mask(b"\0\0\0\0\0", b"\1\2\3\4"), b"\1\2\3\4\1")


if __name__ == "__main__":
    unittest.main()
