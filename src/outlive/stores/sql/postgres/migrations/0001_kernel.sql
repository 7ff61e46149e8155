-- The kernel: journal, shards, cells. Every kind of state lives in these tables; a new kind adds
-- none. The schema is written as outlive and replaced by the store's own when this is loaded.
--
-- What a commit does, it does in one function call, so that a group is one statement, one implicit
-- transaction, one round trip: a client that freezes or is cut off holds no row.

-- One row: what the store is, and a mark its clock has reached.
CREATE TABLE outlive.store (
    id          integer PRIMARY KEY CHECK (id = 1),
    incarnation text    NOT NULL,
    shards      integer NOT NULL,
    clock       bigint  NOT NULL
);

-- Blocks of cell versions: a version is block * 65536 + its place in the block.
CREATE SEQUENCE outlive.version_block AS bigint;

-- Ownership, order and fence in one row. time is that of the last event: a shard's never goes back.
CREATE TABLE outlive.shard (
    id    integer PRIMARY KEY,
    owner text    NOT NULL DEFAULT '',
    epoch bigint  NOT NULL DEFAULT 0,
    head  bigint  NOT NULL DEFAULT 0,
    time  bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

-- The ledger of ownership: one line per take-over. session is the one that wrote for the owner, by
-- the name that the server shows for it, new with each start of a process: who takes a shard over
-- from a node that froze in a transaction can end that session, and no other, instead of waiting.
CREATE TABLE outlive.hold (
    shard    integer NOT NULL,
    epoch    bigint  NOT NULL,
    owner    text    NOT NULL,
    head     bigint  NOT NULL,
    time     bigint  NOT NULL,
    previous text    NOT NULL,
    session  text    NOT NULL DEFAULT '',
    PRIMARY KEY (shard, epoch)
);

-- The journal.
CREATE TABLE outlive.event (
    shard  integer NOT NULL,
    seq    bigint  NOT NULL,
    stream text    NOT NULL COLLATE "C",
    n      bigint  NOT NULL,
    kind   text    NOT NULL,
    time   bigint  NOT NULL,
    data   bytea   NOT NULL,
    chain  bytea   NOT NULL,
    PRIMARY KEY (shard, seq)
);

CREATE UNIQUE INDEX event_stream ON outlive.event (stream, n);

-- marks repeats the rows of mark as JSON, so that replacing them needs no index by key.
CREATE TABLE outlive.cell (
    space   text   NOT NULL COLLATE "C",
    key     text   NOT NULL COLLATE "C",
    version bigint NOT NULL,
    due     bigint,
    marks   text   NOT NULL,
    value   bytea  NOT NULL,
    PRIMARY KEY (space, key)
) WITH (fillfactor = 70);

CREATE INDEX cell_due ON outlive.cell (space, due) WHERE due IS NOT NULL;

CREATE TABLE outlive.mark (
    name  text NOT NULL COLLATE "C",
    value text NOT NULL COLLATE "C",
    space text NOT NULL COLLATE "C",
    key   text NOT NULL COLLATE "C",
    PRIMARY KEY (name, value, space, key)
);

-- The last group of each writing lane: how a commit whose answer was lost is looked up, and with
-- which block of versions. A late statement whose number is not higher writes nothing.
CREATE TABLE outlive.writer (
    id    text   PRIMARY KEY,
    last  bigint NOT NULL,
    time  bigint NOT NULL,
    base  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

-- Nodes that gave a sign of life: an advisory lock that ends with their connection.
CREATE TABLE outlive.node (
    id   text   PRIMARY KEY,
    lock bigint NOT NULL,
    time bigint NOT NULL
);

CREATE TABLE outlive.blob (
    name text   PRIMARY KEY,
    time bigint NOT NULL,
    data bytea  NOT NULL
);

ALTER TABLE outlive.blob ALTER COLUMN data SET STORAGE EXTERNAL;

-- Why the store may not be served: it is being filled by a restore or a move, is being moved, or
-- was moved. No row: it may be.
CREATE TABLE outlive.halt (
    id     integer PRIMARY KEY CHECK (id = 1),
    reason text    NOT NULL CHECK (reason IN ('filling', 'filled', 'moving', 'moved')),
    other  text    NOT NULL,
    token  text    NOT NULL,
    time   bigint  NOT NULL
);

-- Microseconds since 1970: the server's clock or a test's, and never behind what was once seen.
CREATE FUNCTION outlive.clock(p_high bigint, p_wall bigint) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT greatest(
        p_high, coalesce(p_wall, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    );
$$;

-- One group commit. All checks come first, under locks: the shards in the order of their ids, then
-- the cells in the order of (space, key). When anything is not as the caller believes (or with
-- p_probe), nothing is written and the facts are given back; the locks last as long as the
-- caller's transaction.
--
--   lease_*    one row a lease; head NULL: nothing is appended and any head will do
--   cell_*     every cell touched. need: the version it must have (0: absent; NULL: any);
--              action: 0 only looked at, 1 put, 2 dropped; draw: which of the new versions
--   stream_*   every stream appended to, and how long it must be
--   event_*    what is appended, chained by the caller
--
-- The settings hold the planner to look-ups by key: a plan that was made when the tables were small
-- stays in the session's cache, and would read them whole when they are large. Before PostgreSQL 18
-- they also make every plan look so dear that it is compiled to machine code, again with each call,
-- which takes longer than the call: hence jit = off.
--
-- The shards' rows are looked up once, and found by their place (ctid) after that. Every look-up by
-- key walks the dead versions of a row, and a forgotten transaction elsewhere keeps them all. A row
-- that we have locked stays at its place until we change it.
--
-- Raises OL002 when p_group is not higher than the writer's mark, and the errors of a lost race
-- (23505, 40P01, 55P03), after which the caller tries again.
CREATE FUNCTION outlive.commit_group(
    p_writer text, p_group bigint, p_now bigint, p_late bigint, p_relaxed boolean, p_probe boolean,
    lease_shard integer[], lease_epoch bigint[], lease_owner text[], lease_head bigint[],
    lease_count bigint[],
    cell_space text[], cell_key text[], cell_need bigint[], cell_action integer[],
    cell_value bytea[], cell_due bigint[], cell_marks text[], cell_draw integer[],
    stream_name text[], stream_length bigint[],
    event_shard integer[], event_seq bigint[], event_stream text[], event_n bigint[],
    event_kind text[], event_data bytea[], event_chain bytea[],
    OUT done boolean, OUT clock bigint, OUT base bigint,
    OUT shards jsonb, OUT versions bigint[], OUT lengths bigint[]
) LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    places   tid[];
    locked   integer[];
    good     boolean := NOT p_probe;
    fresh    boolean := false;
    latest   bigint;
    marks_of text[];
    held     bigint;
    gone     record;
BEGIN
    clock := outlive.clock(0, NULL);
    IF p_relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    IF p_now < clock - p_late THEN
        good := false;
    END IF;

    IF cardinality(lease_shard) > 0 THEN
        SELECT array_agg(r.place ORDER BY r.id), array_agg(r.id ORDER BY r.id),
               count(*) FILTER (WHERE EXISTS (
                   SELECT FROM unnest(lease_shard, lease_epoch, lease_owner, lease_head)
                       AS l (shard, epoch, owner, head)
                   WHERE l.shard = r.id AND l.epoch = r.epoch AND l.owner = r.owner
                       AND (l.head IS NULL OR (r.head = l.head AND r.time <= p_now))
               ))
        INTO places, locked, held
        FROM (
            SELECT s.ctid AS place, s.id, s.epoch, s.owner, s.head, s.time FROM outlive.shard s
            WHERE s.id = ANY (lease_shard) ORDER BY s.id FOR NO KEY UPDATE
        ) AS r;
        good := good AND held = cardinality(lease_shard);
    END IF;

    IF cardinality(cell_key) > 0 THEN
        PERFORM 1 FROM unnest(cell_space, cell_key) AS t (space, key)
        JOIN outlive.cell c ON c.space = t.space AND c.key = t.key
        ORDER BY c.space, c.key FOR UPDATE OF c;
        SELECT array_agg(coalesce(c.version, 0) ORDER BY t.at),
               array_agg(coalesce(c.marks, '[]') ORDER BY t.at)
        INTO versions, marks_of
        FROM unnest(cell_space, cell_key) WITH ORDINALITY AS t (space, key, at)
        LEFT JOIN outlive.cell c ON c.space = t.space AND c.key = t.key;
        good := good AND NOT EXISTS (
            SELECT FROM unnest(cell_need, versions) AS t (need, found) WHERE t.need <> t.found
        );
    END IF;

    IF cardinality(stream_name) > 0 THEN
        SELECT array_agg(
            coalesce(
                (SELECT e.n + 1 FROM outlive.event e WHERE e.stream = t.stream
                 ORDER BY e.n DESC LIMIT 1), 0
            ) ORDER BY t.at
        )
        INTO lengths FROM unnest(stream_name) WITH ORDINALITY AS t (stream, at);
        good := good AND lengths = stream_length;
    END IF;

    IF NOT good THEN
        SELECT jsonb_agg(jsonb_build_array(
            s.id, s.owner, s.epoch, s.head, s.time, coalesce(encode(e.chain, 'hex'), '')
        ))
        INTO shards
        FROM outlive.shard s LEFT JOIN outlive.event e ON e.shard = s.id AND e.seq = s.head
        WHERE s.id = ANY (lease_shard);
        done := false;
        RETURN;
    END IF;

    base := nextval('outlive.version_block') * 65536;

    IF cardinality(cell_key) > 0 THEN
        -- A cell required to be absent and not put is made for a moment: that locks its key.
        INSERT INTO outlive.cell (space, key, version, due, marks, value)
        SELECT t.space, t.key, base + coalesce(t.draw, 0), t.due,
               coalesce(t.marks, '[]'), coalesce(t.value, '')
        FROM unnest(
            cell_space, cell_key, cell_need, cell_action, cell_value, cell_due, cell_marks,
            cell_draw, versions
        ) AS t (space, key, need, action, value, due, marks, draw, found)
        WHERE t.found = 0 AND (t.action = 1 OR t.need = 0)
        ORDER BY t.space, t.key;
        fresh := FOUND;

        -- An insert may have waited for a drop of the same key, and its block is then older than
        -- that of the dropped cell. Now that the key is ours, draw again if anybody else drew.
        IF fresh THEN
            SELECT v.last_value INTO latest FROM outlive.version_block v;
            IF latest * 65536 <> base THEN
                base := nextval('outlive.version_block') * 65536;
                UPDATE outlive.cell c SET version = base + t.draw
                FROM unnest(cell_space, cell_key, cell_action, cell_draw, versions)
                    AS t (space, key, action, draw, found)
                WHERE t.found = 0 AND t.action = 1 AND c.space = t.space AND c.key = t.key;
            END IF;
        END IF;

        UPDATE outlive.cell c
        SET value = t.value, version = base + t.draw, due = t.due, marks = t.marks
        FROM unnest(
            cell_space, cell_key, cell_action, cell_value, cell_due, cell_marks, cell_draw, versions
        ) AS t (space, key, action, value, due, marks, draw, found)
        WHERE t.found <> 0 AND t.action = 1 AND c.space = t.space AND c.key = t.key;

        DELETE FROM outlive.cell c
        USING unnest(cell_space, cell_key, cell_need, cell_action, versions)
            AS t (space, key, need, action, found)
        WHERE c.space = t.space AND c.key = t.key
            AND ((t.action = 2 AND t.found <> 0)
                 OR (t.found = 0 AND t.need = 0 AND t.action <> 1));

        IF EXISTS (
            SELECT FROM unnest(marks_of, cell_marks, cell_action) AS t (old, new, action)
            WHERE t.action <> 0 AND t.old <> t.new
        ) THEN
            -- One by one: a plan that joins them reads the whole index for each.
            FOR gone IN
                SELECT p ->> 0 AS name, p ->> 1 AS value, t.space, t.key
                FROM unnest(cell_space, cell_key, cell_action, marks_of, cell_marks)
                    AS t (space, key, action, old, new),
                    LATERAL jsonb_array_elements(t.old::jsonb) AS p
                WHERE t.action <> 0 AND t.old <> t.new AND t.old <> '[]'
                    AND NOT EXISTS (
                        SELECT FROM jsonb_array_elements(t.new::jsonb) AS q
                        WHERE q.value = p.value
                    )
            LOOP
                DELETE FROM outlive.mark m
                WHERE m.name = gone.name AND m.value = gone.value
                    AND m.space = gone.space AND m.key = gone.key;
            END LOOP;
            INSERT INTO outlive.mark (name, value, space, key)
            SELECT p ->> 0, p ->> 1, t.space, t.key
            FROM unnest(cell_space, cell_key, cell_action, marks_of, cell_marks)
                AS t (space, key, action, old, new),
                LATERAL jsonb_array_elements(t.new::jsonb) AS p
            WHERE t.action = 1 AND t.old <> t.new
            ON CONFLICT DO NOTHING;
        END IF;
    END IF;

    IF cardinality(event_seq) > 0 THEN
        UPDATE outlive.shard s SET head = s.head + l.count, time = p_now
        FROM unnest(lease_shard, lease_epoch, lease_owner, lease_count)
                AS l (shard, epoch, owner, count)
            JOIN unnest(locked, places) AS p (id, place) ON p.id = l.shard
        WHERE s.ctid = p.place AND s.epoch = l.epoch AND s.owner = l.owner
            AND l.count > 0;
        INSERT INTO outlive.event (shard, seq, stream, n, kind, time, data, chain)
        SELECT t.shard, t.seq, t.stream, t.n, t.kind, p_now, t.data, t.chain
        FROM unnest(
            event_shard, event_seq, event_stream, event_n, event_kind, event_data, event_chain
        ) AS t (shard, seq, stream, n, kind, data, chain);
    END IF;

    UPDATE outlive.writer w SET last = p_group, time = p_now, base = commit_group.base
    WHERE w.id = p_writer AND w.last < p_group;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'group % of % was given up, or its writer is gone', p_group, p_writer
            USING ERRCODE = 'OL002';
    END IF;
    done := true;
END
$$;

-- The same group commit for a caller that knows all it touches, having written it last: nothing is
-- looked up, and each row is checked where it is written.
--
--   lease_*    as above, in the order of the shards; count 0: only the fence
--   cell_*     in the order of (space, key). was: the version that is replaced (NULL: there is no
--              such cell); value NULL: dropped
--   mark_*     the marks that come (on) and go
--   event_*    as above; shard and seq are empty when all belong to the one lease. The caller knows
--              how long the streams are: it wrote their last events, or they are new
--
-- Gives the clock and the first version. That is NULL when p_now is late or a cell that should be
-- new is there: nothing was written. Raises OL004 when anything else is not as believed, OL002 and
-- the errors of a lost race as above.
--
-- What is replaced goes row by row: such a statement has but one plan, a look-up by the whole key.
CREATE FUNCTION outlive.commit_believed(
    p_writer text, p_group bigint, p_now bigint, p_late bigint, p_relaxed boolean,
    lease_shard integer[], lease_epoch bigint[], lease_owner text[], lease_head bigint[],
    lease_count integer[],
    cell_space text[], cell_key text[], cell_was bigint[], cell_value bytea[], cell_due bigint[],
    cell_marks text[], cell_draw integer[],
    mark_on boolean[], mark_name text[], mark_value text[], mark_space text[], mark_key text[],
    event_shard integer[], event_seq bigint[], event_stream text[], event_n bigint[],
    event_kind text[], event_data bytea[], event_chain bytea[]
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    moment  bigint := outlive.clock(0, NULL);
    first   bigint := 0;
    latest  bigint;
    good    boolean := true;
    fresh   boolean := false;
    r       record;
BEGIN
    IF p_now < moment - p_late THEN
        RETURN ARRAY[moment, NULL];
    END IF;
    IF p_relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    IF cell_key <> '{}' AND EXISTS (
        SELECT FROM unnest(cell_space, cell_key, cell_was) AS t (space, key, was)
        WHERE t.was IS NULL AND (
            SELECT true FROM outlive.cell c WHERE c.space = t.space AND c.key = t.key
        )
    ) THEN
        RETURN ARRAY[moment, NULL];
    END IF;

    FOR i IN 1 .. cardinality(lease_shard) LOOP
        IF lease_count[i] > 0 THEN
            UPDATE outlive.shard s SET head = s.head + lease_count[i], time = p_now
            WHERE s.id = lease_shard[i] AND s.epoch = lease_epoch[i] AND s.owner = lease_owner[i]
                AND s.head = lease_head[i] AND s.time <= p_now;
        ELSE
            PERFORM FROM outlive.shard s
            WHERE s.id = lease_shard[i] AND s.epoch = lease_epoch[i] AND s.owner = lease_owner[i]
            FOR NO KEY UPDATE;
        END IF;
        good := good AND FOUND;
    END LOOP;

    IF good AND cell_key <> '{}' THEN
        first := nextval('outlive.version_block') * 65536;
        INSERT INTO outlive.cell (space, key, version, due, marks, value)
        SELECT t.space, t.key, first + t.draw, t.due, t.marks, t.value
        FROM unnest(cell_space, cell_key, cell_was, cell_value, cell_due, cell_marks, cell_draw)
            AS t (space, key, was, value, due, marks, draw)
        WHERE t.was IS NULL;
        fresh := FOUND;
        IF fresh THEN  -- as above: an insert may have waited for a drop that drew after us
            SELECT v.last_value INTO latest FROM outlive.version_block v;
            IF latest * 65536 <> first THEN
                first := nextval('outlive.version_block') * 65536;
                FOR r IN
                    SELECT t.space, t.key, t.draw
                    FROM unnest(cell_space, cell_key, cell_was, cell_draw)
                        AS t (space, key, was, draw)
                    WHERE t.was IS NULL
                LOOP
                    UPDATE outlive.cell c SET version = first + r.draw
                    WHERE c.space = r.space AND c.key = r.key;
                END LOOP;
            END IF;
        END IF;
        FOR r IN
            SELECT * FROM unnest(
                cell_space, cell_key, cell_was, cell_value, cell_due, cell_marks, cell_draw
            ) AS t (space, key, was, value, due, marks, draw)
            WHERE t.was IS NOT NULL
        LOOP
            IF r.value IS NULL THEN
                DELETE FROM outlive.cell c
                WHERE c.space = r.space AND c.key = r.key AND c.version = r.was;
            ELSE
                UPDATE outlive.cell c
                SET value = r.value, version = first + r.draw, due = r.due, marks = r.marks
                WHERE c.space = r.space AND c.key = r.key AND c.version = r.was;
            END IF;
            good := good AND FOUND;
        END LOOP;
    END IF;
    IF NOT good THEN
        RAISE EXCEPTION 'group % of % is not what it was believed to be', p_group, p_writer
            USING ERRCODE = 'OL004';
    END IF;

    IF mark_on <> '{}' THEN
        FOR r IN
            SELECT * FROM unnest(mark_on, mark_name, mark_value, mark_space, mark_key)
                AS t (comes, name, value, space, key)
            WHERE NOT t.comes
        LOOP
            DELETE FROM outlive.mark m
            WHERE m.name = r.name AND m.value = r.value AND m.space = r.space AND m.key = r.key;
        END LOOP;
        INSERT INTO outlive.mark (name, value, space, key)
        SELECT t.name, t.value, t.space, t.key
        FROM unnest(mark_on, mark_name, mark_value, mark_space, mark_key)
            AS t (comes, name, value, space, key)
        WHERE t.comes;
    END IF;

    IF event_seq <> '{}' THEN
        INSERT INTO outlive.event (shard, seq, stream, n, kind, time, data, chain)
        SELECT t.shard, t.seq, t.stream, t.n, t.kind, p_now, t.data, t.chain
        FROM unnest(
            event_shard, event_seq, event_stream, event_n, event_kind, event_data, event_chain
        ) AS t (shard, seq, stream, n, kind, data, chain);
    ELSIF event_n <> '{}' THEN
        INSERT INTO outlive.event (shard, seq, stream, n, kind, time, data, chain)
        SELECT
            lease_shard[1], lease_head[1] + t.at, t.stream, t.n, t.kind, p_now, t.data, t.chain
        FROM unnest(event_stream, event_n, event_kind, event_data, event_chain)
            WITH ORDINALITY AS t (stream, n, kind, data, chain, at);
    END IF;

    UPDATE outlive.writer w SET last = p_group, time = p_now, base = first
    WHERE w.id = p_writer AND w.last < p_group;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'group % of % was given up, or its writer is gone', p_group, p_writer
            USING ERRCODE = 'OL002';
    END IF;
    RETURN ARRAY[moment, first];
END
$$;

-- The same for one event and nothing else, without arrays: what a node with little to do commits
-- most. Gives NULL for the first version, and has written nothing, also when the fence is not met.
CREATE FUNCTION outlive.commit_event(
    p_writer text, p_group bigint, p_now bigint, p_late bigint,
    p_shard integer, p_epoch bigint, p_owner text, p_head bigint,
    p_stream text, p_n bigint, p_kind text, p_data bytea, p_chain bytea
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    moment bigint := outlive.clock(0, NULL);
BEGIN
    IF p_now < moment - p_late THEN
        RETURN ARRAY[moment, NULL];
    END IF;
    UPDATE outlive.shard s SET head = s.head + 1, time = p_now
    WHERE s.id = p_shard AND s.epoch = p_epoch AND s.owner = p_owner
        AND s.head = p_head AND s.time <= p_now;
    IF NOT FOUND THEN
        RETURN ARRAY[moment, NULL];
    END IF;
    INSERT INTO outlive.event (shard, seq, stream, n, kind, time, data, chain)
    VALUES (p_shard, p_head + 1, p_stream, p_n, p_kind, p_now, p_data, p_chain);
    UPDATE outlive.writer w SET last = p_group, time = p_now, base = 0
    WHERE w.id = p_writer AND w.last < p_group;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'group % of % was given up, or its writer is gone', p_group, p_writer
            USING ERRCODE = 'OL002';
    END IF;
    RETURN ARRAY[moment, 0];
END
$$;

-- Become the owner of a shard that is at p_epoch. No row: it is not.
CREATE FUNCTION outlive.take_shard(
    p_shard integer, p_epoch bigint, p_owner text, p_session text, p_high bigint, p_wall bigint
) RETURNS TABLE (epoch bigint, head bigint, chain bytea, moment bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    was outlive.shard;
BEGIN
    SELECT * INTO was FROM outlive.shard s WHERE s.id = p_shard FOR UPDATE;
    IF NOT FOUND OR was.epoch <> p_epoch THEN
        RETURN;
    END IF;
    moment := greatest(was.time, outlive.clock(p_high, p_wall));
    UPDATE outlive.shard s SET owner = p_owner, epoch = s.epoch + 1 WHERE s.id = p_shard;
    INSERT INTO outlive.hold (shard, epoch, owner, head, time, previous, session)
    VALUES (p_shard, p_epoch + 1, p_owner, was.head, moment, was.owner, p_session);
    epoch := p_epoch + 1;
    head := was.head;
    SELECT e.chain INTO chain FROM outlive.event e WHERE e.shard = p_shard AND e.seq = was.head;
    RETURN NEXT;
END
$$;

-- Hand out due cells. Rows that others are about to take are skipped, so nobody waits here.
-- was: the version at which a cell was found.
CREATE FUNCTION outlive.claim_cells(
    p_spaces text[], p_limit integer, p_hold bigint, p_high bigint, p_wall bigint
) RETURNS TABLE (
    at bigint, space text, key text, value bytea, version bigint, due bigint, was bigint
)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    moment bigint := outlive.clock(p_high, p_wall);
    spaces text[];
    keys   text[];
    found  bigint[];
    base   bigint;
BEGIN
    SELECT array_agg(p.space ORDER BY p.due, p.space, p.key),
           array_agg(p.key ORDER BY p.due, p.space, p.key),
           array_agg(p.version ORDER BY p.due, p.space, p.key)
    INTO spaces, keys, found
    FROM (
        SELECT l.space, l.key, l.due, l.version
        FROM (SELECT DISTINCT unnest(p_spaces)) AS s (space),
            LATERAL (
                SELECT c.space, c.key, c.due, c.version FROM outlive.cell c
                WHERE c.space = s.space AND c.due <= moment
                ORDER BY c.due, c.key LIMIT p_limit FOR UPDATE SKIP LOCKED
            ) AS l
        ORDER BY l.due, l.space, l.key LIMIT p_limit
    ) AS p;
    IF spaces IS NULL THEN
        RETURN;
    END IF;
    base := nextval('outlive.version_block') * 65536;
    RETURN QUERY
    UPDATE outlive.cell c SET version = base + t.at - 1, due = moment + p_hold
    FROM unnest(spaces, keys, found) WITH ORDINALITY AS t (space, key, was, at)
    WHERE c.space = t.space AND c.key = t.key
    RETURNING t.at, c.space, c.key, c.value, c.version, c.due, t.was;
END
$$;

-- Cells that go with a caller's own transaction: made in it, seen with its commit, by the code of
-- whatever driver the caller uses. So everything travels in one text, and no shard is touched.
--
-- Make the cells in p_cells, a JSON array of {space, key, value, due, marks}; all are new. When the
-- first is there already, nothing is written and its value is given. Waits for another transaction
-- that is making the same cell.
CREATE FUNCTION outlive.carry(p_cells text, OUT there text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    cells json := p_cells::json;
    base  bigint := nextval('outlive.version_block') * 65536;
    last  bigint;
    made  boolean := false;
BEGIN
    FOR turn IN 1 .. 100 LOOP
        INSERT INTO outlive.cell (space, key, version, due, marks, value)
        SELECT t.space, t.key, base, t.due, t.marks, convert_to(t.value, 'UTF8')
        FROM json_to_record(cells -> 0)
            AS t (space text, key text, value text, due bigint, marks text)
        ON CONFLICT (space, key) DO NOTHING;
        made := FOUND;
        EXIT WHEN made;
        SELECT convert_from(c.value, 'UTF8') INTO there FROM outlive.cell c
        WHERE c.space = cells -> 0 ->> 'space' AND c.key = cells -> 0 ->> 'key';
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;
    IF NOT made THEN
        RAISE EXCEPTION 'a cell came and went all the time' USING ERRCODE = '55P03';
    END IF;

    INSERT INTO outlive.cell (space, key, version, due, marks, value)
    SELECT t.space, t.key, base, t.due, t.marks, convert_to(t.value, 'UTF8')
    FROM json_array_elements(cells) WITH ORDINALITY AS e (cell, at),
        LATERAL json_to_record(e.cell)
            AS t (space text, key text, value text, due bigint, marks text)
    WHERE e.at > 1;

    INSERT INTO outlive.mark (name, value, space, key)
    SELECT p ->> 0, p ->> 1, t.space, t.key
    FROM json_array_elements(cells) AS e (cell),
        LATERAL json_to_record(e.cell) AS t (space text, key text, marks text),
        LATERAL json_array_elements(t.marks::json) AS p
    ON CONFLICT DO NOTHING;

    -- The first may have waited for a drop of the same key; now that it is ours, draw again if
    -- anybody else drew. Each cell gets a version of its own.
    SELECT v.last_value INTO last FROM outlive.version_block v;
    IF last * 65536 <> base THEN
        base := nextval('outlive.version_block') * 65536;
    END IF;
    UPDATE outlive.cell c SET version = base + e.at - 1
    FROM json_array_elements(cells) WITH ORDINALITY AS e (cell, at)
    WHERE c.space = e.cell ->> 'space' AND c.key = e.cell ->> 'key';
END
$$;

-- What the triggers of a frozen store do: refuse, whoever writes and since whenever.
CREATE FUNCTION outlive.refuse_halted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the store is halted' USING ERRCODE = 'OL003';
END
$$;
