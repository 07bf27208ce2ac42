-- Version 5: how long each log was when its head was published last: a store that was put back to an older state cannot say it.
CREATE TABLE published (
  log TEXT COLLATE "C" PRIMARY KEY, -- its folder in the store
  size BIGINT NOT NULL,
  root BYTEA NOT NULL
);
