-- client_request_id is the client's own ID for the request, which a client can choose freely. request_id is the ID that
-- Strongroom has generated. Rows of the previous version have the client's ID in request_id, if the client sent one.
-- detail is the method of a sign-in, or the reason for which a session has ended. The indexes are for the filters of the
-- audit trail. Each of them also contains the primary key, so the entries of a user or an action are in order.

-- +goose Up
SET @add = IF((SELECT COUNT(*) FROM information_schema.columns
  WHERE table_schema = DATABASE() AND table_name = 'audit' AND column_name = 'client_request_id') = 0,
  'ALTER TABLE audit
    ADD COLUMN client_request_id VARBINARY(128) NOT NULL DEFAULT '''',
    ADD COLUMN detail VARBINARY(16) NOT NULL DEFAULT '''',
    ADD KEY audit_username (username),
    ADD KEY audit_action (action)', 'DO 0');
PREPARE add_column FROM @add;
EXECUTE add_column;
DEALLOCATE PREPARE add_column;
