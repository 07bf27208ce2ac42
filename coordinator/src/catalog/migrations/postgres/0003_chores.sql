-- Version 3: where a chore stands that takes longer than a coordinator lives.
CREATE TABLE chores (
  name TEXT COLLATE "C" PRIMARY KEY,
  standing TEXT NOT NULL           -- in the chore's own words
);
