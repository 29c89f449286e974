//! Where the tracer knows neither the system nor the processor.

#![cfg(not(all(target_os = "linux", target_arch = "x86_64")))]

#[test]
fn w4_generated_code_is_looked_at_on_x86_64_linux_only() {
    println!("not run: generated code: the tracer knows Linux on x86-64 only");
}
