//! Notes which compiler this is, for records; builds the shim over asmjit, where
//! that is asked for.

use std::env;
use std::process::Command;

fn main() {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output();
    let version = version.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    println!("cargo::rustc-env=RUSTC_VERSION={}", version.unwrap_or_default());
    println!("cargo::rerun-if-changed=src/rival/asmjit.cpp");
    #[cfg(feature = "asmjit")]
    {
        cc::Build::new().cpp(true).std("c++17").file("src/rival/asmjit.cpp").compile("asmjit_shim");
        println!("cargo::rustc-link-lib=asmjit");
    }
}
