-- Why the store may not be served: it is being filled by a restore or a move, is being moved, or
-- was moved. No row: it may be.
CREATE TABLE outlive_halt (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    reason TEXT    NOT NULL CHECK (reason IN ('filling', 'filled', 'moving', 'moved')),
    other  TEXT    NOT NULL,
    token  TEXT    NOT NULL,
    time   INTEGER NOT NULL
) STRICT;
