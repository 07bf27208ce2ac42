-- Where the agent's reading stands after the last committed segment, in its own words; empty: cannot be taken up.
ALTER TABLE streams ADD COLUMN bookmark BLOB NOT NULL DEFAULT x'';
