"""What a store says when it does not do what was asked, or may not be opened."""

from __future__ import annotations

from outlive.errors.root import OutliveError


class Refused(OutliveError):
    """The store refused a batch.

    Nothing of the batch was written."""

    code, slug, status = "OL1000", "refused", 409
    remedy = "Read the current state and decide again."


class Conflict(Refused):
    """A cell was not at the required version.

    Another writer changed the cell between your read and your commit. Nothing of the batch was
    written."""

    code, slug, retryable = "OL1001", "conflict", True
    remedy = "Read the cell again, decide again, commit again."


class Fenced(Refused):
    """The shard belongs to another owner by now.

    This node was the owner of the shard and is not any more: it was paused, cut off, or it handed
    the shard over. Nothing of the batch was written; whoever owns the shard goes on from the last
    committed event."""

    code, slug, status, retryable = "OL1002", "fenced", 503, True
    remedy = "Nothing to mend: throw the activation away; the new owner continues the work."


class StreamConflict(Refused):
    """The stream is not as long as the append expected.

    Two writers appended to one stream under one lease, or an event was built from an old view.
    Nothing was written."""

    code, slug = "OL1003", "stream-conflict"
    remedy = "Reload the stream and decide again."


class TooLarge(Refused):
    """A value is larger than its limit.

    Nothing was written."""

    code, slug, status = "OL1004", "too-large", 413
    remedy = "Send less, or keep the bytes elsewhere and pass a reference."


class NotAllowed(Refused):
    """This is not allowed inside a transaction that outlive shares.

    A statement would end the transaction, reach outside the file, or touch outlive's own tables; or
    a connection was given that cannot carry what is asked. Nothing was written."""

    code, slug, status = "OL1005", "statement-not-allowed", 500
    remedy = (
        "Use plain statements on your own tables, on a connection to the store's own database; a "
        "transaction of outlive's is ended for you."
    )


class TransactTooLong(Refused):
    """A function given to run.transact ran past its time limit.

    Its statements were interrupted and rolled back; nothing was written."""

    code, slug, status = "OL1006", "transact-too-long", 500
    remedy = "Do less in one transaction, or raise `limit_seconds`."


class OutcomeUnknown(OutliveError):
    """A commit was sent and its answer was lost.

    The batch is in the store whole, or not at all; which of them could not be found out yet. It is
    never reported as a plain failure, because repeating it could do the work twice."""

    code, slug, status = "OL1010", "outcome-unknown", 500
    remedy = "Look the result up (by its id or idempotency key) before you repeat the call."


class StoreUnavailable(OutliveError):
    """The store cannot be used right now.

    Nothing was written by this call."""

    code, slug, status, retryable = "OL1020", "store-unavailable", 503, True
    remedy = "Try again after a moment; if it lasts, run `outlive doctor`."


class StoreFull(StoreUnavailable):
    """The disk under the store is full.

    Nothing of the batch was written and everything committed before is intact. Work goes on by
    itself as soon as there is space."""

    code, slug, status = "OL1021", "store-full", 507
    remedy = "Free space on the volume that holds the store."


class StoreBusy(StoreUnavailable):
    """Another process holds the store's write lock for too long.

    Nothing was written."""

    code, slug = "OL1022", "store-busy"
    remedy = "Find the process that holds a write transaction open (a shell, a backup) and end it."


class NoSession(StoreUnavailable):
    """A pooler answers where the PostgreSQL server itself was expected.

    Signs of life and hints of other nodes need a connection that is nobody else's. Without them
    everything works, and a dead node is noticed when its lease ends."""

    code, slug = "OL1023", "no-session"
    remedy = "Name the server beside the pooler in the address: `?direct=host:port`."


class StoreRefused(OutliveError):
    """The store may not be opened as it is.

    It was not touched."""

    code, slug = "OL1100", "store-refused"
    remedy = "See the message; `outlive doctor` lists what start-up checks."


class EngineTooOld(StoreRefused):
    """The SQLite engine in this process is too old to be safe.

    Releases 3.7.0 to 3.51.2 can corrupt a database in WAL mode when a checkpoint races a commit
    that restarts the log.
    """

    code, slug = "OL1101", "engine-too-old"
    remedy = "Install apsw 3.51.3 or newer (`pip install -U apsw`); it brings its own SQLite."


class NetworkFileSystem(StoreRefused):
    """The store lies on a network file system.

    SQLite's WAL needs shared memory and working locks; neither is to be had over NFS, SMB or FUSE
    mounts of them."""

    code, slug = "OL1102", "network-file-system"
    remedy = "Put the store on a local disk, or use PostgreSQL."


