//! The corpus of the fuzz targets, replayed: whatever a fuzzer found once stays found.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fuzz/src/lib.rs"]
mod checks;
mod lab;

use std::fs;

/// What must hold for an input.
type Check = fn(&[u8]);

/// Targets that are no scheme of links.
const OTHERS: &[(&str, Check)] =
    &[("subscription", checks::subscription), ("wire", checks::wire), ("settings", checks::settings)];

#[test]
fn the_corpus_holds() {
    let fuzz = lab::source_dir().join("fuzz");
    let targets = fs::read_dir(fuzz.join("fuzz_targets")).unwrap();
    for target in targets.map(|target| target.unwrap().path()) {
        let name = target.file_stem().unwrap().to_str().unwrap();
        let check = OTHERS.iter().find(|(other, _)| *other == name).map(|(_, check)| check);
        let mut inputs = 0;
        for input in fs::read_dir(fuzz.join("corpus").join(name)).unwrap() {
            let data = fs::read(input.unwrap().path()).unwrap();
            match check {
                Some(check) => check(&data),
                None => checks::link(name, &data),
            }
            inputs += 1;
        }
        assert!(inputs >= 5, "{name} has {inputs} inputs");
    }
}
