-- Version 1. Times are nanoseconds since 1970, digests and keys 32 bytes, sizes bytes. Never edit: add the next file.
CREATE TABLE health (beats INTEGER NOT NULL) STRICT;
INSERT INTO health VALUES (0);

CREATE TABLE tokens (
  sha256 BLOB PRIMARY KEY,
  labels TEXT NOT NULL,            -- JSON object
  uses INTEGER NOT NULL,           -- as made
  uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
  expires_at INTEGER NOT NULL,
  created_by TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE token_uses (
  token BLOB NOT NULL REFERENCES tokens (sha256),
  keys BLOB NOT NULL,
  agent TEXT NOT NULL,
  PRIMARY KEY (token, keys)
) STRICT, WITHOUT ROWID;

CREATE TABLE agents (
  agent TEXT PRIMARY KEY,
  key BLOB NOT NULL,
  enrolment BLOB NOT NULL,
  enrolled_at INTEGER NOT NULL,
  labels TEXT NOT NULL,            -- JSON object
  revoked_at INTEGER,
  revoked_reason TEXT,
  alarm TEXT,
  seen_at INTEGER,
  hostname TEXT NOT NULL,
  version TEXT NOT NULL,
  kernel TEXT NOT NULL,
  os TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  build BLOB,
  clock_offset_ns INTEGER NOT NULL,
  captures TEXT NOT NULL           -- JSON array
) STRICT, WITHOUT ROWID;

CREATE TABLE cases (
  case_id TEXT PRIMARY KEY,
  title TEXT NOT NULL,
  legal_basis TEXT NOT NULL,
  accountable TEXT NOT NULL,
  opened_by TEXT NOT NULL,
  opened_at INTEGER NOT NULL,
  case_opened BLOB NOT NULL,
  case_closed BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE orders (
  order_id TEXT PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE,
  envelope BLOB NOT NULL,
  case_id TEXT NOT NULL REFERENCES cases (case_id),
  issued_by TEXT NOT NULL,
  profile TEXT,
  expires_at INTEGER NOT NULL,
  admitted_at INTEGER NOT NULL
) STRICT;

CREATE TABLE collections (
  collection TEXT PRIMARY KEY,
  order_id TEXT NOT NULL REFERENCES orders (order_id),
  order_digest BLOB NOT NULL,
  case_id TEXT NOT NULL REFERENCES cases (case_id),
  agent TEXT NOT NULL,
  profile TEXT,
  state TEXT NOT NULL,
  reason TEXT,
  ending_outcome TEXT,             -- the three of an end that is being written
  ending_reason TEXT,
  ending_refusal BLOB,
  cancel TEXT,
  stream INTEGER NOT NULL,
  queued_at INTEGER NOT NULL,
  started_at INTEGER,
  ended_at INTEGER,
  expires_at INTEGER NOT NULL,
  give_up_at INTEGER,
  items INTEGER NOT NULL,
  raw_bytes INTEGER NOT NULL,
  stored_bytes INTEGER NOT NULL,
  by_status TEXT NOT NULL,         -- JSON object
  exhibit_first INTEGER NOT NULL,
  exhibit_count INTEGER NOT NULL,
  seal BLOB
) STRICT;
CREATE INDEX collections_by_age ON collections (queued_at, collection);
CREATE INDEX collections_by_case ON collections (case_id, queued_at, collection);
CREATE INDEX collections_by_order ON collections (order_id);
CREATE INDEX collections_by_agent ON collections (agent, state);
CREATE INDEX collections_open ON collections (state, queued_at) WHERE state IN ('queued', 'offered', 'running', 'sealing');

CREATE TABLE streams (
  collection TEXT NOT NULL REFERENCES collections (collection),
  stream INTEGER NOT NULL,
  state TEXT NOT NULL,
  next_segment INTEGER NOT NULL,
  snapshot BLOB NOT NULL,
  items INTEGER NOT NULL,
  raw_bytes INTEGER NOT NULL,
  stored_bytes INTEGER NOT NULL,
  by_status TEXT NOT NULL,
  received_from INTEGER NOT NULL,
  received_to INTEGER NOT NULL,
  manifest TEXT,                   -- JSON, once finished
  acquisition BLOB,
  receipt BLOB,
  PRIMARY KEY (collection, stream)
) STRICT;

CREATE TABLE segments (
  collection TEXT NOT NULL,
  stream INTEGER NOT NULL,
  n INTEGER NOT NULL,
  size INTEGER NOT NULL,
  sha256 BLOB NOT NULL,
  raw_offset INTEGER NOT NULL,
  raw_size INTEGER NOT NULL,
  PRIMARY KEY (collection, stream, n),
  FOREIGN KEY (collection, stream) REFERENCES streams (collection, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE manifest_parts (
  collection TEXT NOT NULL,
  stream INTEGER NOT NULL,
  n INTEGER NOT NULL,
  bytes BLOB NOT NULL,
  PRIMARY KEY (collection, stream, n),
  FOREIGN KEY (collection, stream) REFERENCES streams (collection, stream)
) STRICT;

CREATE TABLE incidents (
  id INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
