-- Workers that a cluster runs for this daemon: what was asked for, so that a daemon which starts again knows its own.
CREATE TABLE placements (
    name      TEXT PRIMARY KEY,
    cluster   TEXT NOT NULL,
    placement TEXT NOT NULL,
    placed_at REAL NOT NULL
) STRICT;

CREATE INDEX placements_of_cluster ON placements (cluster);
