-- passkeys has one row for each passkey of a user. The column credential contains the public key and the state of the
-- passkey as JSON, in the format of github.com/go-webauthn/webauthn. The column party contains the relying party ID,
-- which is the domain for which the passkey was created. A credential ID has at most 1023 bytes (WebAuthn Level 3,
-- section 7.1).

-- +goose Up
CREATE TABLE IF NOT EXISTS passkeys (
  id            BINARY(16)      NOT NULL,
  user_id       BINARY(16)      NOT NULL,
  credential_id VARBINARY(1023) NOT NULL,
  credential    VARBINARY(8192) NOT NULL,
  party         VARBINARY(253)  NOT NULL,
  name          VARCHAR(64)     CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  created_at    DATETIME(6)     NOT NULL,
  used_at       DATETIME(6)     NULL,
  PRIMARY KEY (id),
  UNIQUE KEY passkeys_credential_id (credential_id),
  KEY passkeys_user_id (user_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- used_challenges has the challenges of successful ceremonies until the challenges expire, so that nobody can use a
-- response twice.
CREATE TABLE IF NOT EXISTS used_challenges (
  nonce      BINARY(16)  NOT NULL,
  expires_at DATETIME(6) NOT NULL,
  PRIMARY KEY (nonce),
  KEY used_challenges_expires_at (expires_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- recovery_codes has one row for each unused recovery code. Codes have 120 random bits, so a hash without a salt is
-- enough to hide them.
CREATE TABLE IF NOT EXISTS recovery_codes (
  user_id BINARY(16) NOT NULL,
  hash    BINARY(32) NOT NULL,
  PRIMARY KEY (user_id, hash)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- second_factors has the roles whose users need a second factor.
CREATE TABLE IF NOT EXISTS second_factors (
  role VARBINARY(16) NOT NULL,
  PRIMARY KEY (role)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
