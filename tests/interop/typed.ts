// A client's view of the protocol in TypeScript, for `tsc` to judge the specification's types by: tests/it/documents.rs puts them, and the
// specification's examples as `clientExamples` and `serverExamples`, beside this file. It is compiled, and never run.

/** Every message of a server, by its type: one more in the specification, and this does not compile. */
function terminatorOf(message: ServerMessage): { streamId: StreamId; isWhole: boolean } | undefined {
  switch (message.type) {
    case "query_completed":
      return { streamId: message.stream_id, isWhole: !message.truncated };
    case "query_cancelled": {
      const reason: CancelReason = message.reason;
      return { streamId: message.stream_id, isWhole: reason === "expired" && message.last_batch !== null };
    }
    case "error":
      return message.stream_id === undefined ? undefined : { streamId: message.stream_id, isWhole: false };
    case "query_batch":
      return message.rows.length === message.row_count && message.rows.every(isRow) ? undefined : unreachable(message.batch_number as never);
    case "query_started":
    case "query_description":
      return message.columns === null ? undefined : columnsOf(message.columns);
    case "query_columns":
      return columnsOf(message.columns);
    case "query_status":
      return columnsOf([], message satisfies Status);
    case "query_list":
      return message.queries.map((query) => columnsOf([], query))[message.total];
    case "welcome":
      return message.limits.streams > 0 ? undefined : unreachable(message.limits.streams as never);
    case "query_queued":
    case "query_progress":
    case "query_paused":
    case "query_unpaused":
    case "query_resumed":
    case "pong":
    case "goaway":
      return undefined;
    default:
      return unreachable(message);
  }
}

/** Every type of a column, by what a cell of it is in JSON. */
function cellKind(type: ColumnType): "number" | "string" | "boolean" | "any" {
  switch (type) {
    case "int64":
    case "float64":
      return "number";
    case "boolean":
      return "boolean";
    case "decimal":
    case "text":
    case "blob":
    case "date":
    case "time":
    case "timestamp":
    case "timestamptz":
    case "json":
    case "uuid":
      return "string";
    case "any":
      return "any";
    default:
      return unreachable(type);
  }
}

/** The header of a binary message is a batch without its rows. */
function textBatch(header: ServerQueryBatchHeader, rows: Row[]): ServerQueryBatch {
  const { encoding: _encoding, compression: _compression, uncompressed_bytes: _bytes, ...batch } = header;
  return { ...batch, rows };
}

function requestsOf(started: ServerQueryStarted): ClientMessage[] {
  const named = { stream_id: started.stream_id };
  const resume: ClientMessage[] =
    started.resume_token === undefined ? [] : [{ type: "resume_query", resume_token: started.resume_token, last_batch: -1 }];
  return [
    { type: "stream_query", query: started.query, params: [1, null, "text", { type: "blob", value: "AAEC" }], window: { batches: 2 } },
    { type: "stream_query", query: started.query, params: { least: true } },
    { type: "ack", ...named, batch_number: 0, end: true },
    { type: "cancel_query", ...named },
    { type: "pause_query", ...named },
    { type: "unpause_query", ...named },
    { type: "set_priority", ...named, priority: 7 },
    { type: "query_status", ...named },
    { type: "list_queries", scope: "own" },
    { type: "describe_query", query: started.query },
    { type: "ping", timestamp: { any: ["thing"] } },
    { type: "hello", request_id: 1 },
    ...resume,
  ];
}

const refused: ClientMessage[] = [
  // @ts-expect-error the query is missing
  { type: "stream_query" },
  // @ts-expect-error no message is called so
  { type: "start_query", query: "SELECT 1" },
  // @ts-expect-error a field that the protocol does not have
  { type: "cancel_query", stream: "s" },
  // @ts-expect-error a name is a text or a number
  { type: "ping", request_id: true },
  // @ts-expect-error a parameter without a value
  { type: "stream_query", query: "SELECT ?", params: [{ type: "blob" }] },
  // @ts-expect-error no column has such a type
  { type: "stream_query", query: "SELECT ?", params: [{ type: "bigint", value: 1 }] },
];

function columnsOf(columns: Columns, status?: Status): undefined {
  const kinds = columns.map((column) => cellKind(column.type));
  const names: string[] = columns.map((column) => column.encoding ?? column.label);
  const state: StreamState | undefined = status?.state;
  return kinds.length === names.length && state !== "failed" ? undefined : unreachable(state as never);
}

function isRow(row: Row): boolean {
  return Array.isArray(row) ? row.length > 0 : Object.keys(row).length > 0;
}

function unreachable(value: never): never {
  throw new Error(`${value} is none of those that the specification has`);
}

const typesOfClients: ClientMessage["type"][] = clientExamples.map((message) => message.type);
const ends = serverExamples.map(terminatorOf).filter((end) => end !== undefined);
const started = serverExamples.filter((message) => message.type === "query_started").flatMap(requestsOf);
const batches: ServerQueryBatch[] = headerExamples.map((header) => textBatch(header, [[1], { n: 1 }]));
void [typesOfClients, ends, started, batches, refused];
