-- Every run of the rotation scheduler, also one that changed nothing.
CREATE TABLE decisions (
    decision_id   INTEGER PRIMARY KEY,
    at            TEXT NOT NULL,
    trigger       TEXT NOT NULL CHECK (trigger IN ('manual', 'timer', 'health')),
    outcome       TEXT NOT NULL,
    decision      TEXT NOT NULL    -- the whole Decision as JSON
) STRICT;
