"""Every error a caller can catch.

    OutliveError
    ├── Refused                 the store said no; nothing was written
    │   ├── Conflict            a required cell was at another version
    │   ├── Fenced              the shard has another owner or epoch by now
    │   ├── StreamConflict      the stream is not as long as the append expected
    │   ├── TooLarge            a named limit was passed
    │   └── NotAllowed · TransactTooLong      what a function given to `run.transact` may not do
    ├── OutcomeUnknown          a commit was sent and its answer lost; look before you repeat
    ├── StoreUnavailable        not now: the same call may go through later
    │   ├── StoreFull           no space left; nothing was written
    │   ├── StoreBusy           another process holds the write lock for too long
    │   └── NoSession           a pooler stands where a connection of our own is needed
    ├── StoreRefused            the store may not be opened as it is
    │   ├── EngineTooOld · NetworkFileSystem · ReadOnlyStore · NewerSchema · SchemaAltered
    │   ├── SecondCopy · StoreCorrupt · BadAddress
    │   ├── StoreMoved · StoreIncomplete · StoreNotEmpty · StoreInUse · SchemaBehind
    │   └── ArchiveDamaged · BadPlace · StoreWentBack · KeysMissing
    ├── ProcessError            about one process, or the wish to start one
    │   ├── NoSuchProcess · ProcessGone · ProcessTerminal · PastPivot · NotStuck
    │   ├── SignalNotExpected · TooManySignals
    │   ├── NotPausable · NotPaused · NothingToSkip · UnfitValue · RollingBack
    │   ├── NoSuchStep · NotForkable · TooLargeToFork · PreviewExpired
    │   ├── InvalidInput · MalformedInput · MalformedKey · KeyReused
    │   ├── UpdateNotExpected · UpdateRefused · UpdateUnanswered · NoSuchUpdate
    │   ├── NoSuchCallback · CallbackExpired · CallbackUsed
    │   ├── NoSuchQuery · QueryTooSlow
    │   ├── NotifyRefused · NothingToNotify
    │   ├── TagNotDeclared · TagInvalid
    │   ├── ProcessFailed       it ended without a result
    │   ├── NoSuchEra · AlreadyThere · BadJournal · NothingToExport
    │   └── Draining · Overloaded · QuotaExceeded
    ├── SessionError            about the session of one visitor
    │   └── SessionExpired · SessionChanged · SessionTooLarge · SessionReadOnly
    ├── RequestError            about one request with an idempotency key
    │   ├── KeyMissing · RequestRunning · RequestUnknown · NotReplayable
    │   └── ClaimLost · NoSuchRequest · NotResolvable
    ├── DependencyError         about a call to something else
    │   └── BreakerOpen · BulkheadFull · AttemptTooLong · DeadlinePassed
    ├── RateLimited             a rate limit refused; nothing was used
    │   └── NoSlot              as many as may be are at it already
    ├── LoadTooLong · NotCacheable      about a cache
    ├── NoSuchState             nothing is kept under the name that an operator gave
    ├── InEventLoop             the synchronous face was called where it may not wait
    └── seen inside a process body
        ├── StepFailed          a step gave up, with the recorded failure
        ├── WaitTimeout         no signal came within the time given
        ├── NonRetryable        raise it in a step: a business refusal, not to be tried again
        ├── Drift               the code no longer matches what was recorded
        ├── DeadlineExceeded    why a process was rolled back: it had not ended in time
        ├── EraNotOver          `run.again` was called where an era cannot end
        ├── ChildFailed         a child ended without a result, with how it did
        └── TooManyChildren     they have not ended, so the next one was not started
    Cancelled (BaseException)   the process was cancelled; let it pass
    Discarded (BaseException)   this activation no longer owns its process; let it pass

Each carries a stable `code`, an HTTP `status`, whether a retry is safe (`retryable`), and a
`remedy`. The first line of a docstring is the title shown to people; `outlive explain CODE` prints
the rest.
"""

from __future__ import annotations

