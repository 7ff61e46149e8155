-- The ledger of ownership also says which session wrote for the owner: the name that the server
-- shows for it, new with each start of a process. Who takes a shard over from a node that froze in
-- a transaction can then end that session, and no other, instead of waiting for it.

ALTER TABLE outlive.hold ADD COLUMN session text NOT NULL DEFAULT '';

DROP FUNCTION outlive.take_shard(integer, bigint, text, bigint, bigint);

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
