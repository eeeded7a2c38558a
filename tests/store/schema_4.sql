-- A run as the fourth schema wrote it. Never edited: it stands for files that users have.
PRAGMA application_id = 1380076593;
PRAGMA user_version = 4;
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
CREATE TABLE sightings (
    cell TEXT NOT NULL REFERENCES cells (key),
    position INTEGER NOT NULL CHECK (position >= 0),
    condition TEXT NOT NULL,
    kind TEXT NOT NULL,
    predictions TEXT NOT NULL,
    confidences TEXT NOT NULL,
    PRIMARY KEY (cell, position, condition, kind)
) WITHOUT ROWID;
CREATE TABLE views (
    cell TEXT NOT NULL REFERENCES cells (key),
    position INTEGER NOT NULL CHECK (position >= 0),
    kind TEXT NOT NULL,
    distance TEXT NOT NULL,
    yaw TEXT NOT NULL,
    pitch TEXT NOT NULL,
    roll TEXT NOT NULL,
    PRIMARY KEY (cell, position, kind)
) WITHOUT ROWID;
INSERT INTO identity VALUES ('data.seed', '0');
INSERT INTO meta VALUES ('seed', '0');
INSERT INTO cells VALUES (
    '00ff', 0, 'signs-plain', 'none', 'sticker-10', 'sticker-10', 'sticker', 0.1, 'sticker-10', 'targeted', '[0, 1]',
    '[14]', 1, 0, '{"method": "sticker"}', '{"model": "abc"}', '', 'done', NULL, 'white-box', NULL, 'views', 'model',
    0.0
);
INSERT INTO outcomes VALUES (
    '00ff', 0, 'stop/1.png', 14, 14, 1, 1, 1, 0, -1.5, 0, 0.6, 5.0, 60.0, 1, 100, 50, 0.1, 'ok', NULL,
    '0123456789abcdef', '00000000000000ff', NULL, NULL, 0
);
INSERT INTO sightings VALUES ('00ff', 0, 'sticker', 'view', '[1, null]', '[0.75, null]');
INSERT INTO views VALUES ('00ff', 0, 'view', '[16.0, 64.0]', '[-45.0, 0.25]', '[0.0, 20.0]', '[15.0, 0.0]');
INSERT INTO events (time, level, message, cell) VALUES ('2031-01-01T00:00:00+00:00', 'info', 'resumed', NULL);
