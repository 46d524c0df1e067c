"""The ledger's table and functions in PostgreSQL: one function for each operation, one round trip each.

The functions' names end in the schema's number. A newer Preheat brings its own beside them, so both run while
one replaces the other; a Preheat whose functions are missing says so.
"""

from __future__ import annotations

SCHEMA = 1
FUNCTIONS = tuple(
    f"preheat_{name}_{SCHEMA}"
    for name in ("claim", "heartbeat", "commit", "release", "read", "cancel", "remove", "pending", "purge")
)

# A lease of -infinity was given up, or its record is done.
TABLE = """
CREATE TABLE IF NOT EXISTS preheat_records (
    key text PRIMARY KEY,
    fingerprint text NOT NULL,
    fence text NOT NULL,
    attempt integer NOT NULL,
    lease timestamptz NOT NULL,
    expires timestamptz NOT NULL,
    outcome bytea,
    request bytea NOT NULL
);
-- Bytes that are compressed already cost time to compress again.
ALTER TABLE preheat_records ALTER outcome SET STORAGE EXTERNAL, ALTER request SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS preheat_records_expires ON preheat_records (expires);
CREATE INDEX IF NOT EXISTS preheat_records_pending ON preheat_records (lease)
    WHERE outcome IS NULL AND request <> '';
"""

_BODIES = """
CREATE OR REPLACE FUNCTION preheat_claim_N(
    k text, f text, n text, lease_s float8, keep_s float8, q bytea,
    OUT kind text, OUT attempt_is int, OUT left_s float8, OUT body bytea
) LANGUAGE plpgsql AS $$
DECLARE r preheat_records; t timestamptz;
BEGIN
  LOOP
    t := clock_timestamp();
    INSERT INTO preheat_records VALUES (
      k, f, n, 1, t + make_interval(secs => lease_s), t + make_interval(secs => keep_s), NULL, q
    ) ON CONFLICT (key) DO NOTHING;
    IF FOUND THEN
      kind := 'claimed'; attempt_is := 1; body := q;
      RETURN;
    END IF;
    SELECT * INTO r FROM preheat_records WHERE key = k FOR UPDATE;
    EXIT WHEN FOUND;  -- else it was removed meanwhile
  END LOOP;
  t := clock_timestamp();  -- the lock may have taken a while
  IF r.expires <= t AND r.lease <= t THEN
    r.attempt := 0;
    r.request := q;
  ELSIF r.fingerprint <> f THEN
    kind := 'mismatch';
    RETURN;
  ELSIF r.outcome IS NOT NULL THEN
    kind := 'replay'; body := r.outcome;
    RETURN;
  ELSIF r.fence <> n AND r.lease > t THEN
    kind := 'running'; left_s := extract(epoch FROM r.lease - t);
    RETURN;
  END IF;
  kind := 'claimed'; body := r.request;
  attempt_is := CASE WHEN r.fence = n AND r.attempt > 0 THEN r.attempt ELSE r.attempt + 1 END;
  UPDATE preheat_records SET fingerprint = f, fence = n, attempt = attempt_is, outcome = NULL, request = body,
    lease = t + make_interval(secs => lease_s), expires = t + make_interval(secs => keep_s) WHERE key = k;
END $$;

CREATE OR REPLACE FUNCTION preheat_heartbeat_N(k text, n text, lease_s float8) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE preheat_records SET lease = clock_timestamp() + make_interval(secs => lease_s)
    WHERE key = k AND fence = n AND outcome IS NULL AND lease > '-infinity';
  RETURN FOUND;
END $$;

-- ours: whether the outcome that stands is the caller's, which then need not come back.
CREATE OR REPLACE FUNCTION preheat_commit_N(
    k text, n text, o bytea, keep_s float8, OUT ours boolean, OUT stands bytea
) LANGUAGE plpgsql AS $$
BEGIN
  UPDATE preheat_records SET outcome = o, lease = '-infinity',
    expires = clock_timestamp() + make_interval(secs => keep_s)
    WHERE key = k AND fence = n AND outcome IS NULL;
  ours := FOUND;
  IF NOT ours THEN
    SELECT outcome INTO stands FROM preheat_records WHERE key = k AND expires > clock_timestamp();
  END IF;
END $$;

CREATE OR REPLACE FUNCTION preheat_cancel_N(
    k text, n text, o bytea, keep_s float8, OUT ours boolean, OUT stands bytea
) LANGUAGE plpgsql AS $$
BEGIN
  UPDATE preheat_records SET outcome = o, fence = n, lease = '-infinity',
    expires = clock_timestamp() + make_interval(secs => keep_s)
    WHERE key = k AND outcome IS NULL AND (expires > clock_timestamp() OR lease > clock_timestamp());
  ours := FOUND;
  IF NOT ours THEN
    SELECT outcome INTO stands FROM preheat_records WHERE key = k AND expires > clock_timestamp();
  END IF;
END $$;

CREATE OR REPLACE FUNCTION preheat_release_N(k text, n text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM preheat_records WHERE key = k AND fence = n AND outcome IS NULL AND request = '';
  IF FOUND THEN
    RETURN true;
  END IF;
  UPDATE preheat_records SET lease = '-infinity' WHERE key = k AND fence = n AND outcome IS NULL;
  RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION preheat_read_N(k text)
RETURNS TABLE (fingerprint_is text, attempt_is int, left_s float8, body bytea, q bytea)
LANGUAGE sql AS $$
  SELECT fingerprint, attempt,
    CASE WHEN lease > clock_timestamp() THEN extract(epoch FROM lease - clock_timestamp())::float8 ELSE 0 END,
    outcome, request
  FROM preheat_records WHERE key = k AND (expires > clock_timestamp() OR lease > clock_timestamp())
$$;

CREATE OR REPLACE FUNCTION preheat_remove_N(k text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM preheat_records WHERE key = k AND outcome IS NOT NULL AND expires > clock_timestamp();
  RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION preheat_pending_N(most int) RETURNS TABLE (key_is text, fingerprint_is text)
LANGUAGE sql AS $$
  SELECT key, fingerprint FROM preheat_records
  WHERE outcome IS NULL AND request <> '' AND lease <= clock_timestamp() AND expires > clock_timestamp()
  ORDER BY lease LIMIT most
$$;

CREATE OR REPLACE FUNCTION preheat_purge_N(most int) RETURNS void LANGUAGE sql AS $$
  DELETE FROM preheat_records WHERE key IN (
    SELECT key FROM preheat_records WHERE expires <= clock_timestamp() AND lease <= clock_timestamp()
    LIMIT most FOR UPDATE SKIP LOCKED
  )
$$;
"""

BODIES = _BODIES.replace("_N(", f"_{SCHEMA}(")
