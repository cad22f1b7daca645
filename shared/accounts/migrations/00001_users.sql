-- This migration has the same result on MySQL 8.4, MariaDB and TiDB. It sets each collation explicitly. IDs are
-- UUIDv7 values from Go code, and keys that are compared exactly are binary. User names are stored in canonical form
-- (accounts.CanonicalUsername), so that the unique key needs no case folding.

-- +goose Up
CREATE TABLE IF NOT EXISTS users (
  id            BINARY(16)     NOT NULL,
  username      VARCHAR(64)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  password_hash VARBINARY(255) NOT NULL,
  role          VARBINARY(16)  NOT NULL,
  disabled_at   DATETIME(6)    NULL,
  token_version INT UNSIGNED   NOT NULL,
  created_at    DATETIME(6)    NOT NULL,
  updated_at    DATETIME(6)    NOT NULL,
  PRIMARY KEY (id),
  UNIQUE KEY users_username (username)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
