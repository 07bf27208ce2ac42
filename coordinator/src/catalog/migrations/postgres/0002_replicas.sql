-- Version 2: several coordinators. UNLOGGED: nothing here need survive a crash of the server, and it is written often.
CREATE UNLOGGED TABLE rights (
  name TEXT COLLATE "C" PRIMARY KEY,
  holder INTEGER,                  -- a coordinator's number; none: free
  token BIGINT NOT NULL,           -- of this taking
  until TIMESTAMPTZ NOT NULL,
  mark BIGINT                      -- what the last one left that gave it back
);

CREATE UNLOGGED TABLE sessions (
  agent TEXT COLLATE "C" PRIMARY KEY,
  replica INTEGER,                 -- where it is connected; none: nowhere
  instance BYTEA NOT NULL,
  before BYTEA,                    -- the process that this one replaced
  replaced_at TIMESTAMPTZ
);
