-- How long each log was when its head was published last: a store that was put back to an older state cannot say it.
CREATE TABLE published (
  log TEXT PRIMARY KEY,            -- its folder in the store
  size INTEGER NOT NULL,
  root BLOB NOT NULL
) STRICT;
