-- A session starts with a sign-in and continues with each refresh. refresh_tokens has only the tokens that a client
-- can still use: the token that was used last, and the tokens that were issued for it. Tokens are random, so a hash
-- without a salt is enough to hide them.

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
