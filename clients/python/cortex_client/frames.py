"""Frames of docs/protocol.md: JSON (/stream) and binary (/v1/stream)."""
import dataclasses
import json
import struct
import typing

from .errors import CortexError, ProtocolError, error_of
from .websocket import BINARY, TEXT


class Event(typing.NamedTuple):
    """A unit that fired `value` times in a bin, which counts from the session's start."""

    unit: int
    bin: int
    value: int = 1


class Output(typing.NamedTuple):
    name: str
    unit: str


@dataclasses.dataclass
class Info:
    """What the server said when the session opened."""

    session_id: str = ""
    kind: str = ""  # "stream" or "window"
    model: str = ""
    preset: str = ""
    precision: str = ""
    digest: str = ""
    bin_ms: float = 0.0
    step_ms: float = 0.0
    target_offset_ms: float = 0.0
    rate_hz: float = 0.0
    bins_per_step: int = 0
    units: int = 0
    max_events: int = 0
    max_queued_steps: int = 1
    window_steps: int = 0
    context_steps: int = 0
    next_step: int = 0
    outputs: list[Output] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Answer:
    """Of one step. `behavior` is None where it was refused: computed, but too late."""

    step: int
    behavior: list[float] | None = None
    status: str = "fresh"  # "fresh", "late" or "refused"
    latency_ms: float = 0.0
    queue_wait_ms: float = 0.0
    inference_ms: float = 0.0
    dropped_events: int = 0


@dataclasses.dataclass
class Summary:
    """Totals of a session, said when it closes."""

    steps: int = 0
    late: int = 0
    refused: int = 0
    dropped_events: int = 0
    p50_us: float = 0.0
    p99_us: float = 0.0
    p999_us: float = 0.0
    max_us: float = 0.0


@dataclasses.dataclass
class Options:
    """How a session opens; see the protocol for what each means."""

    units: list[str] = dataclasses.field(default_factory=list)
    allow_missing_units: bool = False
    first_step: int = 0
    drop_out_of_step: bool = False
    deadline_ms: float | None = None
    best_effort: bool | None = None
    rate_hz: float = 0.0
    model: str = ""


class JsonFrames:
    path = "/stream"
    opcode = TEXT

    @staticmethod
    def open(options):
        body = {name: value for name, value in dataclasses.asdict(options).items()
                if value not in (None, False, "", [], 0) or value is False and name == "best_effort"}
        return json.dumps({"open": body}).encode()

    @staticmethod
    def step(number, events, gap, deadline_ms):
        frame = {"sequence_number": number,
                 "events": [{"neuron_id": unit, "time_bin": time_bin, "value": value}
                            for unit, time_bin, value in events]}
        if gap:
            frame["gap"] = gap
        if deadline_ms is not None:
            frame["deadline_ms"] = deadline_ms
        return json.dumps(frame, separators=(",", ":")).encode()

    @staticmethod
    def close():
        return b'{"close":true}'

    @staticmethod
    def parse(payload):
        """Info, Answer, Summary or a CortexError that the frame is."""
        try:
            frame = json.loads(payload)
            return _parsed(frame)
        except (ValueError, KeyError, TypeError, OverflowError, struct.error) as why:
            raise ProtocolError(f"not a frame of the protocol: {why!r}") from why


def _parsed(frame):
    if "error" in frame:
        e = frame["error"]
        return error_of(e["code"], e["message"], status=e.get("status", 0),
                        field=e.get("field", ""), expected=e.get("expected"))
    if "opened" in frame:
        o = frame["opened"]
        model = o.get("model", {})
        names = {f.name for f in dataclasses.fields(Info)}
        return Info(**{name: value for name, value in o.items()
                       if name in names - {"model", "outputs", "next_step"}},
                    model=model.get("name", ""), preset=model.get("preset", ""),
                    precision=model.get("precision", ""), digest=model.get("digest", ""),
                    next_step=o.get("sequence_number", 0),
                    outputs=[Output(x["name"], x["unit"]) for x in o["outputs"]])
    if "closed" in frame:
        c = frame["closed"]
        q = c["latency_us"]
        return Summary(c["steps"], c["late"], c["refused"], c["dropped_events"], q["p50"],
                       q["p99"], q["p999"], q["max"])
    # The digits are those of a float32: rounding to it again gives the server's very bits.
    behavior = frame["behavior"]
    return Answer(frame["sequence_number"],
                  None if behavior is None else [_float32(v) for v in behavior],
                  frame.get("status", "fresh"), frame.get("latency_ms", 0.0),
                  frame.get("queue_wait_ms", 0.0), frame.get("inference_ms", 0.0),
                  frame.get("dropped_events", 0))


