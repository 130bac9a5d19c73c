//! Who of many configs is worth a test.

use crate::config::ConfigId;
use crate::store::CandidateRow;

/// At most `most` candidates: three quarters the best by their last results, a quarter those not tested for longest.
pub(super) fn choose(mut rows: Vec<CandidateRow>, most: usize, random: u64) -> Vec<CandidateRow> {
    if rows.len() <= most {
        return rows;
    }
    rows.sort_by_key(|row| (row.delay_ms.is_none(), row.delay_ms, row.failures, row.config_id));
    let mut rest = rows.split_off(most - most / 4);
    // Those never tested come first; who of equals is drawn is left to chance, or some would never be.
    rest.sort_by_key(|row| (row.tested_at, scatter(random, row.config_id)));
    rows.extend(rest.into_iter().take(most / 4));
    rows
}

fn scatter(random: u64, id: ConfigId) -> u64 {
    (random ^ id.0.unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}
