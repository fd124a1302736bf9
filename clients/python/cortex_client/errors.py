"""What can go wrong. Every error is a CortexError; its class says what to do about it."""


class CortexError(Exception):
    """`code` is the server's name for it, `status` as of HTTP, `field` the value at fault."""

    code = "internal"

    def __init__(self, message, *, code=None, status=0, field="", expected=None):
        super().__init__(message)
        self.message = message
        self.status = status
        self.field = field
        self.expected = expected
        if code is not None:
            self.code = code


class InvalidArgument(CortexError):
    """A value that the caller gave is wrong; nothing was taken."""

    code = "invalid_argument"


class OutOfOrder(CortexError):
    """Not the session's next step; `expected` is. Nothing was taken."""

    code = "out_of_order"


class TooLarge(CortexError):
    """Over a limit that the message names; nothing was taken."""

    code = "too_large"


class Unauthorized(CortexError):
    """The API key is missing or wrong."""

    code = "unauthorized"


class SessionLost(CortexError):
    """The session expired or was closed; its caches are gone."""

    code = "not_found"


class Refused(CortexError):
    """Refused at the door: sessions, capacity or a queue are full. Try later."""

    code = "resource_exhausted"


class DeadlineExceeded(CortexError):
    """The answer would have come too late."""

    code = "deadline_exceeded"


class Unavailable(CortexError):
    """The server is not there, loading, draining, or the connection was lost."""

    code = "unavailable"


class ProtocolError(CortexError):
    """The other side does not speak the protocol of this client."""

    code = "corrupt_data"


_CLASSES = {
    c.code: c
    for c in (InvalidArgument, OutOfOrder, TooLarge, Unauthorized, SessionLost, Refused,
              DeadlineExceeded, Unavailable)
}


def error_of(code, message, *, status=0, field="", expected=None):
    """The error of a code in a frame of the server."""
    kind = _CLASSES.get(code, CortexError)
    return kind(message, code=code, status=status, field=field, expected=expected)
