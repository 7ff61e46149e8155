-- Why the store may not be served: it is being filled by a restore or a move, is being moved, or
-- was moved. No row: it may be.
CREATE TABLE outlive.halt (
    id     integer PRIMARY KEY CHECK (id = 1),
    reason text    NOT NULL CHECK (reason IN ('filling', 'filled', 'moving', 'moved')),
    other  text    NOT NULL,
    token  text    NOT NULL,
    time   bigint  NOT NULL
);

-- What the triggers of a frozen store do: refuse, whoever writes and since whenever.
CREATE FUNCTION outlive.refuse_halted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the store is halted' USING ERRCODE = 'OL003';
END
$$;
