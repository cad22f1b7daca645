-- login_attempts has one row per user name and address, and one row with an empty address per user name. The table
-- stores a hash of the user name, because users sometimes type a password into the user name field, and because
-- attempts on user names that do not exist are counted, too.

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
