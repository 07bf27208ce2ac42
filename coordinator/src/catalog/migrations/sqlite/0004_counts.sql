-- What a list of cases shows of each: counted from an index alone.
CREATE INDEX collections_counts ON collections (case_id, state, exhibit_count);
