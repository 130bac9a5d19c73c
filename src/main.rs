//! The `xrat` program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Neither this process nor an engine it starts ever gains a privilege, whatever the mode bits of a binary say. It
    // fails on kernels before 3.5 only, where everything else works all the same.
    let _ = rustix::thread::set_no_new_privs(true);
    // No file that is made here is for others: not the database, not a log, not a socket.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    xrat::cli::run(std::env::args_os().skip(1))
}
