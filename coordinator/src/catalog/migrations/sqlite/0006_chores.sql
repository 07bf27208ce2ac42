-- Where a chore stands that takes longer than a coordinator lives.
CREATE TABLE chores (
  name TEXT PRIMARY KEY,
  standing TEXT NOT NULL           -- in the chore's own words
) STRICT;
