// The protocol as spoken by `ws`, and Arrow as read by `apache-arrow`: run by tests/it/interop.rs.
//
//     node.mjs arrow URL QUERY FIELDS
//     node.mjs rows URL QUERY
//
// They print what the commands of the same names print in python.py. The packages are where tests/run has installed them:
// ROWSTREAM_NODE_MODULES names a file beside their folder.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import assert from "node:assert/strict";
import zlib from "node:zlib";

const require = createRequire(process.env.ROWSTREAM_NODE_MODULES);
const { WebSocket } = require("ws");
const { tableFromIPC } = require("apache-arrow");

const CODECS = { none: (payload) => payload, gzip: zlib.gunzipSync, "deflate-raw": zlib.inflateRawSync };

/** The text of `rows` in a message: from its opening bracket to the one that closes it. */
function rowsText(message) {
  const start = message.indexOf('"rows":') + '"rows":'.length;
  let depth = 0;
  let inText = false;
  for (let at = start; ; at++) {
    const character = message[at];
    if (inText) {
      if (character === "\\") at++;
      else if (character === '"') inText = false;
    } else if (character === '"') inText = true;
    else if (character === "[" || character === "{") depth++;
    else if ((character === "]" || character === "}") && --depth === 0) return message.slice(start, at + 1);
  }
}

/** CRC-32 (ISO 3309), bit by bit: Node 20 has none. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ((crc ^ 0xffffffff) >>> 0).toString(16).padStart(8, "0");
}

/**
 * A query to its end: the payloads in order, `query_completed`, and what is worth knowing about the way there. `fields` is the text
 * of an object: read and written by JavaScript, -0.0 would be 0 and large integers others.
 */
function run(url, query, fields, deflate) {
  // `threshold: 0` deflates every message to the server too.
  const options = { perMessageDeflate: deflate && { threshold: 0 } };
  const socket = new WebSocket(url, ["rowstream.v1"], options);
  const payloads = [];
  const codecs = {};
  let messageBytes = 0;
  return new Promise((resolve, reject) => {
    socket.on("error", reject);
    socket.on("close", (code) => reject(new Error(`closed with ${code}`)));
    socket.on("open", () => {
      const own = JSON.stringify({ type: "stream_query", query, checksum: true, row_format: "array" });
      socket.send(fields === "{}" ? own : `${own.slice(0, -1)}, ${fields.slice(1)}`);
    });
    socket.on("message", (data, isBinary) => {
      try {
        messageBytes += data.length;
        let payload;
        let said;
        if (isBinary) {
          const start = 4 + data.readUInt32BE(0);
          said = JSON.parse(data.subarray(4, start).toString());
          payload = CODECS[said.compression](data.subarray(start));
          assert.equal(payload.length, said.uncompressed_bytes);
          codecs[said.compression] = (codecs[said.compression] ?? 0) + 1;
        } else {
          said = JSON.parse(data.toString());
          if (said.type === "query_batch") {
            payload = Buffer.from(rowsText(data.toString()));
            codecs.text = (codecs.text ?? 0) + 1;
          }
        }
        if (said.type === "query_batch") {
          assert.equal(said.checksum, crc32(payload));
          payloads.push(payload);
        } else if (said.type === "query_completed") {
          const facts = { codecs, extensions: socket.extensions, subprotocol: socket.protocol };
          facts.wire_bytes = socket._socket.bytesRead;
          facts.message_bytes = messageBytes;
          resolve([payloads, said, facts]);
          socket.close(1000);
        } else if (said.type === "error") {
          reject(new Error(`${said.code}: ${said.message}`));
          socket.close(1000);
        }
      } catch (error) {
        reject(error);
        socket.terminate();
      }
    });
  });
}

const sha256 = (parts) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
};

function bits(real) {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(real);
  return bytes.toString("hex");
}

const KINDS = {
  Int64: "i", Float64: "r", Utf8: "t", Binary: "b", Bool: "o", "Date32<DAY>": "d", "Time64<MICROSECOND>": "m",
  "Timestamp<MICROSECOND>": "s", "Timestamp<MICROSECOND, UTC>": "z",
};

async function arrow(url, query, fields) {
  const [payloads, completed] = await run(url, query, `{"format": "arrow", ${fields.slice(1)}`, false);
  assert.equal(completed.digest, sha256(payloads));
  const table = tableFromIPC(Buffer.concat(payloads));
  assert.equal(table.numRows, completed.total_rows);
  return table.schema.fields.map((field, at) => {
    const kind = KINDS[String(field.type)];
    assert.ok(kind, `${field.name} is ${field.type}`);
    const cells = [];
    const vector = table.getChildAt(at);
    for (const data of vector.data) {
      for (let row = 0; row < data.length; row++) {
        // What the library would make of times and texts loses something: the buffers have it all.
        if (!data.getValid(row)) cells.push(null);
        else if (kind === "r") cells.push(bits(data.values[row]));
        else if (kind === "o") cells.push(String(vector.get(cells.length)));
        else if (kind === "t" || kind === "b") {
          const bytes = data.values.subarray(data.valueOffsets[row], data.valueOffsets[row + 1]);
          cells.push(Buffer.from(bytes).toString("hex"));
        } else cells.push(String(data.values[row]));
      }
    }
    return { name: field.name, type: field.metadata.get("rowstream:type") ?? "", kind, cells };
  });
}

async function rows(url, query) {
  const forms = { plain: ["{}", false], "permessage-deflate": ["{}", true] };
  for (const codec of ["gzip", "deflate-raw"]) forms[codec] = [`{"compression": ["${codec}"]}`, false];
  forms["gzip over permessage-deflate"] = [`{"compression": ["gzip"]}`, true];
  const result = {};
  for (const [name, [fields, deflate]] of Object.entries(forms)) {
    const [payloads, completed, facts] = await run(url, query, fields, deflate);
    const digest = sha256(payloads.flatMap((payload, at) => [at ? "," : "", payload.subarray(1, -1)]));
    assert.equal(digest, completed.digest);
    const nRows = payloads.reduce((sum, payload) => sum + JSON.parse(payload.toString()).length, 0);
    result[name] = { digest, n_rows: nRows, ...facts };
  }
  return result;
}

const [command, ...words] = process.argv.slice(2);
console.log(JSON.stringify(await { arrow, rows }[command](...words)));
