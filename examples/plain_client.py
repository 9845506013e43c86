"""A rowstream client in plain Python, written from src/protocol/spec.md alone: a pattern for clients in any language.

    python3 examples/plain_client.py ws[s]://HOST:PORT/ws "SELECT ..." [--gzip]

Rows go to standard output, one JSON object a line. Ctrl-C cancels the query on the server. A lost connection is resumed.
Exit codes: 0 all rows, 1 query error, 2 usage, 3 cannot connect, 4 connection lost for good, 130 cancelled.
"""
import base64, contextlib, hashlib, json, os, re, signal, socket, ssl, sys, time, zlib
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG, PORTS = 1, 8, 9, 10, {"ws": 80, "wss": 443}  # opcodes, and where a server listens
BYTES_MAX = 32 * 1024 * 1024  # of a message, and of a payload once it is decompressed
SILENCE_S = 45  # a server that says nothing for so long is gone: progress alone comes twice a second
CODECS = {"none": None, "gzip": 31, "deflate-raw": -15}  # with zlib's number for each

def fail(code, text):
    sys.stderr.write(f"plain_client: {text}\n")
    sys.exit(code)

class WebSocket:
    """One connection (RFC 6455): whole messages out of frames; pings and closes are answered."""
    def __init__(self, url):
        parts, key = urlsplit(url), base64.b64encode(os.urandom(16)).decode()
        self.socket = socket.create_connection((parts.hostname, parts.port or PORTS[parts.scheme]), timeout=SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # no ack need wait for the next
        if parts.scheme == "wss":
            self.socket = ssl.create_default_context().wrap_socket(self.socket, server_hostname=parts.hostname)
        self.reader = self.socket.makefile("rb")
        self.socket.sendall((f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket"
                             f"-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: rowstream.v1\r\n\r\n").encode())
        status, *headers = [line.strip() for line in iter(self.reader.readline, b"\r\n") if line or self.take(1)]
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        if not status.startswith(b"HTTP/1.1 101") or not any(line.endswith(b" " + accept) for line in headers):
            raise ConnectionError(f"the server answers without a WebSocket handshake: {status!r}")  # later it may

    def take(self, n):
        if len(taken := self.reader.read(n)) < n:
            raise ConnectionError("the server ended it")
        return taken

    def message(self):
        """The next message: a str, or bytes."""
        kind, message = 0, b""
        while True:
            first, second = self.take(2)
            n = second if second < 126 else int.from_bytes(self.take(2 if second == 126 else 8), "big")
            if first & 0x70 or second & 0x80 or len(message) + n > BYTES_MAX:
                fail(4, "the server sent a frame that may not be, or is too large")
            opcode, payload = first & 15, self.take(n)
            if opcode == PING:
                self.send(payload, PONG)
            elif opcode == CLOSE:
                self.send(payload[:2], CLOSE)
                raise ConnectionError(f"the server closed it with {int.from_bytes(payload[:2], 'big')}")
            elif opcode < CLOSE:  # the first frame of a message has its kind, the others have 0
                kind, message = kind or opcode, message + payload
                if first & 0x80:
                    return message.decode() if kind == TEXT else message

    def send(self, message, opcode=TEXT):
        payload = json.dumps(message).encode() if opcode == TEXT else message
        n, mask = len(payload), os.urandom(4)
        length = bytes([n | 0x80]) if n < 126 else b"\xfe" + n.to_bytes(2, "big") if n < 65536 else b"\xff" + n.to_bytes(8, "big")
        self.socket.sendall(bytes([opcode | 0x80]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))

def fields_and_rows(message):
    """A message's fields, and of a batch the exact text of its rows, of which checksum and digest are made."""
    if isinstance(message, str):
        fields, key = json.loads(message), re.search(r'"rows"\s*:\s*', message)  # only a key: quotes in strings are escaped
        return fields, message[key.end():json.JSONDecoder().raw_decode(message, key.end())[1]].encode() if fields["type"] == "query_batch" else b""
    start = 4 + int.from_bytes(message[:4], "big")
    fields, text = json.loads(message[4:start]), message[start:]
    n, codec = fields["uncompressed_bytes"], CODECS[fields["compression"]]
    text = zlib.decompressobj(codec).decompress(text, n + 1) if codec and n <= BYTES_MAX else text
    if len(text) != n:
        fail(1, f"batch {fields['batch_number']} has not the {n} bytes that it promises")
    return {**fields, "rows": json.loads(text)}, text

class Query:
    """One query, over as many connections as it takes."""
    def __init__(self, url, **request):
        self.url, self.request, self.name = url, request, {"request_id": "q"}
        self.connection, self.cancelling, self.token, self.retries_max, self.retries = None, False, None, 0, 0
        self.last_batch, self.n_rows, self.digest = -1, 0, hashlib.sha256()

    def cancel(self, *_signal):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the second one need not wait for the server
        self.cancelling = True
        with contextlib.suppress(OSError, AttributeError):  # without a connection it is sent on the next one
            self.connection.send({"type": "cancel_query", **self.name})

    def run(self):
        while True:
            try:
                self.connection = connection = WebSocket(self.url)
                resume = {"type": "resume_query", "resume_token": self.token, "last_batch": self.last_batch}
                connection.send(resume if self.token else {"type": "stream_query", **self.request, **self.name})
                if self.cancelling:  # what was said on the connection before may be lost
                    self.cancel()
                while True:
                    self.on_message(*fields_and_rows(connection.message()))
            except OSError as error:
                if self.retries == self.retries_max:
                    fail(4 if self.connection else 3, f"no connection: {error}")
                print(f"connection lost ({error}): resuming after batch {self.last_batch}", file=sys.stderr)
                time.sleep(0.25 if self.retries else 0)
                self.retries += 1
            except (ValueError, LookupError, TypeError, AttributeError, zlib.error) as error:
                fail(1, f"the server said what cannot be read: {error!r}")

    def on_message(self, fields, text):
        kind, code = fields["type"], fields.get("code")
        if kind in ("query_started", "query_resumed"):
            self.token, self.name, self.retries = fields["resume_token"], {"stream_id": fields["stream_id"]}, 0
            self.retries_max = 4 * fields.get("retention", {"seconds": self.retries_max // 4})["seconds"]
        elif kind == "query_batch" and fields["batch_number"] > self.last_batch:  # others have been printed
            if fields["batch_number"] != self.last_batch + 1 or fields["checksum"] != f"{zlib.crc32(text):08x}":
                fail(1, f"batch {fields['batch_number']} is damaged, or one before it is missing")
            self.digest.update((b"," if self.n_rows else b"") + text[1:-1])
            try:
                print(*(json.dumps(row, ensure_ascii=False) for row in fields["rows"]), sep="\n", flush=True)
            except BrokenPipeError:  # nobody reads on, as with `| head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                self.cancel()
            self.last_batch, self.n_rows = fields["batch_number"], self.n_rows + len(fields["rows"])
            self.connection.send({"type": "ack", "batch_number": self.last_batch, **self.name})
        elif code == "SLOW_CONSUMER":
            raise ConnectionError(code)
        elif kind in ("query_completed", "query_cancelled") or kind == "error" and code != "STREAM_NOT_FOUND":
            with contextlib.suppress(OSError):  # all is known already
                if "stream_id" in fields:
                    self.connection.send({"type": "ack", "batch_number": self.last_batch, "end": True, **self.name})
                self.connection.send((1000).to_bytes(2, "big"), CLOSE)
                self.connection.reader.read()  # until the server has read it all
            if kind == "query_cancelled":
                fail(130 if self.cancelling else 1, f"cancelled: {fields['reason']}")
            if kind == "error":
                fail(4 if self.token and "stream_id" not in fields else 1, f"{code}: {fields['message']}")
            if (fields["total_rows"], fields["digest"]) != (self.n_rows, self.digest.hexdigest()):
                fail(1, "the rows are not those that the server has sent")
            sys.exit(0)

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[3:] not in ([], ["--gzip"]) or urlsplit(sys.argv[1]).scheme not in PORTS:
        fail(2, __doc__)
    query = Query(sys.argv[1], query=sys.argv[2], window={"batches": 16}, resumable=True, checksum=True,
                  compression=["gzip", "deflate-raw"] if sys.argv[3:] else [])
    signal.signal(signal.SIGINT, query.cancel)
    sys.stdout.reconfigure(encoding="utf-8")
    query.run()
