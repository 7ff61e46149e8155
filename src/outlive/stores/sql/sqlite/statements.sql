-- Every statement of the SQLite store, by name.

-- name: migrations_table
CREATE TABLE IF NOT EXISTS outlive_migration (
    number   INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL,
    checksum TEXT    NOT NULL,
    applied  INTEGER NOT NULL
) STRICT;

-- name: migrations
SELECT number, name, checksum FROM outlive_migration ORDER BY number;

-- name: migrations_exist
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'outlive_migration';

-- name: migration_done
INSERT INTO outlive_migration (number, name, checksum, applied) VALUES (?, ?, ?, ?);

-- name: store_make
INSERT OR IGNORE INTO outlive_store (id, incarnation, shards, version, clock)
VALUES (1, ?, ?, 0, 0);

-- name: shard_make
INSERT OR IGNORE INTO outlive_shard (id) VALUES (?);

-- name: store_read
SELECT incarnation, shards, version, clock FROM outlive_store WHERE id = 1;

-- The clock and the version counter move together, once a transaction.
-- name: store_move
UPDATE outlive_store SET version = version + ?1, clock = max(clock, ?2) WHERE id = 1
RETURNING version, clock;

-- name: writer_mark
INSERT INTO outlive_writer (id, last, time) VALUES (?1, ?2, ?3)
ON CONFLICT (id) DO UPDATE SET last = excluded.last, time = excluded.time;

-- name: writer_read
SELECT last FROM outlive_writer WHERE id = ?;

-- Writers that have not committed for a day are gone.
-- name: writer_forget
DELETE FROM outlive_writer WHERE time < ?;

-- The fence: lock, check and gap-free sequencer in one statement. No row back: another owner.
-- name: fence
UPDATE outlive_shard SET head = head + ?1 WHERE id = ?2 AND epoch = ?3 AND owner = ?4
RETURNING head;

-- name: shard_take
UPDATE outlive_shard SET owner = ?1, epoch = epoch + 1 WHERE id = ?2 AND epoch = ?3
RETURNING epoch, head;

-- name: shard_release
UPDATE outlive_shard SET owner = '', epoch = epoch + 1 WHERE id = ?1 AND epoch = ?2 AND owner = ?3;

-- name: shard_read
SELECT id, owner, epoch, head FROM outlive_shard WHERE id = ?;

-- name: shards
SELECT id, owner, epoch, head FROM outlive_shard ORDER BY id;

-- name: hold_write
INSERT INTO outlive_hold (shard, epoch, owner, head, time, previous) VALUES (?, ?, ?, ?, ?, ?);

-- name: holds
SELECT shard, epoch, owner, head, time, previous FROM outlive_hold
ORDER BY time DESC, shard, epoch DESC LIMIT ?;

-- name: holds_of
SELECT shard, epoch, owner, head, time, previous FROM outlive_hold WHERE shard = ?
ORDER BY epoch DESC LIMIT ?;

-- The index refuses an event that the stream has already.
-- name: event_write
INSERT INTO outlive_event (place, stream, n, kind, time, data, chain) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: chain_at
SELECT chain FROM outlive_event WHERE place = ?;

-- name: events
SELECT place, stream, n, kind, time, data, chain FROM outlive_event
WHERE stream = ? AND n > ? ORDER BY n LIMIT ?;

-- name: length
SELECT max(n) + 1 FROM outlive_event WHERE stream = ?;

-- name: tail
SELECT place, stream, n, kind, time, data, chain FROM outlive_event
WHERE place > ? AND place < ? ORDER BY place LIMIT ?;

-- name: cell_read
SELECT space, key, value, version, due FROM outlive_cell WHERE space = ? AND key = ?;

-- name: cell_state
SELECT version, marks FROM outlive_cell WHERE space = ? AND key = ?;

-- The key refuses a cell that is there already.
-- name: cell_make
INSERT INTO outlive_cell (value, version, due, marks, space, key) VALUES (?, ?, ?, ?, ?, ?);

-- name: cell_write
UPDATE outlive_cell SET value = ?, version = ?, due = ?, marks = ?
WHERE space = ? AND key = ? AND version = ?;

-- name: cell_drop
DELETE FROM outlive_cell WHERE space = ? AND key = ? AND version = ?;

-- name: mark_write
INSERT OR IGNORE INTO outlive_mark (name, value, space, key) VALUES (?, ?, ?, ?);

-- name: mark_drop
DELETE FROM outlive_mark WHERE name = ? AND value = ? AND space = ? AND key = ?;

-- name: scan
SELECT space, key, value, version, due FROM outlive_cell WHERE space = ? AND key > ?
ORDER BY key LIMIT ?;

-- name: select_oldest
SELECT m.value, c.space, c.key, c.value, c.version, c.due
FROM outlive_mark m JOIN outlive_cell c ON c.space = m.space AND c.key = m.key
WHERE m.name = ? AND m.value BETWEEN ? AND ? AND m.space IN (SELECT value FROM json_each(?))
ORDER BY m.value, m.space, m.key LIMIT ?;

-- name: select_newest
SELECT m.value, c.space, c.key, c.value, c.version, c.due
FROM outlive_mark m JOIN outlive_cell c ON c.space = m.space AND c.key = m.key
WHERE m.name = ? AND m.value BETWEEN ? AND ? AND m.space IN (SELECT value FROM json_each(?))
ORDER BY m.value DESC, m.space DESC, m.key DESC LIMIT ?;

-- name: due
SELECT space, key, value, version, due FROM outlive_cell
WHERE space = ? AND due <= ? ORDER BY due, key LIMIT ?;

-- name: claim
UPDATE outlive_cell SET version = ?, due = ? WHERE space = ? AND key = ?;

-- name: next_due
SELECT min(due) FROM outlive_cell WHERE space = ? AND due IS NOT NULL;
