-- One row for each change of an account, written in the transaction that makes it, never changed and never deleted:
-- names and ids are copied, because users go. An actor without an id is no user but a program, such as setup.

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

-- Whoever takes an admin away locks all admins, and should lock nobody else. There is no CREATE INDEX IF NOT EXISTS in
-- MySQL, and a migration that broke off must be able to run again.
SET @make = IF((SELECT COUNT(*) FROM information_schema.statistics
  WHERE table_schema = DATABASE() AND table_name = 'users' AND index_name = 'users_role') = 0,
  'CREATE INDEX users_role ON users (role, disabled_at)', 'DO 0');
PREPARE make FROM @make;
EXECUTE make;
DEALLOCATE PREPARE make;
