-- A session is one sign-in and what was refreshed from it. Of its refresh tokens only those are kept that can still come:
-- the one that was used last, and what was made of it. Tokens are random, so that a plain hash hides them.

-- +goose Up
CREATE TABLE IF NOT EXISTS sessions (
  id            BINARY(16)   NOT NULL,
  user_id       BINARY(16)   NOT NULL,
  token_version INT UNSIGNED NOT NULL,
  created_at    DATETIME(6)  NOT NULL,
  expires_at    DATETIME(6)  NOT NULL,
  PRIMARY KEY (id),
  KEY sessions_expires_at (expires_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS refresh_tokens (
  session_id BINARY(16)  NOT NULL,
  hash       BINARY(32)  NOT NULL,
  used_at    DATETIME(6) NULL,
  PRIMARY KEY (session_id, hash)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
