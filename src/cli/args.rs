//! Words of the command line as the argument parser wants them: what people type is wider than what it reads.

use std::ffi::OsString;

use super::error::CliError;

/// Everything after this word is taken as it is.
const END_OF_OPTIONS: &str = "--";
/// Standard input as a source. The parser would take it for an option.
const STANDARD_INPUT: &str = "-";

/// Splits `--option=value`, moves `--root DIR` to the front, a lone `-` behind `--`, and makes `-h` `--help`.
///
/// # Errors
/// When a word is not UTF-8.
pub(super) fn prepare(words: impl IntoIterator<Item = OsString>) -> Result<Vec<String>, CliError> {
    let mut words = words.into_iter().map(|word| word.into_string().map_err(|_| CliError::NotUtf8));
    let (mut front, mut middle, mut end) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(word) = words.next().transpose()? {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) if word.starts_with("--") => (option.to_owned(), Some(value.to_owned())),
            _ => (word, None),
        };
        match option.as_str() {
            END_OF_OPTIONS if value.is_none() => {
                for word in words.by_ref() {
                    end.push(word?);
                }
            }
            STANDARD_INPUT => end.push(option),
            "-h" => middle.push("--help".to_owned()),
            "--root" => {
                front.push(option);
                front.extend(match value {
                    Some(value) => Some(value),
                    None => words.next().transpose()?,
                });
            }
            _ => {
                middle.push(option);
                middle.extend(value);
            }
        }
    }
    front.append(&mut middle);
    if !end.is_empty() {
        front.push(END_OF_OPTIONS.to_owned());
        front.append(&mut end);
    }
    Ok(front)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn prepared(line: &str) -> String {
        prepare(line.split(' ').map(OsString::from)).unwrap().join(" ")
    }

    #[test]
    fn options_with_values_are_split_at_the_first_equals_sign() {
        assert_eq!(prepared("list --sort=name"), "list --sort name");
        assert_eq!(prepared("x --a=b=c vless://u@h:1?a=b"), "x --a b=c vless://u@h:1?a=b");
        assert_eq!(prepared("x -- --a=b --root"), "x -- --a=b --root");
    }

    #[test]
    fn the_root_may_stand_anywhere() {
        for line in ["--root /r list --json", "list --root /r --json", "list --json --root=/r"] {
            assert_eq!(prepared(line), "--root /r list --json");
        }
        assert_eq!(prepared("list --root"), "--root list", "the parser says that its value is missing");
    }

    #[test]
    fn standard_input_is_no_option() {
        assert_eq!(prepared("import - --verbose"), "import --verbose -- -");
        assert_eq!(prepared("import -- -"), "import -- -");
        assert_eq!(prepared("import -h"), "import --help");
    }
}
