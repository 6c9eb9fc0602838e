use std::process::ExitCode;

/// Small allocations of many sizes and one owner thread are what it is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    octroi::cli::run(std::env::args_os())
}
