-- A run as the third schema wrote it. Never edited: it stands for files that users have.
PRAGMA application_id = 1380076593;
PRAGMA user_version = 3;
CREATE TABLE identity (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE cells (
    key TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    model TEXT NOT NULL,
    defense TEXT NOT NULL,
    attack TEXT NOT NULL,
    card TEXT NOT NULL,
    norm TEXT NOT NULL,
    eps REAL NOT NULL,
    threat TEXT NOT NULL,
    goal TEXT NOT NULL,
    targets TEXT NOT NULL,
    sources TEXT NOT NULL,
    images INTEGER NOT NULL,
    excluded INTEGER NOT NULL,
    parameters TEXT NOT NULL,
    identity TEXT NOT NULL,
    note TEXT NOT NULL,
    status TEXT NOT NULL,
    error TEXT,
    knowledge TEXT NOT NULL DEFAULT 'white-box',
    surrogate TEXT,
    measure TEXT NOT NULL DEFAULT 'ball',
    concerns TEXT NOT NULL DEFAULT 'model',
    alpha REAL NOT NULL DEFAULT 0
);
CREATE TABLE outcomes (
    cell TEXT NOT NULL REFERENCES cells (key),
    position INTEGER NOT NULL CHECK (position >= 0),
    image TEXT NOT NULL,
    label INTEGER NOT NULL,
    clean_prediction INTEGER,
    adversarial_prediction INTEGER,
    clean_correct INTEGER NOT NULL,
    broken INTEGER NOT NULL,
    moved_elsewhere INTEGER NOT NULL,
    margin REAL,
    fragile INTEGER NOT NULL,
    linf REAL,
    l2 REAL,
    l1 REAL,
    broken_8bit INTEGER,
    forward_passes INTEGER NOT NULL,
    backward_passes INTEGER NOT NULL,
    seconds REAL NOT NULL,
    status TEXT NOT NULL,
    error TEXT,
    original_hash TEXT NOT NULL,
    adversarial_hash TEXT NOT NULL,
    certified INTEGER,
    radius REAL,
    abstained INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (cell, position)
) WITHOUT ROWID;
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    cell TEXT
);
INSERT INTO identity VALUES ('data.seed', '0');
INSERT INTO meta VALUES ('seed', '0');
INSERT INTO cells VALUES (
    '00ff', 0, 'signs-gaussian', 'none', 'certify-smoothing-l2-0.5', 'certify-smoothing-l2-0.5', 'L2', 0.5, 'l2-0.5',
    'untargeted', '[]', '[]', 1, 0, '{"n": 1000}', '{"model": "abc"}', '', 'done', NULL, 'white-box', NULL,
    'certificate', 'smoothed', 0.001
);
INSERT INTO outcomes VALUES (
    '00ff', 0, 'stop/1.png', 14, 14, 14, 1, 0, 0, NULL, 0, 0.0, 0.0, 0.0, NULL, 100, 0, 0.1, 'ok', NULL,
    '0123456789abcdef', '0123456789abcdef', 1, 0.5, 0
);
INSERT INTO events (time, level, message, cell) VALUES ('2031-01-01T00:00:00+00:00', 'info', 'resumed', NULL);
