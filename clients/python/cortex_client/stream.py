"""One session over one connection; it ends with the connection."""
from .errors import CortexError, ProtocolError
from .frames import FRAMES, Answer, Info, Options, Summary
from .websocket import WebSocket


class StreamClient:
    """Opens a session on a server of a stream model.

        with StreamClient("http://127.0.0.1:8080") as client:
            info = client.open()
            answer = client.step(info.next_step, [(3, 0, 1)])   # (unit, bin, value)

    `url`: http, https, ws or wss with host and port, or unix:PATH. `frames`: "binary" or "json".
    Errors of the server leave the session usable; Unavailable says that the connection is lost.
    """

    def __init__(self, url, *, frames="binary", api_key="", timeout_s=30.0, connect_timeout_s=10.0,
                 tls=None):
        self._frames = FRAMES[frames]
        self._socket = WebSocket(url, self._frames.path, api_key=api_key, timeout_s=timeout_s,
                                 connect_timeout_s=connect_timeout_s, tls=tls)

    def open(self, options=None):
        """The Info of a new session; `options`: see Options."""
        return self._ask(self._frames.open(options or Options()), Info)

    def step(self, number, events, *, gap=0, deadline_ms=None):
        """Sends step `number` and waits for its Answer. `events`: (unit, bin, value) each."""
        self.send(number, events, gap=gap, deadline_ms=deadline_ms)
        return self.receive()

    def send(self, number, events, *, gap=0, deadline_ms=None):
        """Half of step(), to send ahead: answers come in the order of their steps."""
        self._socket.send(self._frames.step(number, events, gap, deadline_ms),
                          self._frames.opcode)

    def receive(self):
        return self._read(Answer)

    def close(self):
        """Ends the session; its Summary."""
        summary = self._ask(self._frames.close(), Summary)
        self._socket.close()
        return summary

    def cut(self):
        """Ends the connection without a word."""
        self._socket.close()

    def _ask(self, frame, kind):
        self._socket.send(frame, self._frames.opcode)
        return self._read(kind)

    def _read(self, kind):
        frame = self._frames.parse(self._socket.receive()[1])
        if isinstance(frame, CortexError):
            raise frame
        if not isinstance(frame, kind):
            raise ProtocolError(f"the server sent {type(frame).__name__}, not {kind.__name__}")
        return frame

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut()
