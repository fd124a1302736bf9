"""A client of `cortex serve` in pure Python; see StreamClient and LiveSession."""
from .errors import (CortexError, DeadlineExceeded, InvalidArgument, OutOfOrder, ProtocolError,
                     Refused, SessionLost, TooLarge, Unauthorized, Unavailable)
from .frames import Answer, Event, Info, Options, Output, Summary
from .live import LiveAnswer, LiveSession
from .stream import StreamClient

__all__ = ["Answer", "CortexError", "DeadlineExceeded", "Event", "Info", "InvalidArgument",
           "LiveAnswer", "LiveSession", "Options", "OutOfOrder", "Output", "ProtocolError",
           "Refused", "SessionLost", "StreamClient", "Summary", "TooLarge", "Unauthorized",
           "Unavailable"]
