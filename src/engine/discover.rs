//! Which engines are installed, and what they are.

use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_io::Timer;
use futures::future::{Either, select};

use super::process::Process;
use super::{Engine, Family, parse_version};
use crate::settings::{EngineChoice, Settings};
use crate::store::Shared;

/// How long an engine may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// As much of its words is read.
const VERSION_OUTPUT: u64 = 4096;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// None is installed, or not the one the settings want.
    #[error(
        "no engine found: {} in PATH (the daemon's PATH may lack ~/.local/bin); {}, or name its file in config.toml: {}",
        nowhere(names),
        install_hint(),
        names.iter().map(|name| format!("paths.{name}")).collect::<Vec<_>>().join(" or ")
    )]
    Missing {
        /// What was looked for.
        names: Vec<&'static str>,
    },
    /// The file named in the settings is not there or cannot be executed.
    #[error("{key} in config.toml is {}, which is not an executable file", path.display())]
    NotExecutable {
        /// `paths.xray` or `paths.v2ray`.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// It runs and is no engine.
    #[error("{} does not say that it is Xray or V2Ray", .0.display())]
    NotAnEngine(PathBuf),
    /// It does not run.
    #[error("{} cannot be started: {source}", path.display())]
    NotStarted {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It hangs.
    #[error("{} did not say its version within {} s", .0.display(), VERSION_TIMEOUT.as_secs())]
    Silent(PathBuf),
}

/// That none of them is there.
fn nowhere(names: &[&str]) -> String {
    match names {
        [one] => format!("no {one}"),
        names => format!("neither {}", names.join(" nor ")),
    }
}

/// The way to an engine on this distribution.
fn install_hint() -> &'static str {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let like = |name: &str| {
        release.lines().any(|line| (line.starts_with("ID=") || line.starts_with("ID_LIKE=")) && line.contains(name))
    };
    if like("debian") || like("ubuntu") {
        "install one: sudo apt install v2ray"
    } else if like("arch") {
        "install one: sudo pacman -S xray (or v2ray)"
    } else if like("suse") {
        "install one: sudo zypper install v2ray"
    } else {
        "install Xray or V2Ray"
    }
}

/// The engines that the settings allow and this machine has, the preferred one first.
///
/// A version is asked for once: `store` remembers it as long as the file is the same.
///
/// # Errors
/// When there is none; or what is wrong with the only one.
pub async fn engines(settings: &Settings, store: &Shared) -> Result<Vec<Engine>, DiscoverError> {
    let families: &[Family] = match settings.runtime.engine {
        EngineChoice::Auto => &[Family::Xray, Family::V2ray],
        EngineChoice::Xray => &[Family::Xray],
        EngineChoice::V2ray => &[Family::V2ray],
    };
    let mut found = Vec::new();
    let mut trouble = None;
    for family in families {
        match locate(*family, settings) {
            Ok(Some(path)) => match examine(&path, store).await {
                Ok(engine) => found.push(engine),
                Err(error) => trouble = trouble.or(Some(error)),
            },
            Ok(None) => {}
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    match (found.is_empty(), trouble) {
        (false, trouble) => {
            if let Some(error) = trouble {
                tracing::warn!("{error}");
            }
            Ok(found)
        }
        (true, Some(error)) => Err(error),
        (true, None) => Err(DiscoverError::Missing { names: families.iter().map(|family| family.name()).collect() }),
    }
}

fn locate(family: Family, settings: &Settings) -> Result<Option<PathBuf>, DiscoverError> {
    let (key, configured) = match family {
        Family::Xray => ("paths.xray", &settings.paths.xray),
        Family::V2ray => ("paths.v2ray", &settings.paths.v2ray),
    };
    if let Some(path) = configured {
        return if is_executable(path) {
            Ok(Some(path.clone()))
        } else {
            Err(DiscoverError::NotExecutable { key, path: path.clone() })
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(family.name()))
        .find(|candidate| is_executable(candidate)))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

async fn examine(path: &Path, store: &Shared) -> Result<Engine, DiscoverError> {
    let not_started = |source| DiscoverError::NotStarted { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(not_started)?;
    let key = path.to_string_lossy().into_owned();
    let (size, mtime) = (metadata.size(), format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()));
    let cached = {
        let (key, mtime) = (key.clone(), mtime.clone());
        // A cache that cannot be read is one that has nothing.
        store.run(move |store| store.engine_output(&key, size, &mtime)).await.unwrap_or_default()
    };
    if let Some((family, version)) = cached.as_deref().and_then(parse_version) {
        return Ok(Engine { family, version, path: path.to_owned() });
    }
    // V2Ray 4 takes a bare `version` for nothing and starts; Xray and V2Ray 4 know `-version`, V2Ray 5 only `version`.
    for argument in ["-version", "version"] {
        let output = ask(path, argument).await?;
        if let Some((family, version)) = parse_version(&output) {
            if let Err(error) = store.run(move |store| store.set_engine_output(&key, size, &mtime, &output)).await {
                tracing::warn!("the engine's version is not remembered: {error}");
            }
            return Ok(Engine { family, version, path: path.to_owned() });
        }
    }
    Err(DiscoverError::NotAnEngine(path.to_owned()))
}

async fn ask(path: &Path, argument: &str) -> Result<String, DiscoverError> {
    let not_started = |source| DiscoverError::NotStarted { path: path.to_owned(), source };
    let memory = rustix::fs::memfd_create("version", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|error| not_started(error.into()))?;
    let mut output = std::fs::File::from(memory);
    let copy = output.try_clone().map_err(not_started)?;
    let process = Process::spawn(path, vec![OsString::from(argument)], copy).await.map_err(not_started)?;
    if let Either::Right(_) = select(std::pin::pin!(process.exited()), Timer::after(VERSION_TIMEOUT)).await {
        process.stop(Duration::ZERO).await;
        return Err(DiscoverError::Silent(path.to_owned()));
    }
    let mut text = Vec::new();
    output.seek(SeekFrom::Start(0)).map_err(not_started)?;
    output.take(VERSION_OUTPUT).read_to_end(&mut text).map_err(not_started)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
