# What people do here; each recipe is one command that also works without just.

# List the recipes
default:
    @just --list

# Build the program
build:
    cargo build --release --locked

# Run the tests; arguments are a filter: just test relay
test *FILTER:
    scripts/test {{ FILTER }}

# Everything a change must pass
ci:
    .ci/run

# Format the sources
fmt:
    cargo fmt

# Lints, with warnings denied, and the promises about dependencies
lint:
    cargo clippy --all-targets --locked -- -D warnings
    scripts/check-deps

# Build and open the documentation of the rooms
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --open

# Measure what the README claims
bench:
    cargo bench --locked

# The tests with as many rounds as a night has time for, those with a GNOME Shell, and the Debian package
nightly:
    XRAT_NIGHTLY=1 scripts/test --include-ignored
    cargo deb --version >/dev/null 2>&1 || cargo install --locked cargo-deb
    scripts/deb

# Install for you alone, in ~/.local; PREFIX=/usr/local just install for everybody
install: build
    scripts/install

# Take that back; configs and settings stay
uninstall:
    scripts/install --uninstall

# Build the Debian package
deb:
    scripts/deb

# From nothing to traffic through a proxy of your own; --clean removes it
quickstart *ARGUMENTS:
    scripts/quickstart {{ ARGUMENTS }}
