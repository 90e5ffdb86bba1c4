//! Chance of the operating system, replaced: `HashMap`s get the same keys in every run, so that a walk from one seed is
//! the same walk wherever it is taken.

use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Stands for the C library's, which std and ring ask.
///
/// # Safety
/// As there: `buffer` is valid for writes of `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut random = fastrand::Rng::with_seed(number);
    // SAFETY: the caller's promise.
    random.fill(unsafe { std::slice::from_raw_parts_mut(buffer, length) });
    isize::try_from(length).unwrap_or(isize::MAX)
}
