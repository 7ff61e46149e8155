"""Many rows in few statements: every number of rows arrives, in order, and a refusal is told."""

from __future__ import annotations

import apsw
import pytest

from outlive.stores.inserts import ROWS, Insert


@pytest.fixture
def connection() -> apsw.Connection:
    made = apsw.Connection(":memory:")
    made.execute("CREATE TABLE pair (one INTEGER PRIMARY KEY, two TEXT NOT NULL)")
    return made


INSERT = Insert("INSERT INTO pair (one, two) VALUES (?, ?)")


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 15, 16, 17, 20, 37, 128])
def test_any_number_of_rows_is_inserted_as_given(connection: apsw.Connection, count: int) -> None:
    rows = [(one, f"number {one}") for one in range(count)]
    INSERT.write(connection, [value for row in rows for value in row])
    assert connection.execute("SELECT one, two FROM pair ORDER BY one").fetchall() == rows


def test_what_the_table_refuses_is_raised(connection: apsw.Connection) -> None:
    values = [value for one in (*range(20), 7) for value in (one, "text")]
    with pytest.raises(apsw.ConstraintError):
        INSERT.write(connection, values)


def test_few_statements_are_executed(connection: apsw.Connection) -> None:
    asked: list[str] = []
    connection.exec_trace = lambda _cursor, statement, _values: asked.append(statement) or True
    INSERT.write(connection, [value for one in range(37) for value in (one, "text")])
    assert [statement.count("(?, ?)") for statement in asked] == [16, 16, 4, 1]
    assert ROWS[-1] == 1
