"""The protocol as spoken by `websockets`, Arrow as read by `pyarrow`, and SQLite's own answers: run by tests/it/interop.rs.

    python.py corpus DATABASE                    makes the table `corpus`, prints how many values it has
    python.py expected DATABASE QUERY KINDS PARAMS  prints what SQLite itself answers, with a kind for each column
    python.py arrow URL QUERY FIELDS             prints the same of a stream in Arrow; FIELDS go into the `stream_query`
    python.py rows URL QUERY                     runs a query in every form there is, prints what came

A cell is printed as a text that loses nothing, or null; its kind is one of: i integer, r real (its bits), t text (UTF-8 in
hexadecimal), b blob (in hexadecimal), o boolean, d days since 1970, m microseconds of a day, s microseconds since 1970, z the same in UTC.
"""
import hashlib
import json
import re
import sqlite3
import struct
import sys
import zlib

import pyarrow
import pyarrow.ipc
from websockets.sync.client import connect

I64 = 2**63
CORPUS = {
    "i INTEGER": [0, 1, None, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, 127, 128, -128, -129, 255, 256, 32767, 32768,
                  -32768, -32769, 2**23, 2**47, 2**48, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) + 1, -(2**53), -(2**53) - 1,
                  I64 - 1, I64 - 2, -I64, -I64 + 1, 10**18, -(10**18), 10**15, 999999999999999999],
    "r REAL": [0.5, -0.0, None, 0.0, 1.0, -1.0, 0.1, 0.2, 0.1 + 0.2, 1 / 3, 271 / 3, 5e-324, -5e-324, 2.2250738585072014e-308,
               2.225073858507201e-308, 1.7976931348623157e308, -1.7976931348623157e308, float("inf"), float("-inf"), 9007199254740993.0,
               9007199254740992.0, 1e15, 1e16, 1e17, 1e21, 1e22, 1e23, 9.5367431640625e-07, 1e-7, 123456789.12345679, 4.35, 0.000001,
               1.0000000000000002, 0.9999999999999999, 5e-5, 2**63 * 1.0, -(2.0**63), 1.5e300, 4.9406564584124654e-321, 8.41e21, 9.007199254740994e15],
    "s TEXT": ["a", "", None, " ", "  two  ", "\0", "a\0b", "\0\0", "nul at the end\0", "é", "e\u0301", "ﬁ", "ß", "İ", "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈",
               "مرحبا", "שלום", "\u202eleft\u202c", "日本語", "\u0e01\u0e34", "\"", "'", "''", "\\", "\\\\", "\\u0041", "\\n", "\n", "\r\n",
               "\t", "\b\f", "\x01\x02\x1f", "\x7f", "\x80\x9f", "\ufeff", "\ufeffbom", "\uffff", "\ufffe", "\ufffd", "\ud7ff", "\ue000",
               "\U00010000", "\U0010ffff", "\u2028\u2029", "</script>", "{\"rows\":[1]}", "null", "NULL", "true", "0", "-0", "1e400",
               "x" * 100_000, "é😀" * 20_000, "\u0300" * 500, ",", ";", "%s %n", "\u200b", "\u00a0"],
    "b BLOB": [b"\0", b"", None, bytes(range(256)), b"\xff", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"text", bytes(7), bytes(8), bytes(9),
               b"\x80" * 63, b"\x01" * 64, b"\x02" * 65, bytes(range(256)) * 1000, b"\0a", b"a\0", b"\xf0\x9f\x98", b"=", b"\r\n"],
    "o BOOLEAN": [1, 0, None, 1, 1, 0, 0, 1, 0, 1, 0],
    "d DATE": ["1970-01-01", "1969-12-31", None, "0001-01-01", "0000-01-01", "9999-12-31", "2000-02-29", "1900-02-28", "1900-03-01",
               "2024-02-29", "1582-10-15", "1582-10-04", "2038-01-19", "0004-02-29", "1600-02-29"],
    "m TIME": ["00:00:00", "23:59:59.999999", None, "12:34", "23:59", "00:00:00.000001", "01:02:03.1", "01:02:03.12", "01:02:03.123", "01:02:03.12345"],
    "s6 TIMESTAMP": ["1970-01-01 00:00:00", "1969-12-31 23:59:59.999999", None, "1970-01-01T00:00:00.000001", "0001-01-01 00:00:00",
                     "0000-01-01 00:00:00", "9999-12-31 23:59:59.999999", "2024-02-29 12:34", "2000-01-01 01:02:03.1", "2000-01-01T01:02:03.123",
                     "1900-01-01 00:00:00.5", "2038-01-19 03:14:08"],
    "z TIMESTAMPTZ": ["1970-01-01 00:00:00Z", "1970-01-01T00:00:00+01:00", None, "2024-12-31 23:59:59.999999-0530", "2024-06-01T12:00+14",
                      "0001-01-01 00:00:00Z", "9999-12-31 23:59:59.999999Z", "2000-02-29 00:00:00.25-12:00"],
    "n DECIMAL(20,5)": [1.5, 2.25, None, -3.125, 7],
    "x": [1.5, -0.0, None, 5e-324, float("-inf"), 2.0],
    "j JSON": ["{\"a\": 1}", "[]", None, "{\"ä\": \"\\u0000\"}"],
    "u UUID": ["7f1b4c1e-5a0e-4a53-9d8f-1c5f5f1f4f10", "00000000-0000-0000-0000-000000000000", None],
    # What does not fit its declaration, from the first cell on.
    "w INTEGER": ["not a number", "é", None, ""],
    "y BOOLEAN": [2, -1, None, I64 - 1],
    "e DATE": ["yesterday", "2024-02-30", None, "2024-1-1"],
    "f TIMESTAMP": [1764000000, 0, None, -1],
    "g TEXT": [b"\xff", b"", None, b"\0"],
    "h BLOB": [0.1, -0.0, None, 2.0**53],
    "k REAL": ["text", "1e", None],
    "p TIMESTAMP": ["2024-01-01 00:00:00.1234567", "2024-01-01 24:00:00", None],
    "q INTEGER": [0.5, 1, None, 2**53, -(2**53), 1e300],
}


