-- Cells that go with a caller's own transaction: made in it, seen with its commit, by the code of
-- whatever driver the caller uses. So everything travels in one text, and no shard is touched.

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
