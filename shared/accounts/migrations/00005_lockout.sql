-- attempt_counters has the counters of sign-in attempts (shared/accounts/counter.go). It replaces login_attempts, which
-- stays because functions of the previous version still use it during an upgrade. The subject is a user ID, or a small
-- number that is derived from a keyed hash of the user name, so that the table contains no user names and the number of
-- rows is limited. All times are in microseconds since 1970, in UTC, so that one statement can compute with them.

-- +goose Up
CREATE TABLE IF NOT EXISTS attempt_counters (
  subject       BINARY(16)    NOT NULL,
  client        VARBINARY(64) NOT NULL,
  failures      INT UNSIGNED  NOT NULL,
  pending       INT UNSIGNED  NOT NULL,
  blocked_until BIGINT        NOT NULL,
  touched_at    BIGINT        NOT NULL,
  expires_at    BIGINT        NOT NULL,
  version       INT UNSIGNED  NOT NULL,
  PRIMARY KEY (subject, client),
  KEY attempt_counters_expires_at (expires_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
