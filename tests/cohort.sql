-- A cohort in SQL, written by hand from docs/cohort.md for the tests. Names in braces are set by
-- each task; the rules and their order are not.
WITH dose AS (
  SELECT DISTINCT patient_id, date::DATE AS day FROM therapy
  WHERE regexp_matches(lower(drug), '{drugs}')
), record AS (
  SELECT patient_id, min(day) AS first_day FROM (
    SELECT patient_id, date::DATE AS day FROM therapy
    UNION ALL SELECT patient_id, date::DATE FROM echo
    UNION ALL SELECT patient_id, acquired_at::DATE FROM ecg WHERE acquired_at <> ''
  ) GROUP BY patient_id
), idx AS (
  SELECT d.patient_id, min(d.day) AS day0 FROM dose d JOIN record r USING (patient_id)
  WHERE {washout} IS NULL OR (
    r.first_day <= d.day - {washout} AND NOT EXISTS (
      SELECT 1 FROM dose e
      WHERE e.patient_id = d.patient_id AND e.day < d.day AND e.day >= d.day - {washout}))
  GROUP BY d.patient_id
), scan AS (
  SELECT patient_id, date_diff('day', day0, date::DATE) AS d,
    round({same_day}(lvef::DOUBLE), 6) AS f,
    round({same_day}(abs(nullif(gls, '')::DOUBLE)), 6) AS g
  FROM echo JOIN idx USING (patient_id) GROUP BY ALL
), base AS (
  SELECT patient_id, {keep_echo}(d, d) AS d, {keep_echo}(f, d) AS b, {keep_echo}(g, d) AS g0
  FROM scan WHERE d BETWEEN -365 AND {baseline_to} GROUP BY patient_id
), judged AS (
  SELECT s.patient_id, s.d, coalesce({meets}, false) AS meets
  FROM scan s JOIN base USING (patient_id) WHERE s.d > base.d
), event AS (
  SELECT j.patient_id, min(j.d) AS d FROM judged j
  WHERE j.meets AND j.d >= 1 AND ({confirm} IS NULL OR EXISTS (
    SELECT 1 FROM judged k WHERE k.patient_id = j.patient_id AND k.meets
      AND k.d > j.d AND k.d <= j.d + {confirm}))
  GROUP BY j.patient_id
), death AS (
  SELECT patient_id, date_diff('day', day0, died::DATE) AS d
  FROM followup JOIN idx USING (patient_id) WHERE died <> ''
), trace AS (
  SELECT patient_id, count(*) AS n, count(*) FILTER (status = 'ok') AS n_ok
  FROM ecg JOIN idx USING (patient_id) LEFT JOIN death USING (patient_id)
  WHERE acquired_at <> ''
    AND date_diff('day', day0, acquired_at::DATE) BETWEEN {ecg_from} AND {ecg_to}
    AND (death.d IS NULL OR date_diff('day', day0, acquired_at::DATE) < death.d)
  GROUP BY patient_id
), free AS (
  SELECT DISTINCT patient_id FROM judged WHERE NOT meets AND d >= 365
)
SELECT p.patient_id,
  CASE
    WHEN idx.day0 IS NULL THEN 'no_index'
    WHEN base.b IS NULL THEN 'no_baseline_echo'
    WHEN base.b < 50 THEN 'already_reduced'
    WHEN trace.n IS NULL THEN 'no_ecg'
    WHEN trace.n_ok = 0 THEN 'ecg_unusable'
    WHEN event.d <= {horizon} THEN 'positive'
    WHEN death.d BETWEEN 1 AND {horizon} THEN 'death_first'
    WHEN free.patient_id IS NOT NULL THEN 'negative'
    ELSE 'unknown_followup'
  END AS status, base.b AS baseline_lvef, event.d AS event_day
FROM (SELECT DISTINCT patient_id FROM therapy) p
LEFT JOIN idx USING (patient_id) LEFT JOIN base USING (patient_id)
LEFT JOIN event USING (patient_id) LEFT JOIN death USING (patient_id)
LEFT JOIN trace USING (patient_id) LEFT JOIN free USING (patient_id)
ORDER BY p.patient_id
