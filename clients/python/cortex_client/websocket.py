"""The client's side of a WebSocket (RFC 6455) over TCP, TLS or a Unix socket."""
import base64
import hashlib
import os
import socket
import ssl
import struct
import time
import urllib.parse

from .errors import ProtocolError, Unauthorized, Unavailable

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MOST_HEAD = 64 << 10
_MOST_MESSAGE = 64 << 20


def _connect(url, timeout_s, tls):
    """A connected socket and what to call the host."""
    if url.startswith("unix:"):
        path = url[len("unix:"):]
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(path[2:] if path.startswith("//") else path)
        except OSError:
            sock.close()
            raise
        return sock, "localhost"
    parts = urllib.parse.urlsplit(url if "://" in url else "http://" + url)
    secure = parts.scheme in ("https", "wss")
    if parts.scheme not in ("http", "ws", "https", "wss") or not parts.hostname:
        raise ValueError(f"{url}: only http, ws, https, wss and unix: are understood")
    port = parts.port or (443 if secure else 80)
    sock = socket.create_connection((parts.hostname, port), timeout=timeout_s)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure:
            context = tls or ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=parts.hostname)
    except OSError:
        sock.close()
        raise
    return sock, parts.netloc.rpartition("@")[2]


def _mask(payload, key):
    """XOR with the repeated key, as one big integer: Python has no faster loop."""
    n = len(payload)
    repeated = (key * (n // 4 + 1))[:n]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(n, "big")


class WebSocket:
    """Blocking; a wait of more than `timeout_s` for one message is Unavailable."""

    def __init__(self, url, path, *, api_key="", timeout_s=30.0, connect_timeout_s=10.0, tls=None):
        self._url = url
        self._timeout_s = timeout_s
        self._buffer = bytearray()
        try:
            self._socket, host = _connect(url, connect_timeout_s, tls)
        except OSError as why:
            raise Unavailable(f"cannot connect to {url}: {why}") from why
        try:
            self._upgrade(path, host, api_key, time.monotonic() + connect_timeout_s)
        except BaseException:
            self._socket.close()
            raise

    def _upgrade(self, path, host, api_key, until):
        key = base64.b64encode(os.urandom(16))
        request = (f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
                   "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                   f"Sec-WebSocket-Key: {key.decode()}\r\n")
        if api_key:
            request += f"Authorization: Bearer {api_key}\r\n"
        self._send(request.encode() + b"\r\n")
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MOST_HEAD:
                raise ProtocolError(f"{self._url}: the server's header does not end")
            self._fill(until)
        head = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[:end + 4]
        status = head[0].split(" ")[1] if head[0].startswith("HTTP/1.") else "?"
        if status != "101":
            kind = Unauthorized if status == "401" else Unavailable
            raise kind(f"{self._url}{path}: the server answered {status}",
                       status=int(status) if status.isdigit() else 0)
        headers = {name.strip().lower(): value.strip()
                   for name, _, value in (line.partition(":") for line in head[1:])}
        expected = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        if headers.get("sec-websocket-accept") != expected:
            raise ProtocolError(f"{self._url}{path}: Sec-WebSocket-Accept is not that of our key")

    def _send(self, data):
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(data)
        except OSError as why:
            raise self._lost(why) from why

    def _fill(self, until):
        left = until - time.monotonic()
        if left <= 0:
            raise self._lost("timed out")
        try:
            self._socket.settimeout(left)
            data = self._socket.recv(65536)
        except OSError as why:
            raise self._lost(why) from why
        if not data:
            raise self._lost("the other side closed it")
        self._buffer += data

    def _lost(self, why):
        self._socket.close()
        return Unavailable(f"the connection to {self._url} is lost: {why}")

    def send(self, payload, opcode=BINARY):
        n = len(payload)
        if n < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | n)
        elif n < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, n)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, n)
        key = os.urandom(4)
        self._send(head + key + _mask(payload, key))

    def _take(self, n, until):
        while len(self._buffer) < n:
            self._fill(until)
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    def _frame(self, until):
        """(is it the last part, opcode, payload) of the next frame."""
        first, second = self._take(2, until)
        length = second & 127
        if length == 126:
            (length,) = struct.unpack("!H", self._take(2, until))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._take(8, until))
        opcode = first & 15
        is_control = opcode >= 8
        if first & 0x70 or second & 0x80 or length > (125 if is_control else _MOST_MESSAGE):
            self._socket.close()
            raise ProtocolError(f"{self._url}: a frame that no server may send")
        return bool(first & 0x80), opcode, self._take(length, until)

    def receive(self):
        """(opcode, payload) of the next message: TEXT or BINARY. Answers pings meanwhile."""
        until = time.monotonic() + self._timeout_s
        kind, parts = 0, []
        while True:
            is_last, opcode, payload = self._frame(until)
            if opcode == PING:
                self.send(payload, PONG)
            elif opcode == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
                reason = payload[2:].decode("utf-8", "replace")
                raise self._lost(f"the server closed it ({code} {reason})")
            elif opcode != PONG:
                kind = kind or opcode
                parts.append(payload)
                if is_last:
                    return kind, b"".join(parts)

    def close(self):
        try:
            self.send(struct.pack("!H", 1000), CLOSE)
        except Unavailable:
            pass
        self._socket.close()
