-- The first schema. A later change is a new file; this one stays as it is.

CREATE TABLE configs (
    config_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name      TEXT NOT NULL,
    protocol  TEXT NOT NULL,
    address   TEXT NOT NULL,
    port      INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    network   TEXT NOT NULL,
    security  TEXT NOT NULL,
    node      TEXT NOT NULL,                                        -- the whole Config as JSON, credentials included
    identity  TEXT NOT NULL UNIQUE,                                 -- equal for every spelling of the same node
    disabled  TEXT CHECK (disabled IN ('user', 'gone')),            -- null: enabled; gone: no subscription has it any more
    added_at  TEXT NOT NULL
) STRICT;
CREATE INDEX configs_by_name ON configs (name);

CREATE TABLE subscriptions (
    subscription_id INTEGER PRIMARY KEY AUTOINCREMENT,
    url             TEXT NOT NULL UNIQUE,                           -- a credential: shown by host only
    added_at        TEXT NOT NULL,
    updated_at      TEXT,                                           -- the last update that succeeded
    last_error      TEXT                                            -- of the last update, if it failed
) STRICT;

CREATE TABLE subscription_configs (
    subscription_id INTEGER NOT NULL REFERENCES subscriptions ON DELETE CASCADE,
    config_id       INTEGER NOT NULL REFERENCES configs ON DELETE CASCADE,
    PRIMARY KEY (subscription_id, config_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX subscription_configs_by_config ON subscription_configs (config_id);

CREATE TABLE config_tests (
    test_id   INTEGER PRIMARY KEY,
    config_id INTEGER NOT NULL REFERENCES configs ON DELETE CASCADE,
    at        TEXT NOT NULL,
    delay_ms  INTEGER,
    failure   TEXT,
    CHECK ((delay_ms IS NULL) <> (failure IS NULL))
) STRICT;
CREATE INDEX config_tests_by_config ON config_tests (config_id, test_id);

-- One run of an engine for one config. The config may be gone, therefore its name and endpoint are copied.
CREATE TABLE runtime_sessions (
    session_id        INTEGER PRIMARY KEY AUTOINCREMENT,
    config_id         INTEGER NOT NULL,
    name              TEXT NOT NULL,
    protocol          TEXT NOT NULL,
    address           TEXT NOT NULL,
    port              INTEGER NOT NULL,
    owner_kind        TEXT NOT NULL CHECK (owner_kind IN ('daemon')),
    owner_instance_id TEXT NOT NULL,
    engine            TEXT NOT NULL,
    engine_version    TEXT NOT NULL,
    engine_path       TEXT NOT NULL,
    pid               INTEGER,                                      -- null until the engine was started
    pid_start_ticks   INTEGER,                                      -- field 22 of /proc/<pid>/stat
    boot_id           TEXT NOT NULL,
    machine_id        TEXT NOT NULL,
    socks_host        TEXT NOT NULL,
    socks_port        INTEGER NOT NULL,
    http_host         TEXT,
    http_port         INTEGER,
    status            TEXT NOT NULL CHECK (status IN ('starting', 'running', 'stopping', 'stopped', 'failed')),
    begin_reason      TEXT NOT NULL,
    stop_reason       TEXT,                                         -- why it was ended on purpose
    failure_reason    TEXT,                                         -- what was wrong when it was not
    failure_detail    TEXT,
    started_at        TEXT NOT NULL,
    stopped_at        TEXT
) STRICT;
CREATE UNIQUE INDEX one_running_session ON runtime_sessions (machine_id) WHERE status = 'running';
CREATE INDEX open_sessions ON runtime_sessions (status) WHERE status IN ('starting', 'running', 'stopping');

-- What outlives the daemon and is not a row of its own: `wanted` is the config the user asked for last.
CREATE TABLE daemon_state (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What an engine's binary said of itself, as long as it is the same file.
CREATE TABLE engines (
    path    TEXT PRIMARY KEY,
    size    INTEGER NOT NULL,
    mtime   TEXT NOT NULL,
    output  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
