-- The table of a simulated service: what it writes in the transaction of a process.

-- name: make
CREATE TABLE IF NOT EXISTS simulated_notes (name TEXT NOT NULL, said TEXT NOT NULL);

-- name: write
INSERT INTO simulated_notes VALUES (?, ?);

-- name: read
SELECT name, said FROM simulated_notes ORDER BY name;
