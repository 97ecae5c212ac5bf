//! Starts the program again with the number of threads in its environment.
//!
//! candle 0.11 asks for the number of cores at every matrix product, and without `RAYON_NUM_THREADS` the answer is read
//! from `/proc/cpuinfo` each time: on a small model that is most of a token's time. A variable cannot be set safely in
//! a running program, so the program replaces itself once. Invariant: when that fails, everything still works, slower.

/// The variable that says how many threads there are.
pub const NAME: &str = "RAYON_NUM_THREADS";

/// Replaces the process by itself with `RAYON_NUM_THREADS` set, unless it is set already.
#[cfg(target_os = "linux")]
pub fn settle() {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(NAME).is_some() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // Returns only when the program could not be started again.
    let _stayed = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(NAME, cores.to_string())
        .exec();
}

/// Other systems answer from memory.
#[cfg(not(target_os = "linux"))]
pub fn settle() {}
