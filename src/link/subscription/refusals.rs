//! What was refused: every line of it up to a bound, and all of it counted by reason.

use std::collections::BTreeMap;

use super::Place;
use crate::link::LinkError;

/// Something that was meant as a node and could not be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where it is.
    pub place: Place,
    /// Why, in one sentence without credentials.
    pub reason: LinkError,
}

/// So many are kept one by one; the rest is counted.
const KEPT: usize = 100_000;
/// So many reasons are told apart; only a hostile list has more.
const REASONS: usize = 200;
/// So many places are kept of each reason.
const PLACES: usize = 5;
/// What further reasons are counted as.
const OTHER: &str = "other reasons";

/// What a list had that could not be read. Takes at most some tens of megabytes, however long the list.
#[derive(Debug, Default)]
pub struct Refusals {
    total: usize,
    first: Vec<Refused>,
    reasons: BTreeMap<String, Reason>,
}

/// One reason with what it met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// The sentence, without what is different in each place.
    pub text: String,
    /// How often.
    pub count: usize,
    /// The first places.
    pub places: Vec<Place>,
}

impl Refusals {
    /// Adds one.
    pub fn push(&mut self, refused: Refused) {
        self.total += 1;
        let mut text = refused.reason.class();
        if self.reasons.len() >= REASONS && !self.reasons.contains_key(&text) {
            OTHER.clone_into(&mut text);
        }
        let reason = self.reasons.entry(text).or_default();
        reason.count += 1;
        if reason.places.len() < PLACES {
            reason.places.push(refused.place);
        }
        if self.first.len() < KEPT {
            self.first.push(refused);
        }
    }

    /// Why the only one was refused, or how many were.
    pub fn one_sentence(&self) -> String {
        match self.first.as_slice() {
            [one] if self.total == 1 => one.reason.to_string(),
            _ => format!("all {} lines were refused", self.total),
        }
    }

    /// How many there were.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The first 100,000 in their order.
    pub fn list(&self) -> &[Refused] {
        &self.first
    }

    /// The reasons, the most frequent first.
    pub fn reasons(&self) -> Vec<Reason> {
        let named = self.reasons.iter().map(|(text, reason)| Reason { text: text.clone(), ..reason.clone() });
        let mut reasons: Vec<_> = named.collect();
        reasons.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.places.cmp(&other.places)));
        reasons
    }
}
