//! The shared library's name, and that it stays loaded.

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        // Threads leave the library through their thread-local destructors, and
        // code memory may call into it: unloading it has no safe moment.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libjita.so.0");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
