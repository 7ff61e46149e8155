-- Every statement of the PostgreSQL store, by name. The schema is written as outlive and replaced
-- by the store's own when this is loaded.

-- name: migration_lock
SELECT pg_advisory_xact_lock($1);

-- name: schema_exists
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1);

-- name: schema_make
CREATE SCHEMA outlive;

-- Only of schemas that a test had made for itself.
-- name: schema_drop
DROP SCHEMA IF EXISTS outlive CASCADE;

-- name: migrations_exist
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = 'migration'
);

-- name: migrations_table
CREATE TABLE outlive.migration (
    number   integer PRIMARY KEY,
    name     text    NOT NULL,
    checksum text    NOT NULL,
    applied  bigint  NOT NULL
);

-- name: migrations
SELECT number, name, checksum FROM outlive.migration ORDER BY number;

-- name: migration_done
INSERT INTO outlive.migration (number, name, checksum, applied)
VALUES ($1, $2, $3, outlive.clock(0, $4));

-- name: store_make
INSERT INTO outlive.store (id, incarnation, shards, clock) VALUES (1, $1, $2, 0)
ON CONFLICT (id) DO NOTHING;

-- name: shards_make
INSERT INTO outlive.shard (id) SELECT generate_series(0, $1::integer - 1)
ON CONFLICT (id) DO NOTHING;

-- name: store_read
SELECT s.incarnation, s.shards, greatest(
    s.clock,
    coalesce((SELECT max(w.time) FROM outlive.writer w), 0),
    coalesce((SELECT max(h.time) FROM outlive.shard h), 0),
    coalesce((SELECT max(h.time) FROM outlive.hold h), 0)
) AS clock
FROM outlive.store s WHERE s.id = 1;

-- name: incarnation
SELECT incarnation FROM outlive.store WHERE id = 1;

-- The timeline that a primary writes on; 0 on a standby. What the control file says lags behind.
-- name: timeline
SELECT CASE WHEN pg_is_in_recovery() THEN 0
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END;

-- Which of the events (shard, seq, chain) and of the marks (writer, number) are not there.
-- name: recall
SELECT
    ARRAY (
        SELECT k.shard
        FROM unnest($1::integer[], $2::bigint[], $3::bytea[]) AS k (shard, seq, chain)
        WHERE NOT EXISTS (
            SELECT FROM outlive.event e
            WHERE e.shard = k.shard AND e.seq = k.seq AND e.chain = k.chain
        )
    ) AS shards,
    ARRAY (
        SELECT m.id FROM unnest($4::text[], $5::bigint[]) AS m (id, number)
        WHERE NOT EXISTS (SELECT FROM outlive.writer w WHERE w.id = m.id AND w.last >= m.number)
    ) AS lanes;

-- That commits were lost is kept beside the data, for whoever looks later.
-- name: loss_note
INSERT INTO outlive.cell (space, key, version, due, marks, value)
VALUES ('loss', $1, nextval('outlive.version_block') * 65536, NULL, '[]', $2)
ON CONFLICT DO NOTHING;

-- Before marks of writers that are gone are forgotten, what they say about the clock is kept.
-- name: clock_keep
UPDATE outlive.store SET clock = greatest(clock, $1) WHERE id = 1 AND clock < $1;

-- name: clock
SELECT outlive.clock($1, $2);

-- name: writer_make
INSERT INTO outlive.writer (id, last, time) SELECT unnest($1::text[]), 0, $2
ON CONFLICT (id) DO NOTHING;

-- name: writer_forget
DELETE FROM outlive.writer WHERE time < $1;

-- Lock first, then look: a lost backend that is still committing holds this row.
-- name: writer_lock
SELECT last, base FROM outlive.writer WHERE id = $1 FOR UPDATE;

-- What comes later from a lost connection has a lower number, and writes nothing any more.
-- name: writer_burn
UPDATE outlive.writer SET last = $2 WHERE id = $1;

-- name: commit_group
SELECT * FROM outlive.commit_group(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
    $22, $23, $24, $25, $26, $27, $28
);

-- name: commit_believed
SELECT outlive.commit_believed(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
    $22, $23, $24, $25, $26, $27, $28, $29
);