def _float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


class _Reader:
    def __init__(self, payload):
        self._payload, self._at = payload, 0

    def take(self, form):
        values = struct.unpack_from("<" + form, self._payload, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def string(self):
        (n,) = self.take("H")
        (data,) = self.take(f"{n}s")
        return data.decode()

    def at_end(self):
        return self._at == len(self._payload)


def _string(text):
    data = text.encode()
    return struct.pack("<H", len(data)) + data


def _effort(best_effort):
    return 0 if best_effort is None else 1 if best_effort else 2


class BinaryFrames:
    path = "/v1/stream"
    opcode = BINARY
    _VERSION = 1
    _STATUS = ("fresh", "late", "refused")

    @classmethod
    def open(cls, options):
        flags = (_effort(options.best_effort) | 4 * options.allow_missing_units
                 | 8 * options.drop_out_of_step)
        return (struct.pack("<BBHIqQd", cls._VERSION, 1, flags, len(options.units),
                            options.first_step, round((options.deadline_ms or 0) * 1000),
                            options.rate_hz)
                + _string(options.model) + b"".join(map(_string, options.units)))

    @classmethod
    def step(cls, number, events, gap, deadline_ms):
        head = struct.pack("<BBHIqqQ", cls._VERSION, 2, 0, len(events), number, gap,
                           round((deadline_ms or 0) * 1000))
        return head + b"".join([struct.pack("<iiq", unit, value, time_bin)
                                for unit, time_bin, value in events])

    @classmethod
    def close(cls):
        return struct.pack("<BBHIq", cls._VERSION, 3, 0, 0, 0)

    @classmethod
    def parse(cls, payload):
        """Info, Answer, Summary or a CortexError that the frame is."""
        reader = _Reader(payload)
        try:
            version, kind, flags, count, sequence = reader.take("BBHIq")
            if version != cls._VERSION:
                raise ProtocolError(f"the server's frame has version {version}, not 1")
            read = {129: cls._info, 130: cls._answer, 131: cls._summary, 132: cls._error}[kind]
            frame = read(reader, flags, count, sequence)
        except (struct.error, KeyError, IndexError, UnicodeDecodeError) as why:
            raise ProtocolError(f"not a frame of the protocol: {why!r}") from why
        if not reader.at_end():
            raise ProtocolError("a frame that is longer than its fields")
        return frame

    @staticmethod
    def _info(reader, flags, count, sequence):
        info = Info(kind="window" if flags else "stream", next_step=sequence)
        session, info.bin_ms, info.step_ms, info.target_offset_ms = reader.take("Qddd")
        info.session_id = str(session)
        (info.bins_per_step, info.units, info.max_events, info.max_queued_steps,
         info.window_steps, info.context_steps, _, _, info.rate_hz) = reader.take("IIIIIIIId")
        info.model, info.preset, info.precision, info.digest = (reader.string() for _ in range(4))
        info.outputs = [Output(reader.string(), reader.string()) for _ in range(count)]
        return info

    @classmethod
    def _answer(cls, reader, flags, count, sequence):
        latency, wait, inference, dropped = reader.take("qqqq")
        behavior = list(reader.take(f"{count}f"))
        status = cls._STATUS[flags]
        return Answer(sequence, None if status == "refused" else behavior, status, latency / 1e6,
                      wait / 1e6, inference / 1e6, dropped)

    @staticmethod
    def _summary(reader, flags, count, sequence):
        return Summary(*reader.take("qqqqdddd"))

    @staticmethod
    def _error(reader, flags, count, sequence):
        (expected,) = reader.take("q")
        code, message, field = (reader.string() for _ in range(3))
        return error_of(code, message, status=flags, field=field,
                        expected=expected if expected >= 0 else None)


FRAMES = {"json": JsonFrames, "binary": BinaryFrames}
__all__ = ["Answer", "BinaryFrames", "CortexError", "Event", "FRAMES", "Info", "JsonFrames",
           "Options", "Output", "Summary"]
