//! Defaults, warnings and refusals of `config.toml`.

use super::*;

fn parse(text: &str) -> Result<(Settings, Vec<String>), SettingsError> {
    Settings::parse(text, Path::new("config.toml"))
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let (settings, warnings) = parse("").unwrap();
    assert!(warnings.is_empty());
    assert_eq!(settings.socks_address().to_string(), "127.0.0.1:18200");
    assert_eq!(settings.http_address().unwrap().to_string(), "127.0.0.1:18201");
    assert_eq!(settings.runtime.health.interval_secs, 15);
    assert_eq!(settings.runtime.rotation.cooldown_secs, 300);
    assert_eq!(settings.desktop.notify.len(), 4);
}

#[test]
fn every_key_is_known() {
    fn leaves(prefix: &str, value: &toml::Value, out: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    leaves(&if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") }, value, out);
                }
            }
            _ => out.push(prefix.to_owned()),
        }
    }
    let mut settings = Settings::default();
    settings.runtime.socks.username = Some("u".into());
    settings.runtime.socks.password = Some(Secret::new("p"));
    settings.runtime.health.fallback_url = Some(GENERATE_204.into());
    settings.paths = EnginePaths { xray: Some("/x".into()), v2ray: Some("/v".into()) };
    let mut found = Vec::new();
    leaves("", &toml::Value::try_from(&settings).unwrap(), &mut found);
    found.sort();
    let mut known = KNOWN_KEYS.to_vec();
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn an_unknown_key_is_a_warning_that_names_the_nearest() {
    let (_, warnings) = parse("[runtime]\nengin = \"auto\"\n[runtime.sock]\nport = 1\n").unwrap();
    assert!(warnings[0].contains("`runtime.engin`") && warnings[0].contains("`runtime.engine`"), "{warnings:?}");
    assert!(warnings[1].contains("`runtime.socks`"), "{warnings:?}");
}

#[test]
fn a_server_section_is_accepted_with_a_warning() {
    let (_, warnings) = parse("[server]\nhost = \"127.0.0.1\"\nport = 8080\n").unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("no HTTP API"));
}

#[test]
fn wrong_values_name_key_and_way_out() {
    assert!(refused("[runtime.socks]\nport = 80\n").contains("runtime.socks.port"));
    assert!(refused("[runtime.socks]\nport = 0\n").contains("line 2"));
    assert!(refused("[runtime.socks]\nport = 18201\n").contains("choose two"));
    assert!(refused("[runtime.socks]\nhost = \"0.0.0.0\"\n").contains("allow_lan"));
    assert!(refused("[runtime.socks]\nusername = \"u\"\n").contains("go together"));
    assert!(refused("[runtime.health]\nurl = \"ftp://x\"\n").contains("runtime.health.url"));
    assert!(refused("[runtime.health]\ninterval_secs = 0\n").contains("at least 1"));
    assert!(refused("[runtime]\nengine = \"sing-box\"\n").contains("sing-box"));
}

#[test]
fn an_error_does_not_quote_the_password() {
    let message = refused("[runtime.socks]\npassword = hunter2secret\n");
    assert!(!message.contains("hunter2secret"), "{message}");
    assert!(message.contains("line 2"), "{message}");
}

#[test]
fn lan_needs_a_word() {
    parse("[runtime.socks]\nhost = \"0.0.0.0\"\nallow_lan = true\n").unwrap();
    parse("[runtime.socks]\nhost = \"0.0.0.0\"\nusername = \"u\"\npassword = \"p\"\n").unwrap();
}
