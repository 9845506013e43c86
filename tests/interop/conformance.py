"""The specification's documents and the vectors, tried by `jsonschema` and `websockets`: run by tests/it/documents.rs.

    conformance.py documents SCHEMA ASYNCAPI METASCHEMA  holds both documents to what JSON Schema and AsyncAPI say they are to be
    conformance.py transcripts SCHEMA [FILE URL]...  runs each transcript as tests/vectors/README.md says, against a server of its own,
                                                     and each message of the server by the schema

They print how many references, or steps, they have tried.
"""
import json
import re
import sys
import zlib
from pathlib import Path

import pyarrow
from jsonschema.validators import Draft202012Validator, validator_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SECONDS_MAX = 60  # for anything that is waited for


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from references(item)


def resolve(document, pointer):
    for name in pointer.strip("/").split("/"):
        document = document[name]
    return document


def documents(schema, asyncapi, metaschema):
    documents = {"schema.json": read(schema), "": read(asyncapi)}
    Draft202012Validator.check_schema(documents["schema.json"])
    assert documents["schema.json"]["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    metaschema = read(metaschema)
    validator_for(metaschema)(metaschema).validate(documents[""])
    n_references = 0
    for name, document in documents.items():
        for reference in references(document):
            file, pointer = reference.split("#")
            assert resolve(documents[file.removeprefix("./") or name], pointer) is not None
            n_references += 1
    return n_references


KINDS = {
    "$integer": lambda value: type(value) is int,
    "$number": lambda value: type(value) in (int, float),
    "$boolean": lambda value: type(value) is bool,
    "$string": lambda value: type(value) is str,
    "$id": lambda value: type(value) is str and re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", value),
    "$any": lambda value: True,
}
ABSENT = object()


class Transcript:
    def __init__(self, url, schema):
        self.url, self.bound, self.connections = url, {}, {}
        self.validators = {
            name: Draft202012Validator({**schema, "$ref": f"#/$defs/{name}"}) for name in ("ServerMessage", "ServerQueryBatchHeader")
        }

    def matches(self, expected, found):
        if isinstance(expected, str) and expected.startswith("$") and not expected.startswith("$$"):
            kind, _, name = expected.partition(":")
            if kind == "$absent" or found is ABSENT:
                return (kind == "$absent") == (found is ABSENT)
            return bool(KINDS[kind](found)) and (not name or self.bound.setdefault(name, found) == found)
        if isinstance(expected, str):
            return found == (expected[1:] if expected.startswith("$$") else expected)
        if isinstance(expected, dict) and isinstance(found, dict):
            return all(self.matches(value, found.get(name, ABSENT)) for name, value in expected.items())
        if isinstance(expected, list) and isinstance(found, list):
            return len(expected) == len(found) and all(map(self.matches, expected, found))
        return type(expected) is type(found) and expected == found

    def fill(self, template):
        if isinstance(template, str) and template.startswith("$$"):
            return template[1:]
        if isinstance(template, str) and template.startswith("$"):
            return self.bound[template.partition(":")[2]]
        if isinstance(template, list):
            return [self.fill(item) for item in template]
        if isinstance(template, dict):
            return {name: self.fill(value) for name, value in template.items()}
        return template

    def next(self, connection, expected):
        asked = [message["type"] for message in expected]
        while True:
            found = json.loads(connection.recv(timeout=SECONDS_MAX))
            self.validators["ServerMessage"].validate(found)
            if found["type"] in asked or found["type"] not in ("query_queued", "query_progress"):
                return found

    def take(self, name, kind, what):
        if kind == "connect":
            subprotocols = [what["subprotocol"]] if "subprotocol" in what else None
            self.connections[name] = connect(self.url, subprotocols=subprotocols, compression=None, max_size=None)
            return
        connection = self.connections[name]
        if kind == "disconnect":
            connection.socket.close()
        elif kind == "client":
            connection.send(json.dumps(self.fill(what)))
        elif kind == "client_text":
            connection.send(what)
        elif kind == "client_binary_hex":
            connection.send(bytes.fromhex(what))
        elif kind == "server":
            while not self.matches(what, found := self.next(connection, [what])):
                assert found["type"] == "query_progress" == what["type"], found
        elif kind == "server_in_any_order":
            missing = list(what)
            while missing:
                found, before = self.next(connection, missing), dict(self.bound)
                for expected in missing:
                    if self.matches(expected, found):
                        missing.remove(expected)
                        break
                    self.bound = dict(before)
                else:
                    raise AssertionError(found)
        elif kind == "server_binary":
            message = connection.recv(timeout=SECONDS_MAX)
            start = 4 + int.from_bytes(message[:4], "big")
            header = json.loads(message[4:start])
            self.validators["ServerQueryBatchHeader"].validate(header)
            assert self.matches(what["header"], header), header
            if "rows" in what:
                text = decompressed(header["compression"], message[start:], header["uncompressed_bytes"])
                assert len(text) == header["uncompressed_bytes"] and self.matches(what["rows"], json.loads(text)), text
        elif kind == "server_closes":
            try:
                while True:
                    connection.recv(timeout=SECONDS_MAX)
            except ConnectionClosed as closed:
                assert closed.rcvd.code == what, closed
        else:
            raise AssertionError(f"no step is called {kind}")


def decompressed(codec, payload, n_bytes):
    if codec in ("zstd", "lz4"):
        return pyarrow.Codec(codec).decompress(payload, decompressed_size=n_bytes, asbytes=True)
    return payload if codec == "none" else zlib.decompress(payload, {"gzip": 31, "deflate-raw": -15}[codec])


def transcripts(schema, *files_and_urls):
    schema, n_steps = read(schema), 0
    for file, url in zip(files_and_urls[::2], files_and_urls[1::2], strict=True):
        transcript = Transcript(url, schema)
        for number, step in enumerate(read(file)["steps"]):
            name = step.pop("connection", "")
            [(kind, what)] = step.items()
            try:
                transcript.take(name, kind, what)
            except Exception as error:
                raise SystemExit(f"{file}, step {number}: {kind} {json.dumps(what)}: {type(error).__name__}: {error}") from error
            n_steps += 1
        for connection in transcript.connections.values():
            connection.socket.close()
    return n_steps


if __name__ == "__main__":
    commands = {"documents": documents, "transcripts": transcripts}
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
