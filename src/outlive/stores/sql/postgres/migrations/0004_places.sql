-- A commit looks its shards' rows up once, and finds them by their place (ctid) after that. Every
-- look-up by key walks the dead versions of a row, and a forgotten transaction elsewhere keeps them
-- all. A row that we have locked stays at its place until we change it. Otherwise commit_group is
-- as it was; what it promises stands in 0001.

CREATE OR REPLACE FUNCTION outlive.commit_group(
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
            DELETE FROM outlive.mark m
            USING unnest(cell_space, cell_key, cell_action, marks_of, cell_marks)
                AS t (space, key, action, old, new),
                LATERAL jsonb_array_elements(t.old::jsonb) AS p
            WHERE t.action <> 0 AND t.old <> t.new AND t.old <> '[]'
                AND NOT EXISTS (
                    SELECT FROM jsonb_array_elements(t.new::jsonb) AS q WHERE q.value = p.value
                )
                AND m.name = p ->> 0 AND m.value = p ->> 1
                AND m.space = t.space AND m.key = t.key;
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
