-- Before PostgreSQL 18 the settings that hold the planner to look-ups by key (enable_seqscan = off
-- and the like) make every plan look so dear that it is compiled to machine code, again with each
-- call. That takes longer than the call.

ALTER FUNCTION outlive.commit_group SET jit = off;
ALTER FUNCTION outlive.claim_cells SET jit = off;
