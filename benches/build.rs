//! Builds the shim over asmjit, where that is asked for.

fn main() {
    println!("cargo::rerun-if-changed=src/rival/asmjit.cpp");
    #[cfg(feature = "asmjit")]
    {
        cc::Build::new().cpp(true).std("c++17").file("src/rival/asmjit.cpp").compile("asmjit_shim");
        println!("cargo::rustc-link-lib=asmjit");
    }
}
