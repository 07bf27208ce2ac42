-- Collections of orders that wait for a second person are open as well.
DROP INDEX collections_open;
CREATE INDEX collections_open ON collections (state, queued_at)
  WHERE state IN ('unapproved', 'queued', 'offered', 'running', 'sealing');
