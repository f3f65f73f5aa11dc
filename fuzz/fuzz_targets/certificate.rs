#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wicketgate_fuzz::targets::certificate::run(data));
