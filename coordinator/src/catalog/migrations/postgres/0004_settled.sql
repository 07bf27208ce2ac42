-- Version 4: after a crash or a failover the UNLOGGED tables are empty, and each coordinator enters its agents again.
ALTER TABLE sessions ADD COLUMN began TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp();  -- of two processes the earlier one stays

CREATE UNLOGGED TABLE entered (
  replica INTEGER PRIMARY KEY,     -- a coordinator that entered its agents since it was connected; 0: the table itself
  at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
-- In a new catalog nothing was lost. After a crash this row is gone, too, and the next one says when that was.
INSERT INTO entered (replica, at) VALUES (0, '-infinity');
