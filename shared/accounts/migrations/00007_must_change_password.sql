-- must_change_password is true if another person than the user has chosen or seen the password. The user can then
-- sign in only with a new password, until password_expires_at. The functions of the previous version do not use the
-- columns, so they have defaults.

-- +goose Up
-- The columns are added only if they do not exist, because an interrupted migration must be able to run again. MySQL has
-- no ADD COLUMN IF NOT EXISTS.
SET @make = IF((SELECT COUNT(*) FROM information_schema.columns
  WHERE table_schema = DATABASE() AND table_name = 'users' AND column_name = 'must_change_password') = 0,
  'ALTER TABLE users
    ADD COLUMN must_change_password BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN password_expires_at DATETIME(6) NULL', 'DO 0');
PREPARE make FROM @make;
EXECUTE make;
DEALLOCATE PREPARE make;
