#![no_main]
#[path = "../targets/mod.rs"]
#[allow(dead_code, reason = "each entry has all the targets and runs one")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::proxy_protocol::run(data));
