-- This migration adds the columns that describe the sign-in and the last use of a session, and an index that finds the
-- sessions of a user. A session that was started by an earlier version has the defaults. The statement runs only if the
-- columns do not exist, because an interrupted migration must be able to run again.

-- +goose Up
SET @make = IF((SELECT COUNT(*) FROM information_schema.columns
  WHERE table_schema = DATABASE() AND table_name = 'sessions' AND column_name = 'last_used_at') = 0,
  'ALTER TABLE sessions
    ADD COLUMN method VARBINARY(16) NOT NULL DEFAULT ''pwd'',
    ADD COLUMN address VARBINARY(45) NOT NULL DEFAULT '''',
    ADD COLUMN device VARBINARY(64) NOT NULL DEFAULT '''',
    ADD COLUMN last_used_at DATETIME(6) NULL,
    ADD KEY sessions_user_id (user_id)', 'DO 0');
PREPARE make FROM @make;
EXECUTE make;
DEALLOCATE PREPARE make;
