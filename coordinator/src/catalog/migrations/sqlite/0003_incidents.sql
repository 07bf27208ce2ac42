-- Incidents go into a log as signed records: which case they concern, how many alike a row stands for, and whether the log has it.
ALTER TABLE incidents ADD COLUMN case_id TEXT;
ALTER TABLE incidents ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
ALTER TABLE incidents ADD COLUMN logged INTEGER NOT NULL DEFAULT 0;
CREATE INDEX incidents_to_log ON incidents (case_id, kind, subject) WHERE logged = 0;
