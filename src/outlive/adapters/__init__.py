"""Adapters: places in other libraries that our stores fill, so that their users change one line.

    limits       a storage for `limits`, and so for slowapi and Flask-Limiter
    starlette    in the place of Starlette's `SessionMiddleware`
    django…      a session engine and a cache for Django

Each is a module of its own, imported only by who uses that library.
"""
