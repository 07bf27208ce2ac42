-- Version 1. Times are nanoseconds since 1970, digests and keys 32 bytes, sizes bytes; numbers and texts as in SQLite's schema,
-- so that one text of SQL fits both. Ids sort by bytes (COLLATE "C"). Never edit: add the next file.
CREATE TABLE health (beats BIGINT NOT NULL);
INSERT INTO health VALUES (0);

CREATE TABLE tokens (
  sha256 BYTEA PRIMARY KEY,
  labels TEXT NOT NULL,            -- JSON object
  uses BIGINT NOT NULL,           -- as made
  uses_left BIGINT NOT NULL CHECK (uses_left >= 0),
  expires_at BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  created_at BIGINT NOT NULL
);

CREATE TABLE token_uses (
  token BYTEA NOT NULL REFERENCES tokens (sha256),
  keys BYTEA NOT NULL,
  agent TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (token, keys)
);

CREATE TABLE agents (
  agent TEXT COLLATE "C" PRIMARY KEY,
  key BYTEA NOT NULL,
  enrolment BYTEA NOT NULL,
  enrolled_at BIGINT NOT NULL,
  labels TEXT NOT NULL,            -- JSON object
  revoked_at BIGINT,
  revoked_reason TEXT,
  alarm TEXT,
  seen_at BIGINT,
  hostname TEXT NOT NULL,
  version TEXT NOT NULL,
  kernel TEXT NOT NULL,
  os TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  build BYTEA,
  clock_offset_ns BIGINT NOT NULL,
  captures TEXT NOT NULL           -- JSON array
);

CREATE TABLE cases (
  case_id TEXT COLLATE "C" PRIMARY KEY,
  title TEXT NOT NULL,
  legal_basis TEXT NOT NULL,
  accountable TEXT NOT NULL,
  opened_by TEXT NOT NULL,
  opened_at BIGINT NOT NULL,
  case_opened BYTEA NOT NULL,
  case_closed BYTEA
);

CREATE TABLE orders (
  order_id TEXT COLLATE "C" PRIMARY KEY,
  digest BYTEA NOT NULL UNIQUE,
  envelope BYTEA NOT NULL,
  case_id TEXT COLLATE "C" NOT NULL REFERENCES cases (case_id),
  issued_by TEXT NOT NULL,
  profile TEXT,
  expires_at BIGINT NOT NULL,
  admitted_at BIGINT NOT NULL
);

CREATE TABLE collections (
  collection TEXT COLLATE "C" PRIMARY KEY,
  order_id TEXT COLLATE "C" NOT NULL REFERENCES orders (order_id),
  order_digest BYTEA NOT NULL,
  case_id TEXT COLLATE "C" NOT NULL REFERENCES cases (case_id),
  agent TEXT COLLATE "C" NOT NULL,
  profile TEXT,
  state TEXT NOT NULL,
  reason TEXT,
  ending_outcome TEXT,             -- the three of an end that is being written
  ending_reason TEXT,
  ending_refusal BYTEA,
  cancel TEXT,
  stream BIGINT NOT NULL,
  queued_at BIGINT NOT NULL,
  started_at BIGINT,
  ended_at BIGINT,
  expires_at BIGINT NOT NULL,
  give_up_at BIGINT,
  items BIGINT NOT NULL,
  raw_bytes BIGINT NOT NULL,
  stored_bytes BIGINT NOT NULL,
  by_status TEXT NOT NULL,         -- JSON object
  exhibit_first BIGINT NOT NULL,
  exhibit_count BIGINT NOT NULL,
  seal BYTEA
);
CREATE INDEX collections_by_age ON collections (queued_at, collection);
CREATE INDEX collections_by_case ON collections (case_id, queued_at, collection);
CREATE INDEX collections_counts ON collections (case_id, state, exhibit_count);
CREATE INDEX collections_by_order ON collections (order_id);
CREATE INDEX collections_by_agent ON collections (agent, state);
CREATE INDEX collections_open ON collections (state, queued_at) WHERE state IN ('unapproved', 'queued', 'offered', 'running', 'sealing');

CREATE TABLE streams (
  collection TEXT COLLATE "C" NOT NULL REFERENCES collections (collection),
  stream BIGINT NOT NULL,
  state TEXT NOT NULL,
  next_segment BIGINT NOT NULL,
  snapshot BYTEA NOT NULL,
  items BIGINT NOT NULL,
  raw_bytes BIGINT NOT NULL,
  stored_bytes BIGINT NOT NULL,
  by_status TEXT NOT NULL,
  received_from BIGINT NOT NULL,
  received_to BIGINT NOT NULL,
  manifest TEXT,                   -- JSON, once finished
  acquisition BYTEA,
  receipt BYTEA,
  bookmark BYTEA NOT NULL,         -- empty: cannot be taken up
  PRIMARY KEY (collection, stream)
);

CREATE TABLE segments (
  collection TEXT COLLATE "C" NOT NULL,
  stream BIGINT NOT NULL,
  n BIGINT NOT NULL,
  size BIGINT NOT NULL,
  sha256 BYTEA NOT NULL,
  raw_offset BIGINT NOT NULL,
  raw_size BIGINT NOT NULL,
  PRIMARY KEY (collection, stream, n),
  FOREIGN KEY (collection, stream) REFERENCES streams (collection, stream)
);

CREATE TABLE manifest_parts (
  collection TEXT COLLATE "C" NOT NULL,
  stream BIGINT NOT NULL,
  n BIGINT NOT NULL,
  bytes BYTEA NOT NULL,
  PRIMARY KEY (collection, stream, n),
  FOREIGN KEY (collection, stream) REFERENCES streams (collection, stream)
);

CREATE TABLE incidents (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at BIGINT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail TEXT NOT NULL,
  case_id TEXT COLLATE "C",
  count BIGINT NOT NULL,
  logged BIGINT NOT NULL
);
CREATE INDEX incidents_to_log ON incidents (case_id, kind, subject) WHERE logged = 0;
