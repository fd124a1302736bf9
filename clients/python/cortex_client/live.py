"""A stream that outlives its server."""
import collections
import dataclasses
import time

from .errors import CortexError, InvalidArgument, OutOfOrder, TooLarge, Unavailable
from .frames import Answer, Options
from .stream import StreamClient

_BETWEEN_ATTEMPTS_S = 0.02
# The server would take such a step from nobody.
_CALLERS_FAULT = (InvalidArgument, OutOfOrder, TooLarge)


@dataclasses.dataclass
class LiveAnswer(Answer):
    """`error` is why the step has no answer and never will; None where it has one.
    `replayed_steps` were sent again just before it, into a new session."""

    error: CortexError | None = None
    replayed_steps: int = 0

    @property
    def is_lost(self):
        return self.error is not None


class LiveSession:
    """Keeps the last steps that answers depend on. When the connection or the session is lost it
    opens another, sends them again at full speed and goes on: from there the answers have the bits
    of an uninterrupted session.

        session = LiveSession("http://127.0.0.1:8080")
        while running:
            answer = session.step(events)          # (unit, bin, value) each
            hold() if answer.behavior is None else move(answer.behavior)
        print(session.lost)                        # [(first, last), ...]

    `reconnect_s`: how long one step may take to find a server again; then it is lost and the next
    step tries. 0: one attempt. The first server must be there.
    """

    def __init__(self, url, options=None, *, reconnect_s=0.0, **client):
        # An unreachable host costs a step as much.
        client.setdefault("connect_timeout_s", 1.0)
        self._url, self._client_options = url, client
        self._options = options or Options()
        self._reconnect_s = reconnect_s
        self._client = StreamClient(url, **client)
        try:
            self.info = self._client.open(self._options)
            if self.info.kind != "stream" or self.info.context_steps < 1:
                raise InvalidArgument(f"{url} serves no stream that could be resumed")
        except BaseException:
            self._client.cut()
            raise
        self.next_step = self._first_step = self.info.next_step
        self._history = collections.deque(maxlen=self.info.context_steps)  # (step, events)
        self.lost = []  # ranges of steps without an answer, first and last
        self.decoded = 0
        self.resumed = 0
        self.replayed_steps = 0

    def step(self, events, *, gap=0):
        """The LiveAnswer of the next step, after `gap` silent ones. Raises what is the caller's
        fault (InvalidArgument, TooLarge), and then takes nothing."""
        number = self.next_step + gap
        events = [tuple(event) for event in events]
        self._check(number, events, gap)
        replayed, error, answer = self.replayed_steps, None, None
        if self._client is not None:
            try:
                answer = self._client.step(number, events, gap=gap)
            except _CALLERS_FAULT:
                raise
            except CortexError as why:
                error = why
                if not _is_withheld(why):
                    self._drop()
        if self._client is None:
            try:
                answer, error = self._resume(number, events), None
            except CortexError as why:
                error = why
        self.next_step = number + 1
        self._history.append((number, events))
        live = LiveAnswer(number) if answer is None else LiveAnswer(**vars(answer))
        live.error, live.replayed_steps = error, self.replayed_steps - replayed
        if error is None:
            self.decoded += 1
        else:
            self._lose(number)
        return live

    def close(self):
        """Ends the server's session, if one is open."""
        if self._client is not None:
            try:
                self._client.close()
            except CortexError:
                pass
            self._drop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _check(self, number, events, gap):
        info = self.info
        if gap < 0:
            raise OutOfOrder(f"gap is {gap}, not at least 0", field="gap", expected=self.next_step)
        if len(events) > info.max_events:
            raise TooLarge(f"{len(events)} events, at most {info.max_events} are allowed",
                           field="events")
        first = number * info.bins_per_step
        last = first + info.bins_per_step - 1
        for i, (unit, time_bin, value) in enumerate(events):
            if not 0 <= unit < info.units:
                raise InvalidArgument(f"events[{i}].unit is {unit}, allowed are 0 to "
                                      f"{info.units - 1}", field=f"events[{i}].unit")
            if value < 1:
                raise InvalidArgument(f"events[{i}].value is {value}, not at least 1",
                                      field=f"events[{i}].value")
            if not first <= time_bin <= last and not self._options.drop_out_of_step:
                raise InvalidArgument(f"events[{i}].bin is {time_bin}, step {number} owns bins "
                                      f"{first} to {last}", field=f"events[{i}].bin")

    def _drop(self):
        if self._client is not None:
            self._client.cut()
            self._client = None

    def _lose(self, number):
        if self.lost and self.lost[-1][1] == number - 1:
            self.lost[-1] = (self.lost[-1][0], number)
        else:
            self.lost.append((number, number))

    def _resume(self, number, events):
        until = time.monotonic() + self._reconnect_s
        while True:
            try:
                return self._resume_once(number, events)
            except CortexError:
                if self._client is not None or time.monotonic() + _BETWEEN_ATTEMPTS_S > until:
                    raise
                time.sleep(_BETWEEN_ATTEMPTS_S)

    def _resume_once(self, number, events):
        client = StreamClient(self._url, **self._client_options)
        try:
            first = max(self._first_step, number - self.info.context_steps + 1)
            info = client.open(dataclasses.replace(self._options, first_step=first))
            if info.digest != self.info.digest:
                raise Unavailable(f"{self._url} now serves another model ({info.digest}, it was "
                                  f"{self.info.digest})")
            expected = self._replay(client, first, info.max_queued_steps)
            answer = client.step(number, events, gap=number - expected)
        except CortexError as why:
            if not _is_withheld(why):
                client.cut()
                raise
            self._client = client
            self.resumed += 1
            raise
        self._client = client
        self.resumed += 1
        return answer

    def _replay(self, client, first, ahead):
        """Sends the steps from `first` again; the one that the session expects next."""
        expected, in_flight = first, 0
        for number, events in self._history:
            if number < first:
                continue
            if in_flight >= max(1, ahead):
                _receive(client)
                in_flight -= 1
            client.send(number, events, gap=number - expected)
            expected, in_flight = number + 1, in_flight + 1
            self.replayed_steps += 1
        for _ in range(in_flight):
            _receive(client)
        return expected


def _is_withheld(error):
    """The step was taken and its output withheld; the session goes on."""
    return error.code == "internal" and error.field == "behavior"


def _receive(client):
    try:
        client.receive()
    except CortexError as why:
        if not _is_withheld(why):
            raise
