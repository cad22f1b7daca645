-- One row per (user name, address) and one per user name, with the empty address. The name is hashed: people type
-- passwords into the user name field, and names of users that do not exist are counted, too.

-- +goose Up
CREATE TABLE IF NOT EXISTS login_attempts (
  subject       BINARY(32)    NOT NULL,
  address       VARBINARY(45) NOT NULL,
  failures      INT UNSIGNED  NOT NULL,
  pending       INT UNSIGNED  NOT NULL,
  blocked_until DATETIME(6)   NULL,
  touched_at    DATETIME(6)   NOT NULL,
  PRIMARY KEY (subject, address),
  KEY login_attempts_touched_at (touched_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
