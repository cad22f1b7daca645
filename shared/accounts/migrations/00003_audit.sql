-- audit has one row for each change of an account. The transaction of the change inserts the row, which is never
-- changed or deleted. The row contains copies of the user names and IDs, because users can be deleted. An actor
-- without an ID is a program, such as setup.

-- +goose Up
CREATE TABLE IF NOT EXISTS audit (
  id         BINARY(16)     NOT NULL,
  made_at    DATETIME(6)    NOT NULL,
  action     VARBINARY(32)  NOT NULL,
  actor_id   BINARY(16)     NULL,
  actor_name VARCHAR(64)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  user_id    BINARY(16)     NOT NULL,
  username   VARCHAR(64)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  role       VARBINARY(16)  NULL,
  address    VARBINARY(45)  NOT NULL,
  request_id VARBINARY(128) NOT NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- A change by an admin locks the rows of all enabled admins. This index keeps the change from locking other users.
-- The index is created only if it does not exist, because an interrupted migration must be able to run again. MySQL
-- has no CREATE INDEX IF NOT EXISTS.
SET @make = IF((SELECT COUNT(*) FROM information_schema.statistics
  WHERE table_schema = DATABASE() AND table_name = 'users' AND index_name = 'users_role') = 0,
  'CREATE INDEX users_role ON users (role, disabled_at)', 'DO 0');
PREPARE make FROM @make;
EXECUTE make;
DEALLOCATE PREPARE make;
