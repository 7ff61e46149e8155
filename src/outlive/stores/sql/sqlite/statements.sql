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

-- What the chain was made from is gone; the place and the chain value stay.
-- name: erase
UPDATE outlive_event SET kind = 'erased', data = x'' WHERE stream = ? AND kind <> 'erased';

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

-- name: cells_read
SELECT space, key, value, version, due FROM outlive_cell
WHERE space = ?1 AND key IN (SELECT value FROM json_each(?2));

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

-- name: halt_read
SELECT reason, other, token FROM outlive_halt WHERE id = 1;

-- name: halt_write
INSERT INTO outlive_halt (id, reason, other, token, time) VALUES (1, ?1, ?2, ?3, ?4)
ON CONFLICT (id) DO UPDATE SET
    reason = excluded.reason, other = excluded.other, token = excluded.token, time = excluded.time;

-- name: halt_begin
INSERT OR IGNORE INTO outlive_halt (id, reason, other, token, time) VALUES (1, ?1, ?2, ?3, ?4);

-- name: halt_filled
UPDATE outlive_halt SET reason = 'filled' WHERE id = 1;

-- name: halt_release
DELETE FROM outlive_halt WHERE reason = 'filled';

-- name: halt_end
DELETE FROM outlive_halt;

-- A frozen store takes no write, also from processes that have it open: every transaction moves the
-- store's row or a shard's, or leaves its writer's mark.
-- name: freeze
CREATE TRIGGER IF NOT EXISTS outlive_halted_store BEFORE UPDATE ON outlive_store
BEGIN SELECT RAISE(ABORT, 'outlive: the store is halted'); END;
CREATE TRIGGER IF NOT EXISTS outlive_halted_shard BEFORE UPDATE ON outlive_shard
BEGIN SELECT RAISE(ABORT, 'outlive: the store is halted'); END;
CREATE TRIGGER IF NOT EXISTS outlive_halted_writer BEFORE INSERT ON outlive_writer
BEGIN SELECT RAISE(ABORT, 'outlive: the store is halted'); END;
CREATE TRIGGER IF NOT EXISTS outlive_halted_mark BEFORE UPDATE ON outlive_writer
BEGIN SELECT RAISE(ABORT, 'outlive: the store is halted'); END;

-- name: thaw
DROP TRIGGER IF EXISTS outlive_halted_store;
DROP TRIGGER IF EXISTS outlive_halted_shard;
DROP TRIGGER IF EXISTS outlive_halted_writer;
DROP TRIGGER IF EXISTS outlive_halted_mark;

-- name: count_holds
SELECT count(*) FROM outlive_hold;

-- name: count_events
SELECT count(*) FROM outlive_event;

-- name: count_cells
SELECT count(*) FROM outlive_cell;

-- name: user_tables
SELECT name FROM sqlite_master
WHERE type IN ('table', 'view') AND substr(name, 1, 8) <> 'outlive_'
    AND substr(name, 1, 7) <> 'sqlite_'
ORDER BY name;

-- name: copy_holds
SELECT shard, epoch, owner, head, time, previous FROM outlive_hold
WHERE (shard, epoch) > (?1, ?2) ORDER BY shard, epoch;

-- name: copy_events
SELECT place, stream, n, kind, time, data, chain FROM outlive_event
WHERE place > ? ORDER BY place;

-- name: copy_cells
SELECT space, key, version, due, marks, value FROM outlive_cell
WHERE (space, key) > (?1, ?2) ORDER BY space, key;

-- name: last_hold
SELECT shard, epoch FROM outlive_hold ORDER BY shard DESC, epoch DESC LIMIT 1;

-- name: last_event
SELECT max(place) FROM outlive_event;

-- name: last_cell
SELECT space, key FROM outlive_cell ORDER BY space DESC, key DESC LIMIT 1;

-- name: fill_shard
UPDATE outlive_shard SET owner = '', epoch = ?2, head = ?3 WHERE id = ?1;

-- name: fill_store
UPDATE outlive_store SET incarnation = ?1, version = max(version, ?2), clock = max(clock, ?3)
WHERE id = 1;

-- An unused store is given another number of shards.
-- name: shards_drop
DELETE FROM outlive_shard;

-- name: shards_count
UPDATE outlive_store SET shards = ? WHERE id = 1;

-- name: check_integrity
PRAGMA integrity_check(100);

-- Streams whose events are not 0, 1, 2 … without a hole.
-- name: check_streams
SELECT stream, count(*), min(n), max(n) FROM outlive_event GROUP BY stream
HAVING min(n) <> 0 OR max(n) <> count(*) - 1 LIMIT 100;

-- Marks that a cell says it has, and that are not there.
-- name: check_marks_missing
SELECT c.space, c.key, json_extract(j.value, '$[0]'), json_extract(j.value, '$[1]')
FROM outlive_cell c, json_each(c.marks) j
WHERE NOT EXISTS (
    SELECT 1 FROM outlive_mark m
    WHERE m.name = json_extract(j.value, '$[0]') AND m.value = json_extract(j.value, '$[1]')
        AND m.space = c.space AND m.key = c.key
) LIMIT 100;

-- Marks that are there, and that no cell says it has.
-- name: check_marks_stray
SELECT m.space, m.key, m.name, m.value
FROM outlive_mark m LEFT JOIN outlive_cell c ON c.space = m.space AND c.key = m.key
WHERE c.key IS NULL OR NOT EXISTS (
    SELECT 1 FROM json_each(c.marks) j
    WHERE json_extract(j.value, '$[0]') = m.name AND json_extract(j.value, '$[1]') = m.value
) LIMIT 100;

-- What is kept: events, the bytes of their data, how many are erased.
-- name: doctor_kept
SELECT count(*), coalesce(sum(length(data)), 0), coalesce(sum(kind = 'erased'), 0)
FROM outlive_event;

-- name: count_marks
SELECT count(*) FROM outlive_mark;