def corpus(database):
    connection = sqlite3.connect(database)
    connection.execute(f"CREATE TABLE corpus(id INTEGER PRIMARY KEY, {', '.join(CORPUS)})")
    n_rows = max(map(len, CORPUS.values()))
    columns = [values + [None] * (n_rows - len(values)) for values in CORPUS.values()]
    for row in enumerate(zip(*columns)):
        connection.execute(f"INSERT INTO corpus VALUES (?{', ?' * len(CORPUS)})", [row[0], *row[1]])
    connection.commit()
    return sum(map(len, CORPUS.values()))


def bits(real):
    return struct.pack(">d", real).hex()


def time_micros(text):
    clock, _, fraction = text.partition(".")
    hours, minutes, seconds = (clock + ":00").split(":")[:3]
    return (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1_000_000 + int((fraction + "000000")[:6])


def zone_micros(text):
    sign, hours, minutes = re.fullmatch(r"([+-])(\d\d):?(\d\d)?", text).groups() if text != "Z" else ("+", "0", "0")
    return (1 if sign == "+" else -1) * (int(hours) * 3600 + int(minutes or 0) * 60) * 1_000_000


def expected(database, query, kinds, params):
    connection = sqlite3.connect(database)
    connection.text_factory = bytes

    def days(text):  # as SQLite counts them
        return connection.execute("SELECT CAST(julianday(?) - 2440587.5 AS INTEGER)", [text]).fetchone()[0]

    def cell(kind, value):
        if value is None:
            return None
        fits = {"i": int, "r": (int, float), "o": int, "b": bytes}.get(kind, bytes)
        assert isinstance(value, fits), (kind, value)
        if kind == "t" or kind == "b":
            return value.hex()
        if kind == "r":
            return bits(float(value))
        if kind == "o":
            return str(bool(value)).lower()
        if kind == "i":
            return str(value)
        text = value.decode()
        if kind == "d":
            return str(days(text))
        if kind == "m":
            return str(time_micros(text))
        day, clock, zone = re.fullmatch(r"(\S{10})[ T]([0-9:.]+)(Z|[+-].*)?", text).groups()
        assert (zone is not None) == (kind == "z"), text
        return str(days(day) * 86_400_000_000 + time_micros(clock) - (zone_micros(zone) if zone else 0))

    rows = connection.execute(query, json.loads(params)).fetchall()
    assert all(len(row) == len(kinds) for row in rows)
    return [{"kind": kind, "cells": [cell(kind, row[at]) for row in rows]} for at, kind in enumerate(kinds)]


def decompressed(codec, payload, n_bytes):
    if codec == "none":
        return payload
    if codec in ("zstd", "lz4"):
        return pyarrow.Codec(codec).decompress(payload, decompressed_size=n_bytes, asbytes=True)
    inflater = zlib.decompressobj({"gzip": 31, "deflate-raw": -15}[codec])
    text = inflater.decompress(payload) + inflater.flush()
    assert inflater.eof and not inflater.unused_data
    return text


def run(url, query, fields, deflate):
    """A query to its end: the payloads in order, `query_completed`, and what is worth knowing about the way there."""
    options = {"subprotocols": ["rowstream.v1"], "max_size": None, "compression": "deflate" if deflate else None}
    payloads, codecs = [], {}
    with connect(url, **options) as connection:
        connection.send(json.dumps({"type": "stream_query", "query": query, "checksum": True, "row_format": "array", **fields}))
        while True:
            message = connection.recv(timeout=60)
            if isinstance(message, bytes):
                start = 4 + int.from_bytes(message[:4], "big")
                said = json.loads(message[4:start])
                payload = decompressed(said["compression"], message[start:], said["uncompressed_bytes"])
                assert len(payload) == said["uncompressed_bytes"]
                codecs[said["compression"]] = codecs.get(said["compression"], 0) + 1
            else:
                said = json.loads(message)
                if said["type"] == "query_batch":
                    start = re.search('"rows":', message).end()
                    payload = message[start : json.JSONDecoder().raw_decode(message, start)[1]].encode()
                    codecs["text"] = codecs.get("text", 0) + 1
            if said["type"] == "query_batch":
                assert said["checksum"] == f"{zlib.crc32(payload):08x}"
                payloads.append(payload)
            elif said["type"] == "query_completed":
                extensions = ", ".join(extension.name for extension in connection.protocol.extensions)
                return payloads, said, {"codecs": codecs, "extensions": extensions, "subprotocol": connection.subprotocol}
            elif said["type"] == "error":
                raise SystemExit(f"{said['code']}: {said['message']}")


KINDS = {"int64": "i", "double": "r", "string": "t", "binary": "b", "bool": "o", "date32[day]": "d", "time64[us]": "m",
         "timestamp[us]": "s", "timestamp[us, tz=UTC]": "z"}


def arrow(url, query, fields):
    payloads, completed, _ = run(url, query, {**json.loads(fields), "format": "arrow"}, False)
    stream = b"".join(payloads)
    assert completed["digest"] == hashlib.sha256(stream).hexdigest()
    table = pyarrow.ipc.open_stream(stream).read_all()
    table.validate(full=True)
    assert table.num_rows == completed["total_rows"]
    columns = []
    for field, column in zip(table.schema, table.columns):
        kind = KINDS[str(field.type)]
        raw = {"t": pyarrow.binary(), "d": pyarrow.int32(), "m": pyarrow.int64(), "s": pyarrow.int64(), "z": pyarrow.int64()}.get(kind)
        write = {"r": bits, "t": bytes.hex, "b": bytes.hex, "o": lambda flag: str(flag).lower()}.get(kind, str)
        cells = [None if cell is None else write(cell) for cell in (column.cast(raw) if raw else column).to_pylist()]
        metadata = (field.metadata or {}).get(b"rowstream:type", b"").decode()
        columns.append({"name": field.name, "type": metadata, "kind": kind, "cells": cells})
    return columns


def rows(url, query):
    forms = {"plain": ({}, False), "permessage-deflate": ({}, True)}
    for codec in ("gzip", "deflate-raw", "zstd", "lz4"):
        forms[codec] = ({"compression": [codec]}, False)
    forms["gzip over permessage-deflate"] = ({"compression": ["gzip"]}, True)
    result = {}
    for name, (fields, deflate) in forms.items():
        payloads, completed, facts = run(url, query, fields, deflate)
        digest = hashlib.sha256(b",".join(payload[1:-1] for payload in payloads)).hexdigest()
        assert digest == completed["digest"]
        n_rows = sum(len(json.loads(payload)) for payload in payloads)
        result[name] = {"digest": digest, "n_rows": n_rows, **facts}
    return result


if __name__ == "__main__":
    commands = {"corpus": corpus, "expected": expected, "arrow": arrow, "rows": rows}
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
