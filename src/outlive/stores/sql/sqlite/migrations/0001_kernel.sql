-- The kernel: journal, shards, cells. Every kind of state lives in these tables; a new kind adds
-- none.

-- One row: what the store is, its clock's high-water mark, and the counter that cell versions are
-- drawn from.
CREATE TABLE outlive_store (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    incarnation TEXT    NOT NULL,
    shards      INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    clock       INTEGER NOT NULL
) STRICT;

-- Ownership, order and fence in one row.
CREATE TABLE outlive_shard (
    id    INTEGER PRIMARY KEY,
    owner TEXT    NOT NULL DEFAULT '',
    epoch INTEGER NOT NULL DEFAULT 0,
    head  INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The ledger of ownership: one line per take-over.
CREATE TABLE outlive_hold (
    shard    INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    owner    TEXT    NOT NULL,
    head     INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    previous TEXT    NOT NULL,
    PRIMARY KEY (shard, epoch)
) STRICT, WITHOUT ROWID;

-- The journal. place = shard * 2^48 + seq, so that each shard grows at its own end of one tree.
CREATE TABLE outlive_event (
    place  INTEGER PRIMARY KEY,
    stream TEXT    NOT NULL,
    n      INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    time   INTEGER NOT NULL,
    data   BLOB    NOT NULL,
    chain  BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX outlive_event_stream ON outlive_event (stream, n);

-- marks repeats the rows of outlive_mark as JSON, so that replacing them needs no index by key.
CREATE TABLE outlive_cell (
    space   TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    version INTEGER NOT NULL,
    due     INTEGER,
    marks   TEXT    NOT NULL,
    value   BLOB    NOT NULL,
    PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX outlive_cell_due ON outlive_cell (space, due) WHERE due IS NOT NULL;

-- By name first: the marks that one commit writes for cells of many spaces land on few pages.
CREATE TABLE outlive_mark (
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    space TEXT NOT NULL,
    key   TEXT NOT NULL,
    PRIMARY KEY (name, value, space, key)
) STRICT, WITHOUT ROWID;

-- The last group each writing process committed: how a commit whose answer was lost is looked up.
CREATE TABLE outlive_writer (
    id   TEXT    PRIMARY KEY,
    last INTEGER NOT NULL,
    time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Why the store may not be served: it is being filled by a restore or a move, is being moved, or
-- was moved. No row: it may be.
CREATE TABLE outlive_halt (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    reason TEXT    NOT NULL CHECK (reason IN ('filling', 'filled', 'moving', 'moved')),
    other  TEXT    NOT NULL,
    token  TEXT    NOT NULL,
    time   INTEGER NOT NULL
) STRICT;
