//! Who of many configs is worth a test, and whom a connect means that names none.

use crate::config::ConfigId;
use crate::store::CandidateRow;

/// At most `most` candidates: three quarters the best by their last results, a quarter those not tested for longest.
pub(super) fn choose(mut rows: Vec<CandidateRow>, most: usize, random: u64) -> Vec<CandidateRow> {
    if rows.len() <= most {
        return rows;
    }
    rows.sort_by_key(merit);
    let mut rest = rows.split_off(most - most / 4);
    // Those never tested come first; who of equals is drawn is left to chance, or some would never be.
    rest.sort_by_key(|row| (row.tested_at, scatter(random, row.config_id)));
    rows.extend(rest.into_iter().take(most / 4));
    rows
}

/// Whom to connect to when nobody says: the one that was connected last, else the best by the last results.
pub(super) fn first(rows: &[CandidateRow], last: Option<ConfigId>) -> Option<ConfigId> {
    let best = || rows.iter().min_by_key(|row| merit(row)).map(|row| row.config_id);
    last.filter(|last| rows.iter().any(|row| row.config_id == *last)).or_else(best)
}

/// The fastest first, then those that failed least: what was never tested is before what failed.
fn merit(row: &CandidateRow) -> (bool, Option<u32>, u32, ConfigId) {
    (row.delay_ms.is_none(), row.delay_ms, row.failures, row.config_id)
}

fn scatter(random: u64, id: ConfigId) -> u64 {
    (random ^ id.0.unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}
