//! Names of images: any text is one, or is not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skein_orchestration::validate::is_image_reference;

fuzz_target!(|text: &str| {
    if is_image_reference(text) {
        let is_of_names = |c: char| c.is_ascii_alphanumeric() || "._-/:@+[]".contains(c);
        assert!(text.chars().all(is_of_names), "{text:?}");
    }
});