class ReadOnlyStore(StoreRefused):
    """The store cannot be written.

    The file, its folder or its volume is read-only for this user."""

    code, slug = "OL1103", "read-only-store"
    remedy = "Give this user write access to the file and to the folder it lies in."


class NewerSchema(StoreRefused):
    """The store was written by a newer release.

    This release does not know its schema and would damage it."""

    code, slug = "OL1104", "newer-schema"
    remedy = "Run the newer release, or restore a backup made with this one."


class SchemaAltered(StoreRefused):
    """A migration that was applied to the store is not the one this release ships.

    Its checksum differs: the store or the package was edited by hand."""

    code, slug = "OL1105", "schema-altered"
    remedy = "Reinstall the package; if the store was edited, restore a backup."


class SecondCopy(StoreRefused):
    """Another copy of SQLite in this process holds the file open.

    Two copies in one process break each other's POSIX locks: closing one drops the locks of the
    other, and the file can be corrupted."""

    code, slug = "OL1106", "second-copy"
    remedy = (
        "Close the other connection (sqlite3, SQLAlchemy …) first, and reach your tables by "
        "`run.transact`."
    )


class StoreCorrupt(StoreRefused):
    """The store's file is damaged or is not a store.

    Nothing was written to it."""

    code, slug = "OL1107", "store-corrupt"
    remedy = (
        "Keep the file, restore the last backup, and check the disk; `outlive doctor` names "
        "what is broken."
    )


class BadAddress(StoreRefused):
    """The address of the store is not understood.

    Nothing was opened."""

    code, slug = "OL1108", "bad-address"
    remedy = (
        "Use sqlite:///relative/path.db, sqlite:////absolute/path.db, memory:// or "
        "postgresql://user:password@host/database."
    )


class StoreMoved(StoreRefused):
    """The store was moved, or is being moved, to another place.

    It is kept as it was and takes no more writes, also from processes that had it open: two stores
    that both go on would do everything twice."""

    code, slug = "OL1109", "store-moved"
    remedy = (
        "Point the service to the new address; a move that did not end goes on with "
        "`outlive db move FROM TO`, or is given up with `--give-up`."
    )


class StoreIncomplete(StoreRefused):
    """The store is being filled by a restore or a move that has not ended.

    What is in it is not all there is; it was not opened."""

    code, slug = "OL1110", "store-incomplete"
    remedy = "Run the same `outlive db restore` or `outlive db move` again: it goes on."


class StoreNotEmpty(StoreRefused):
    """The place where a store was to be restored or moved to is not empty.

    Nothing was written to it."""

    code, slug = "OL1111", "store-not-empty"
    remedy = "Name a file that does not exist, or another schema (`?schema=…`)."


class StoreInUse(StoreRefused):
    """A node serves the store that was to be moved.

    Nothing was changed."""

    code, slug = "OL1112", "store-in-use"
    remedy = "End the service everywhere (SIGTERM drains it), then run the command again."


class SchemaBehind(StoreRefused):
    """The store's schema lacks migrations of this release, and nobody applied them.

    It was not touched."""

    code, slug = "OL1113", "schema-behind"
    remedy = (
        "Run `outlive db migrate ADDRESS` as the role that owns the schema (with `--grant ROLE` "
        "for the role of the service)."
    )


class ArchiveDamaged(StoreRefused):
    """A backup is cut off, was altered, or is no backup of outlive's.

    Nothing was written to the store."""

    code, slug = "OL1114", "archive-damaged"
    remedy = "Use another backup; `outlive db backup` verifies what it writes."


class StoreWentBack(StoreRefused):
    """Commits that were acknowledged are missing in the store: it went back in time.

    A standby that lagged was promoted, or an old backup was put in the place of the database. What
    this process was told is durable is not there any more, and others may have been told too. It
    has put down everything that it had in memory and does nothing more on this store; nothing was
    written by this call."""

    code, slug, status = "OL1115", "store-went-back", 503
    remedy = (
        "Find out what was lost (the log names the shards; compare with the outside), then restart "
        "the service: it goes on from what is there. A synchronous standby prevents it."
    )


class KeysMissing(StoreRefused):
    """The store holds payloads that are sealed with a key that is not given here.

    It was not touched."""

    code, slug = "OL1116", "keys-missing"
    remedy = (
        "Give the application all keys that the store was written with: "
        "`Outlive(…, encryption=Keys(…))`."
    )


class BadPlace(StoreRefused):
    """A file or folder that was named for a backup or an archive cannot be used so.

    Nothing was written there, and nothing that was there was changed."""

    code, slug = "OL1117", "bad-place"
    remedy = "Name another file or folder, or change what stands in the way there."