-- name: commit_event
SELECT outlive.commit_event($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: idle_limit
SELECT set_config('idle_in_transaction_session_timeout', $1, true);

-- name: take
SELECT epoch, head, chain, moment FROM outlive.take_shard($1, $2, $3, $4, $5, $6);

-- The same for many shards, in the order of their ids; those that are not at their epoch are left.
-- name: take_all
SELECT t.shard, k.epoch, k.head, k.chain, k.moment
FROM unnest($1::integer[], $2::bigint[]) AS t (shard, epoch),
    LATERAL outlive.take_shard(t.shard, t.epoch, $3, $4, $5, $6) AS k;

-- End the session that wrote for the owner of shard $1 at epoch $2, if it is the one that keeps
-- backend $3 waiting and has stood idle in its transaction for $5 milliseconds. $4 is our own name.
-- name: frozen_end
SELECT f.pid, f.application_name FROM (
    SELECT a.pid, a.application_name
    FROM outlive.hold h JOIN pg_stat_activity a ON a.application_name = h.session
    WHERE h.shard = $1 AND h.epoch = $2 AND h.session NOT IN ('', $4)
        AND a.pid = ANY (pg_blocking_pids($3))
        AND a.datname = current_database() AND a.usename = current_user
        AND (a.state = 'idle in transaction'
             OR (a.state = 'active' AND a.wait_event_type = 'Client'))
        AND a.state_change < clock_timestamp() - $5 * interval '1 millisecond'
    OFFSET 0
) AS f WHERE pg_terminate_backend(f.pid);

-- name: hold_read
SELECT owner FROM outlive.hold WHERE shard = $1 AND epoch = $2;

-- name: release
UPDATE outlive.shard SET owner = '', epoch = epoch + 1
WHERE id = $1 AND epoch = $2 AND owner = $3;

-- name: shards
SELECT id, owner, epoch, head FROM outlive.shard ORDER BY id;

-- name: holds
SELECT shard, epoch, owner, head, time, previous FROM outlive.hold
ORDER BY time DESC, shard, epoch DESC LIMIT $1;

-- name: holds_of
SELECT shard, epoch, owner, head, time, previous FROM outlive.hold
WHERE shard = $1 ORDER BY epoch DESC LIMIT $2;

-- name: claim
SELECT was, space, key, value, version, due FROM outlive.claim_cells($1, $2, $3, $4, $5)
ORDER BY at;

-- name: next_due
SELECT min(l.due) FROM unnest($1::text[]) AS s (space), LATERAL (
    SELECT c.due FROM outlive.cell c WHERE c.space = s.space AND c.due IS NOT NULL
    ORDER BY c.due LIMIT 1
) AS l;

-- One look-up a cell, however large the table was when this was planned.
-- name: cells
SELECT t.at, l.space, l.key, l.value, l.version, l.due
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t (space, key, at), LATERAL (
    SELECT * FROM outlive.cell c WHERE c.space = t.space AND c.key = t.key LIMIT 1
) AS l;

-- name: scan
SELECT space, key, value, version, due FROM outlive.cell WHERE space = $1 AND key > $2
ORDER BY key LIMIT $3;

-- name: select_oldest
SELECT m.value, c.space, c.key, c.value, c.version, c.due
FROM outlive.mark m JOIN outlive.cell c ON c.space = m.space AND c.key = m.key
WHERE m.name = $1 AND m.value BETWEEN $2 AND $3 AND m.space = ANY ($4::text[])
ORDER BY m.value, m.space, m.key LIMIT $5;

-- name: select_newest
SELECT m.value, c.space, c.key, c.value, c.version, c.due
FROM outlive.mark m JOIN outlive.cell c ON c.space = m.space AND c.key = m.key
WHERE m.name = $1 AND m.value BETWEEN $2 AND $3 AND m.space = ANY ($4::text[])
ORDER BY m.value DESC, m.space DESC, m.key DESC LIMIT $5;

-- name: events
SELECT shard, seq, stream, n, kind, data, time, chain FROM outlive.event
WHERE stream = $1 AND n > $2 ORDER BY n LIMIT $3;

-- Journals read together, the first ones first; each by a look-up of its own.
-- name: histories
SELECT e.shard, e.seq, e.stream, e.n, e.kind, e.data, e.time, e.chain
FROM unnest($1::text[]) WITH ORDINALITY AS t (stream, at), LATERAL (
    SELECT * FROM outlive.event e WHERE e.stream = t.stream ORDER BY e.n LIMIT $2
) AS e
ORDER BY t.at, e.n LIMIT $2;

-- What the chain was made from is gone; the place and the chain value stay.
-- name: erase
UPDATE outlive.event SET kind = 'erased', data = ''
WHERE stream = ANY ($1::text[]) AND kind <> 'erased';

-- name: lengths
SELECT t.stream, l.n + 1 FROM unnest($1::text[]) AS t (stream), LATERAL (
    SELECT e.n FROM outlive.event e WHERE e.stream = t.stream ORDER BY e.n DESC LIMIT 1
) AS l;

-- name: tail
SELECT shard, seq, stream, n, kind, data, time, chain FROM outlive.event
WHERE shard = $1 AND seq > $2 ORDER BY seq LIMIT $3;

-- What moves with every commit by anybody: the marks of writers, take-overs, blocks of versions.
-- name: changes
SELECT coalesce((SELECT sum(last) FROM outlive.writer), 0)::bigint,
       coalesce((SELECT sum(epoch) FROM outlive.shard), 0)::bigint,
       (SELECT last_value FROM outlive.version_block);

-- What a caller's transaction must know before it carries cells.
-- name: carry_look
SELECT outlive.clock(0, CAST($1 AS bigint)), s.shards, s.incarnation, (
    SELECT convert_from(c.value, 'UTF8') FROM outlive.cell c
    WHERE c.space = CAST($2 AS text) AND c.key = CAST($3 AS text)
)
FROM outlive.store s WHERE s.id = 1;

-- name: carry
SELECT outlive.carry(CAST($1 AS text));

-- Who listens for hints holds this lock, shared with all others who do.
-- name: hints_lock
SELECT pg_advisory_lock_shared($1);

-- name: hints_heard
SELECT count(*) FROM pg_locks l
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    AND l.classid = (($1::bigint >> 32) & 4294967295)::oid
    AND l.objid = ($1::bigint & 4294967295)::oid;

-- It writes nothing, so its commit does not wait for the disk.
-- name: hint
SELECT pg_notify($1, $2);

-- What a pooler says of this number is made up, and this is not.
-- name: backend
SELECT pg_backend_pid();

-- name: node_announce
INSERT INTO outlive.node (id, lock, time) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET lock = excluded.lock, time = excluded.time;

-- name: node_lock
SELECT pg_try_advisory_lock($1);

-- name: node_forget
DELETE FROM outlive.node WHERE id = ANY ($1::text[]);

-- name: nodes_sweep
DELETE FROM outlive.node WHERE time < $1;

-- Known nodes whose lock nobody holds.
-- name: nodes_departed
SELECT n.id FROM outlive.node n WHERE n.id = ANY ($1::text[]) AND NOT EXISTS (
    SELECT FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        AND l.classid = ((n.lock >> 32) & 4294967295)::oid
        AND l.objid = (n.lock & 4294967295)::oid
);

-- name: blob_put
INSERT INTO outlive.blob (name, time, data) VALUES ($1, outlive.clock($2, $3), $4);

-- name: blob_get
SELECT data FROM outlive.blob WHERE name = $1;

-- name: blob_drop
DELETE FROM outlive.blob WHERE name = $1;

-- name: blobs_older
SELECT time, name FROM outlive.blob WHERE time < $1 AND (time, name) > ($2, $3::text)
ORDER BY time, name LIMIT 1000;

-- What is kept: events, the bytes of their data, how many are erased; bytes of all tables.
-- name: doctor_kept
SELECT count(*), coalesce(sum(octet_length(e.data)), 0)::bigint,
    count(*) FILTER (WHERE e.kind = 'erased'),
    (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relkind = 'r')
FROM outlive.event e;

-- name: doctor_server
SELECT current_setting('server_version'), current_setting('server_version_num')::integer,
       pg_is_in_recovery();

-- name: doctor_durability
SELECT current_setting('synchronous_commit'), current_setting('fsync'),
       current_setting('full_page_writes'), current_setting('synchronous_standby_names');

-- name: doctor_isolation
SELECT current_setting('default_transaction_isolation');

-- What it sees depends on the role: other roles' sessions show no age without pg_monitor.
-- name: doctor_horizon
SELECT coalesce(max(age(backend_xmin)), 0)::bigint,
       coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::float8
FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_xmin IS NOT NULL;

-- A list of privileges in one question asks for any of them.
-- name: doctor_rights
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'r'
    AND EXISTS (
        SELECT FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r (need)
        WHERE NOT has_table_privilege(c.oid, r.need)
    );

-- name: chain_at
SELECT chain FROM outlive.event WHERE shard = $1 AND seq = $2;

-- name: halt_read
SELECT reason, other, token FROM outlive.halt WHERE id = 1;

-- name: halt_write
INSERT INTO outlive.halt (id, reason, other, token, time) VALUES (1, $1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET
    reason = excluded.reason, other = excluded.other, token = excluded.token, time = excluded.time;

-- name: halt_begin
INSERT INTO outlive.halt (id, reason, other, token, time) VALUES (1, $1, $2, $3, $4)
ON CONFLICT (id) DO NOTHING;

-- Nobody ends the halt before this transaction has.
-- name: halt_hold
SELECT reason, other, token FROM outlive.halt WHERE id = 1 FOR SHARE;

-- name: halt_filled
UPDATE outlive.halt SET reason = 'filled' WHERE id = 1;

-- name: halt_release
DELETE FROM outlive.halt WHERE reason = 'filled';

-- name: halt_end
DELETE FROM outlive.halt;

-- A frozen store takes no write, also from nodes that have it open. Making a trigger waits for the
-- transactions under way, so none of them commits after it.
-- name: freeze
CREATE OR REPLACE TRIGGER halted BEFORE INSERT OR UPDATE OR DELETE ON outlive.shard
FOR EACH STATEMENT EXECUTE FUNCTION outlive.refuse_halted();
CREATE OR REPLACE TRIGGER halted BEFORE INSERT OR UPDATE OR DELETE ON outlive.cell
FOR EACH STATEMENT EXECUTE FUNCTION outlive.refuse_halted();
CREATE OR REPLACE TRIGGER halted BEFORE INSERT OR UPDATE OR DELETE ON outlive.event
FOR EACH STATEMENT EXECUTE FUNCTION outlive.refuse_halted();
CREATE OR REPLACE TRIGGER halted BEFORE INSERT OR UPDATE OR DELETE ON outlive.writer
FOR EACH STATEMENT EXECUTE FUNCTION outlive.refuse_halted();
CREATE OR REPLACE TRIGGER halted BEFORE INSERT OR UPDATE OR DELETE ON outlive.blob
FOR EACH STATEMENT EXECUTE FUNCTION outlive.refuse_halted();

-- name: thaw
DROP TRIGGER IF EXISTS halted ON outlive.shard;
DROP TRIGGER IF EXISTS halted ON outlive.cell;
DROP TRIGGER IF EXISTS halted ON outlive.event;
DROP TRIGGER IF EXISTS halted ON outlive.writer;
DROP TRIGGER IF EXISTS halted ON outlive.blob;

-- name: facts
SELECT s.incarnation, s.shards, v.last_value * 65536 + 65535 AS version,
    (SELECT count(*) FROM outlive.hold) AS holds,
    (SELECT count(*) FROM outlive.event) AS events,
    (SELECT count(*) FROM outlive.cell) AS cells,
    (SELECT count(*) FROM outlive.blob) AS blobs,
    (SELECT coalesce(max(octet_length(b.data)), 0) FROM outlive.blob b) AS largest
FROM outlive.store s, outlive.version_block v WHERE s.id = 1;

-- Pages are bounded in rows and in bytes: a value is not fetched before it is known to fit.
-- name: copy_holds
SELECT shard, epoch, owner, head, time, previous FROM outlive.hold
WHERE (shard, epoch) > ($1, $2) ORDER BY shard, epoch LIMIT $3;

-- name: copy_events
SELECT q.shard, q.seq, q.stream, q.n, q.kind, q.time, q.data, q.chain
FROM (
    SELECT p.*, sum(octet_length(p.data)) OVER (ORDER BY p.shard, p.seq) AS total
    FROM (
        SELECT * FROM outlive.event WHERE (shard, seq) > ($1, $2) ORDER BY shard, seq LIMIT $3
    ) AS p
) AS q
WHERE q.total - octet_length(q.data) <= $4 ORDER BY q.shard, q.seq;

-- name: copy_cells
SELECT q.space, q.key, q.version, q.due, q.marks, q.value
FROM (
    SELECT p.*, sum(octet_length(p.value)) OVER (ORDER BY p.space, p.key) AS total
    FROM (
        SELECT * FROM outlive.cell WHERE (space, key) > ($1, $2) ORDER BY space, key LIMIT $3
    ) AS p
) AS q
WHERE q.total - octet_length(q.value) <= $4 ORDER BY q.space, q.key;

-- name: copy_blobs
SELECT name, time, data FROM outlive.blob WHERE name COLLATE "C" > $1
ORDER BY name COLLATE "C" LIMIT 1;

-- name: last_hold
SELECT shard, epoch FROM outlive.hold ORDER BY shard DESC, epoch DESC LIMIT 1;

-- name: last_event
SELECT shard, seq FROM outlive.event ORDER BY shard DESC, seq DESC LIMIT 1;

-- name: last_cell
SELECT space, key FROM outlive.cell ORDER BY space DESC, key DESC LIMIT 1;

-- name: last_blob
SELECT max(name COLLATE "C") FROM outlive.blob;

-- name: fill_shard
UPDATE outlive.shard SET owner = '', epoch = $2, head = $3, time = coalesce(
    (SELECT e.time FROM outlive.event e WHERE e.shard = $1 AND e.seq = $3), 0
) WHERE id = $1;

-- name: fill_store
UPDATE outlive.store SET incarnation = $1, clock = greatest(clock, $2) WHERE id = 1;

-- name: fill_versions
SELECT setval(
    format('%I.version_block', $1::text)::regclass,
    greatest($2, (SELECT last_value FROM outlive.version_block))
);

-- An unused store is given another number of shards.
-- name: shards_drop
DELETE FROM outlive.shard;

-- name: shards_count
UPDATE outlive.store SET shards = $1 WHERE id = 1;

-- name: analyze_cell
ANALYZE outlive.cell;

-- name: analyze_event
ANALYZE outlive.event;

-- name: analyze_mark
ANALYZE outlive.mark;

-- Streams whose events are not 0, 1, 2 … without a hole.
-- name: check_streams
SELECT stream, count(*), min(n), max(n) FROM outlive.event GROUP BY stream
HAVING min(n) <> 0 OR max(n) <> count(*) - 1 LIMIT 100;

-- Marks that a cell says it has, and that are not there.
-- name: check_marks_missing
SELECT c.space, c.key, p ->> 0, p ->> 1
FROM outlive.cell c, LATERAL jsonb_array_elements(c.marks::jsonb) AS p
WHERE NOT EXISTS (
    SELECT FROM outlive.mark m
    WHERE m.name = p ->> 0 AND m.value = p ->> 1 AND m.space = c.space AND m.key = c.key
) LIMIT 100;

-- Marks that are there, and that no cell says it has.
-- name: check_marks_stray
SELECT m.space, m.key, m.name, m.value
FROM outlive.mark m LEFT JOIN outlive.cell c ON c.space = m.space AND c.key = m.key
WHERE c.key IS NULL OR NOT EXISTS (
    SELECT FROM jsonb_array_elements(c.marks::jsonb) AS p
    WHERE p ->> 0 = m.name AND p ->> 1 = m.value
) LIMIT 100;

-- name: count_marks
SELECT count(*) FROM outlive.mark;

-- Each of the statements that give a role what a service needs, and no more.
-- name: grants
SELECT format(t.pattern, $1::text, $2::text) FROM unnest(ARRAY[
    'GRANT USAGE ON SCHEMA %1$I TO %2$I',
    'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %1$I TO %2$I',
    'GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %1$I TO %2$I',
    'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA %1$I TO %2$I'
]) AS t (pattern);