from outlive.errors.bodies import (
    Cancelled,
    ChildFailed,
    DeadlineExceeded,
    Discarded,
    Drift,
    EraNotOver,
    NonRetryable,
    StepFailed,
    TooManyChildren,
    WaitTimeout,
)
from outlive.errors.caches import LoadTooLong, NotCacheable
from outlive.errors.dependencies import (
    AttemptTooLong,
    BreakerOpen,
    BulkheadFull,
    DeadlinePassed,
    DependencyError,
)
from outlive.errors.processes import (
    AlreadyThere,
    BadJournal,
    CallbackExpired,
    CallbackUsed,
    Draining,
    InvalidInput,
    KeyReused,
    MalformedInput,
    MalformedKey,
    NoSuchCallback,
    NoSuchEra,
    NoSuchProcess,
    NoSuchQuery,
    NoSuchStep,
    NoSuchUpdate,
    NotForkable,
    NothingToExport,
    NothingToNotify,
    NothingToSkip,
    NotifyRefused,
    NotPausable,
    NotPaused,
    NotStuck,
    Overloaded,
    PastPivot,
    PreviewExpired,
    ProcessError,
    ProcessFailed,
    ProcessGone,
    ProcessTerminal,
    QueryTooSlow,
    QuotaExceeded,
    RollingBack,
    SignalNotExpected,
    TagInvalid,
    TagNotDeclared,
    TooLargeToFork,
    TooManySignals,
    UnfitValue,
    UpdateNotExpected,
    UpdateRefused,
    UpdateUnanswered,
)
from outlive.errors.ratelimits import NoSlot, RateLimited
from outlive.errors.requests import (
    ClaimLost,
    KeyMissing,
    NoSuchRequest,
    NotReplayable,
    NotResolvable,
    RequestError,
    RequestRunning,
    RequestUnknown,
)
from outlive.errors.root import (
    InEventLoop,
    NoSuchState,
    OutliveError,
    catalogue,
)
from outlive.errors.sessions import (
    SessionChanged,
    SessionError,
    SessionExpired,
    SessionReadOnly,
    SessionTooLarge,
)
from outlive.errors.store import (
    ArchiveDamaged,
    BadAddress,
    BadPlace,
    Conflict,
    EngineTooOld,
    Fenced,
    KeysMissing,
    NetworkFileSystem,
    NewerSchema,
    NoSession,
    NotAllowed,
    OutcomeUnknown,
    ReadOnlyStore,
    Refused,
    SchemaAltered,
    SchemaBehind,
    SecondCopy,
    StoreBusy,
    StoreCorrupt,
    StoreFull,
    StoreIncomplete,
    StoreInUse,
    StoreMoved,
    StoreNotEmpty,
    StoreRefused,
    StoreUnavailable,
    StoreWentBack,
    StreamConflict,
    TooLarge,
    TransactTooLong,
)

__all__ = [
    "AlreadyThere",
    "ArchiveDamaged",
    "AttemptTooLong",
    "BadAddress",
    "BadPlace",
    "BreakerOpen",
    "BulkheadFull",
    "CallbackExpired",
    "CallbackUsed",
    "BadJournal",
    "Cancelled",
    "ChildFailed",
    "Conflict",
    "DeadlineExceeded",
    "DeadlinePassed",
    "DependencyError",
    "Discarded",
    "Draining",
    "Drift",
    "EngineTooOld",
    "EraNotOver",
    "Fenced",
    "InEventLoop",
    "InvalidInput",
    "KeyReused",
    "KeysMissing",
    "LoadTooLong",
    "MalformedInput",
    "MalformedKey",
    "NetworkFileSystem",
    "NewerSchema",
    "NoSession",
    "NoSlot",
    "NoSuchCallback",
    "NoSuchEra",
    "NoSuchProcess",
    "NoSuchQuery",
    "NoSuchUpdate",
    "NonRetryable",
    "NotAllowed",
    "NotCacheable",
    "NotStuck",
    "NothingToNotify",
    "NotifyRefused",
    "NothingToExport",
    "OutcomeUnknown",
    "OutliveError",
    "Overloaded",
    "PastPivot",
    "ProcessError",
    "ProcessFailed",
    "ProcessGone",
    "ProcessTerminal",
    "QueryTooSlow",
    "QuotaExceeded",
    "RateLimited",
    "ReadOnlyStore",
    "Refused",
    "SchemaAltered",
    "SchemaBehind",
    "SecondCopy",
    "SignalNotExpected",
    "StepFailed",
    "StoreBusy",
    "StoreCorrupt",
    "StoreFull",
    "StoreInUse",
    "StoreIncomplete",
    "StoreMoved",
    "StoreNotEmpty",
    "StoreRefused",
    "StoreUnavailable",
    "StoreWentBack",
    "StreamConflict",
    "TagInvalid",
    "TagNotDeclared",
    "TooLarge",
    "TooManyChildren",
    "TooManySignals",
    "TransactTooLong",
    "UpdateNotExpected",
    "UpdateRefused",
    "UpdateUnanswered",
    "WaitTimeout",
    "catalogue",
    "ClaimLost",
    "KeyMissing",
    "NoSuchRequest",
    "NoSuchState",
    "NotReplayable",
    "NotResolvable",
    "RequestError",
    "RequestRunning",
    "RequestUnknown",
    "SessionChanged",
    "SessionError",
    "SessionExpired",
    "SessionReadOnly",
    "SessionTooLarge",
    "NoSuchStep",
    "NotForkable",
    "NothingToSkip",
    "NotPausable",
    "NotPaused",
    "PreviewExpired",
    "RollingBack",
    "TooLargeToFork",
    "UnfitValue",
]
